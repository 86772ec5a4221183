//! The files of one container run, read one after the other while the shim rotates them.
//!
//! ```text
//!   0.log.<time> ─► 0.log.<later time> ─► 0.log (written)
//! ```
//! Names move and inodes stay: the file being read is known by its inode, and so is the one after it. A file that has
//! a successor is written no more; it is read to its end once again before it is left, since its last lines may have
//! come after the end that was seen before.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::logs::{files, tail_start};

const CHUNK: usize = 32 << 10;
/// How often the folder is looked at again when it was changed under the look.
const LOOKS: usize = 100;

/// The file being read.
pub(super) struct Open {
    log: PathBuf,
    file: File,
    inode: u64,
    /// A line whose end isn't written yet.
    partial: Vec<u8>,
    /// It has a successor, so that the next end is the last one.
    closed: bool,
}

impl Open {
    /// At the first line that is wanted: with a tail that may be in a rotated file.
    pub fn begin(log: &Path, tail: Option<usize>) -> io::Result<Self> {
        let files = files(log);
        let mut wanted = tail.unwrap_or(usize::MAX);
        for (index, path) in files.iter().enumerate().rev() {
            let mut file = match File::open(path) {
                Ok(file) => file,
                // Nothing has been written yet, or it was rotated away just now.
                Err(e) if e.kind() == io::ErrorKind::NotFound && index > 0 => continue,
                Err(e) => return Err(e),
            };
            let (start, found) = match tail {
                None => (0, 0),
                Some(_) => tail_start(&mut file, wanted)?,
            };
            if index == 0 || (tail.is_some() && found >= wanted) {
                file.seek(SeekFrom::Start(start))?;
                let inode = file.metadata()?.ino();
                return Ok(Self {
                    log: log.to_owned(),
                    file,
                    inode,
                    partial: Vec::new(),
                    closed: false,
                });
            }
            if tail.is_some() {
                wanted -= found;
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    /// Reads complete lines; false at the end of the file.
    pub fn read_lines(&mut self, lines: &mut Vec<u8>) -> io::Result<bool> {
        let mut chunk = vec![0; CHUNK];
        loop {
            let n = self.file.read(&mut chunk)?;
            if n == 0 {
                return Ok(false);
            }
            self.partial.extend_from_slice(&chunk[..n]);
            if let Some(end) = self.partial.iter().rposition(|b| *b == b'\n') {
                lines.extend(self.partial.drain(..=end));
                return Ok(true);
            }
        }
    }

    /// At the end of the file: whether there is more to be read, in this file or now in the next one.
    pub fn go_on(&mut self) -> io::Result<bool> {
        for _ in 0..LOOKS {
            let Some((path, inode)) = self.successor()? else {
                return Ok(false);
            };
            if !self.closed {
                self.closed = true;
                return Ok(true);
            }
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            // A rotation between the looks has given the name to another file.
            let same = file.metadata()?.ino() == inode
                && self.successor()?.is_some_and(|(_, again)| again == inode);
            if same {
                (self.file, self.inode, self.closed) = (file, inode, false);
                self.partial.clear();
                return Ok(true);
            }
        }
        Err(io::Error::other(
            "the log is rotated faster than it can be read",
        ))
    }

    /// The file after this one, with its inode.
    fn successor(&self) -> io::Result<Option<(PathBuf, u64)>> {
        for _ in 0..LOOKS {
            let list: Vec<(PathBuf, u64)> = files(&self.log)
                .into_iter()
                .filter_map(|path| {
                    let inode = std::fs::metadata(&path).ok()?.ino();
                    Some((path, inode))
                })
                .collect();
            match list.iter().position(|(_, inode)| *inode == self.inode) {
                Some(own) => return Ok(list.get(own + 1).cloned()),
                // Deleted as the oldest: all that are left came after it.
                None if self.file.metadata()?.nlink() == 0 => return Ok(list.into_iter().next()),
                // Renamed while the folder was read.
                None => {}
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn drain(open: &mut Open, all: &mut Vec<u8>) {
        while open.read_lines(all).expect("reads") {}
    }

    fn read_all(log: &Path, tail: Option<usize>) -> String {
        let mut open = Open::begin(log, tail).expect("opens");
        let mut all = Vec::new();
        loop {
            drain(&mut open, &mut all);
            if !open.go_on().expect("goes on") {
                return String::from_utf8(all).expect("text");
            }
        }
    }

    #[test]
    fn rotated_files_are_read_in_order_and_the_tail_reaches_back_into_them() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = dir.path().join("0.log");
        std::fs::write(dir.path().join("0.log.20261121-080000"), "a\nb\n").expect("written");
        std::fs::write(dir.path().join("0.log.20261121-090000"), "c\nd\n").expect("written");
        std::fs::write(&log, "e\n").expect("written");
        assert_eq!(read_all(&log, None), "a\nb\nc\nd\ne\n");
        assert_eq!(read_all(&log, Some(1)), "e\n");
        assert_eq!(read_all(&log, Some(2)), "d\ne\n");
        assert_eq!(read_all(&log, Some(4)), "b\nc\nd\ne\n");
        assert_eq!(read_all(&log, Some(9)), "a\nb\nc\nd\ne\n");
        assert_eq!(read_all(&log, Some(0)), "");
    }

    /// What is read when the log is rotated so often between two looks, each file's last line coming after the end
    /// that was seen.
    fn followed(rotations: u32, pruned: u32) -> String {
        let dir = tempfile::tempdir().expect("a folder");
        let log = dir.path().join("0.log");
        std::fs::write(&log, "begin\n").expect("written");
        let mut open = Open::begin(&log, None).expect("opens");
        let mut all = Vec::new();
        drain(&mut open, &mut all);
        assert!(!open.go_on().expect("the same file"));
        let rotated = |n: u32| dir.path().join(format!("0.log.20261121-09000{n}"));
        for n in 0..rotations {
            let mut file = File::options().append(true).open(&log).expect("opens");
            writeln!(file, "last of {n}").expect("written");
            std::fs::rename(&log, rotated(n)).expect("renamed");
            std::fs::write(&log, format!("first of {}\n", n + 1)).expect("written");
        }
        for n in 0..pruned {
            std::fs::remove_file(rotated(n)).expect("removed");
        }
        loop {
            drain(&mut open, &mut all);
            if !open.go_on().expect("goes on") {
                return String::from_utf8(all).expect("text");
            }
        }
    }

    #[test]
    fn files_rotated_under_the_reader_are_read_to_their_ends_and_none_is_left_out() {
        assert_eq!(followed(0, 0), "begin\n");
        assert_eq!(followed(1, 0), "begin\nlast of 0\nfirst of 1\n");
        assert_eq!(
            followed(3, 0),
            "begin\nlast of 0\nfirst of 1\nlast of 1\nfirst of 2\nlast of 2\nfirst of 3\n"
        );
        // The file being read is still there for its reader; what was deleted before it could be opened is lost.
        assert_eq!(
            followed(3, 2),
            "begin\nlast of 0\nfirst of 2\nlast of 2\nfirst of 3\n"
        );
    }
}
