//! A container's output in CRI's log format, and its rotation.
//!
//! ```text
//! 2016-10-06T00:17:09.669794202Z stdout P the beginning of a long line
//! 2016-10-06T00:17:09.669794203Z stdout F its end
//! ```
//! Writing never stops the container or the reaping of it: what the disk doesn't take is dropped and
//! counted, and a marker line says so when there is space again. The file is renamed when it has
//! grown; readers follow by inode.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::SystemTime,
};

use kernelet_spec::LogPlan;
use kernelet_sys::{SysError, fd, process, socket};
use nix::{errno::Errno, fcntl::OFlag};

use crate::{tap::Taps, time};

/// Longer lines are split into parts, as in other CRI runtimes.
const LINE: usize = 16 << 10;
/// What is read at once, so that no container's output keeps the others waiting.
const CHUNK: usize = 16 << 10;

/// A container's two streams and the file they go to.
#[derive(Debug)]
pub(crate) struct Log {
    file: LogFile,
    streams: Vec<Stream>,
    pub taps: Taps,
}

#[derive(Debug)]
struct Stream {
    name: &'static str,
    pipe: OwnedFd,
    /// The beginning of a line whose end hasn't come yet.
    pending: Vec<u8>,
}

/// Whether a pipe can bring more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Some,
    Nothing,
    Closed,
}

impl Log {
    /// Makes the file (and folders up to it) and the pipes. Returns the ends that the container gets.
    pub(crate) fn create(
        dir: BorrowedFd<'_>,
        plan: &LogPlan,
    ) -> Result<(Log, [OwnedFd; 2]), SysError> {
        let file = LogFile::open(dir, plan)?;
        let mut streams = Vec::new();
        let mut ends = Vec::new();
        for name in ["stdout", "stderr"] {
            let (read, write) = process::pipe()?;
            socket::set_nonblocking(read.as_fd(), true)?;
            streams.push(Stream {
                name,
                pipe: read,
                pending: Vec::new(),
            });
            ends.push(write);
        }
        let ends: [OwnedFd; 2] = ends.try_into().expect("two streams make two ends");
        let taps = Taps::default();
        let log = Log {
            file,
            streams,
            taps,
        };
        Ok((log, ends))
    }

    /// The same for a terminal: both streams are one there, and it is called stdout.
    pub(crate) fn of_terminal(
        dir: BorrowedFd<'_>,
        plan: &LogPlan,
        control: OwnedFd,
    ) -> Result<Log, SysError> {
        socket::set_nonblocking(control.as_fd(), true)?;
        let stream = Stream {
            name: "stdout",
            pipe: control,
            pending: Vec::new(),
        };
        Ok(Log {
            file: LogFile::open(dir, plan)?,
            streams: vec![stream],
            taps: Taps::default(),
        })
    }

    /// What to poll: the index is for [`Log::read`]. Not what a client holds back.
    pub(crate) fn pipes(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        self.streams
            .iter()
            .enumerate()
            .filter(|(_, stream)| !self.taps.hold(stream.name))
            .map(|(index, stream)| (index, stream.pipe.as_fd()))
    }

    /// Copies of a stream go to this pipe, too, from now on. Of one that has ended: its end.
    pub(crate) fn attach(&mut self, stream: &'static str, pipe: OwnedFd) -> Result<(), SysError> {
        match self.streams.iter().any(|own| own.name == stream) {
            true => self.taps.add(stream, pipe),
            false => Ok(()),
        }
    }

    /// The container has ended: who is attached gets what is left, and the end.
    pub(crate) fn detach(&mut self) {
        for stream in ["stdout", "stderr"] {
            self.taps.end(stream);
        }
    }

    /// Takes one chunk of a stream to the file.
    pub(crate) fn read(&mut self, index: usize) -> Read {
        let Some(stream) = self.streams.get_mut(index) else {
            return Read::Nothing;
        };
        let mut chunk = [0_u8; CHUNK];
        match nix::unistd::read(&stream.pipe, &mut chunk) {
            Ok(0) => {
                self.finish(index);
                Read::Closed
            }
            Ok(n) => {
                self.taps.write(stream.name, &chunk[..n]);
                let (out, lines) = stream.format(&chunk[..n]);
                self.file.append(&out, lines);
                Read::Some
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Read::Nothing,
            // EIO is a terminal's way to say that nobody has its other end. Kept open, the poll would spin.
            Err(_) => {
                self.finish(index);
                Read::Closed
            }
        }
    }

    /// A stream has ended, perhaps in the middle of a line.
    fn finish(&mut self, index: usize) {
        let stream = self.streams.remove(index);
        self.taps.end(stream.name);
        if !stream.pending.is_empty() {
            let mut out = Vec::new();
            push_line(&mut out, stream.name, 'F', &stream.pending);
            self.file.append(&out, 1);
        }
    }

    /// Takes what is in the pipes now. Bounded: who still holds an end may write for ever.
    pub(crate) fn drain(&mut self) {
        for _ in 0..256 {
            let mut index = 0;
            let mut any = false;
            while index < self.streams.len() {
                match self.read(index) {
                    Read::Some => {
                        any = true;
                        index += 1;
                    }
                    Read::Nothing => index += 1,
                    Read::Closed => {}
                }
            }
            if !any {
                return;
            }
        }
    }

    pub(crate) fn dropped_lines(&self) -> u64 {
        self.file.dropped
    }
}

impl Stream {
    /// The lines that a chunk completes, in the log's format.
    fn format(&mut self, chunk: &[u8]) -> (Vec<u8>, u64) {
        let mut out = Vec::with_capacity(chunk.len() + 64);
        let mut lines = 0;
        for part in chunk.split_inclusive(|b| *b == b'\n') {
            let (content, ended) = match part.split_last() {
                Some((b'\n', content)) => (content, true),
                _ => (part, false),
            };
            self.pending.extend_from_slice(content);
            while self.pending.len() > LINE {
                let rest = self.pending.split_off(LINE);
                push_line(&mut out, self.name, 'P', &self.pending);
                self.pending = rest;
                lines += 1;
            }
            if ended {
                push_line(&mut out, self.name, 'F', &self.pending);
                self.pending.clear();
                lines += 1;
            }
        }
        if self.pending.capacity() > LINE && self.pending.is_empty() {
            self.pending = Vec::new();
        }
        (out, lines)
    }
}

fn push_line(out: &mut Vec<u8>, stream: &str, tag: char, content: &[u8]) {
    out.extend(time::rfc3339_nano(SystemTime::now()).as_bytes());
    out.extend(format!(" {stream} {tag} ").as_bytes());
    out.extend(content);
    out.push(b'\n');
}

#[derive(Debug)]
struct LogFile {
    dir: OwnedFd,
    name: String,
    file: File,
    size: u64,
    max_bytes: u64,
    max_files: u32,
    /// In all.
    dropped: u64,
    /// Since the last line that was written, and why.
    dropped_now: u64,
    reason: Option<Errno>,
    /// Renamed, but its successor could not be made yet.
    needs_reopen: bool,
    /// The name of the last rotation, and how many there were in its second.
    rotated: String,
    rotated_in_second: u32,
}

impl LogFile {
    fn open(base: BorrowedFd<'_>, plan: &LogPlan) -> Result<Self, SysError> {
        let parent = plan.path.parent().filter(|p| !p.as_os_str().is_empty());
        // The log folder is the agent's and root's alone; the walk keeps a mistake inside it anyway.
        let dir = kernelet_sys::root::folder(
            base,
            parent.unwrap_or(Path::new("/")),
            kernelet_sys::root::Symlinks::Refused,
        )?;
        let name = plan
            .path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or("0.log")
            .to_owned();
        let file = open_file(dir.as_fd(), &name)?;
        let size = file.metadata().map(|m| m.len()).unwrap_or(0);
        Ok(LogFile {
            dir,
            name,
            file,
            size,
            max_bytes: plan.max_bytes,
            max_files: plan.max_files,
            dropped: 0,
            dropped_now: 0,
            reason: None,
            needs_reopen: false,
            rotated: String::new(),
            rotated_in_second: 0,
        })
    }

    fn append(&mut self, out: &[u8], lines: u64) {
        if out.is_empty() {
            return;
        }
        if self.needs_reopen {
            self.reopen();
        }
        if self.size > 0 && self.max_bytes > 0 && self.size + out.len() as u64 > self.max_bytes {
            self.rotate();
        }
        let result = match self.dropped_now {
            0 => self.write(out),
            n => {
                let why = self.reason.map_or("an error", Errno::desc);
                let mut all = Vec::with_capacity(out.len() + 128);
                let text = format!("kernelet: {n} lines of this log were dropped: {why}");
                push_line(&mut all, "stderr", 'F', text.as_bytes());
                all.extend(out);
                self.write(&all)
            }
        };
        match result {
            Ok(()) => self.dropped_now = 0,
            Err(e) => {
                self.dropped += lines;
                self.dropped_now += lines;
                self.reason = e.raw_os_error().map(Errno::from_raw);
            }
        }
    }

    /// All of it or nothing: a part that fitted before the disk was full is taken back.
    fn write(&mut self, out: &[u8]) -> io::Result<()> {
        match self.file.write_all(out) {
            Ok(()) => {
                self.size += out.len() as u64;
                Ok(())
            }
            Err(e) => {
                let _ = self.file.set_len(self.size);
                Err(e)
            }
        }
    }

    fn rotate(&mut self) {
        let base = format!("{}.{}", self.name, time::compact(SystemTime::now()));
        // Several within a second must not replace each other, and must stay in order when the first
        // of them has been deleted already.
        let first = match self.rotated == base {
            true => self.rotated_in_second + 1,
            false => 0,
        };
        let names = (first..first + 1000).map(|n| match n {
            0 => (n, base.clone()),
            n => (n, format!("{base}.{n:03}")),
        });
        for (n, target) in names {
            let flags = nix::fcntl::RenameFlags::RENAME_NOREPLACE;
            match nix::fcntl::renameat2(
                &self.dir,
                self.name.as_str(),
                &self.dir,
                target.as_str(),
                flags,
            ) {
                Ok(()) => {
                    (self.rotated, self.rotated_in_second) = (base, n);
                    self.reopen();
                    self.delete_old();
                    return;
                }
                Err(Errno::EEXIST) => {}
                // Somebody took the file away: a new one is made. Else the old one just grows.
                Err(Errno::ENOENT) => return self.reopen(),
                Err(_) => return,
            }
        }
    }

    fn reopen(&mut self) {
        match open_file(self.dir.as_fd(), &self.name) {
            Ok(file) => {
                self.size = file.metadata().map(|m| m.len()).unwrap_or(0);
                self.file = file;
                self.needs_reopen = false;
            }
            Err(_) => self.needs_reopen = true,
        }
    }

    fn delete_old(&self) {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let Ok(mut dir) =
            nix::dir::Dir::openat(&self.dir, ".", flags, nix::sys::stat::Mode::empty())
        else {
            return;
        };
        let prefix = format!("{}.", self.name);
        let names = dir
            .iter()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
        let mut old: Vec<String> = names.filter(|name| name.starts_with(&prefix)).collect();
        old.sort_unstable();
        let keep = self.max_files.saturating_sub(1) as usize;
        let surplus = old.len().saturating_sub(keep);
        for name in &old[..surplus] {
            let _ = nix::unistd::unlinkat(
                &self.dir,
                name.as_str(),
                nix::unistd::UnlinkatFlags::NoRemoveDir,
            );
        }
    }
}

fn open_file(dir: BorrowedFd<'_>, name: &str) -> Result<File, SysError> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_APPEND | OFlag::O_NOFOLLOW;
    Ok(File::from(fd::open_at(dir, name, flags, 0o640)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(std::path::PathBuf, OwnedFd);

    impl Folder {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("kernelet-log-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(&path).unwrap();
            let fd = fd::open(&path, OFlag::O_PATH | OFlag::O_DIRECTORY, 0).unwrap();
            Folder(path, fd)
        }

        fn text(&self, name: &str) -> String {
            std::fs::read_to_string(self.0.join(name)).unwrap()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn plan(max_bytes: u64, max_files: u32) -> LogPlan {
        LogPlan {
            path: "app/0.log".into(),
            max_bytes,
            max_files,
        }
    }

    /// Lines without their times: `(stream, tag, content)`.
    fn parse(text: &str) -> Vec<(String, String, String)> {
        text.lines()
            .map(|line| {
                let parts: Vec<&str> = line.splitn(4, ' ').collect();
                assert_eq!(parts[0].len(), 30, "a time with nanoseconds: {}", parts[0]);
                (
                    parts[1].to_owned(),
                    parts[2].to_owned(),
                    parts[3].to_owned(),
                )
            })
            .collect()
    }

    #[test]
    fn long_lines_are_split_and_an_unfinished_one_is_kept() {
        let folder = Folder::new("split");
        let (mut log, [out, err]) = Log::create(folder.1.as_fd(), &plan(1 << 20, 2)).unwrap();
        nix::unistd::write(&out, b"hello\nwor").unwrap();
        nix::unistd::write(&out, b"ld\n\n").unwrap();
        nix::unistd::write(&err, &[b'x'; LINE + 5]).unwrap();
        drop((out, err));
        log.drain();
        assert_eq!(log.pipes().count(), 0, "both ends are closed");
        let lines = parse(&folder.text("app/0.log"));
        let own = |stream: &str| -> Vec<(String, String)> {
            lines
                .iter()
                .filter(|l| l.0 == stream)
                .map(|l| (l.1.clone(), l.2.clone()))
                .collect()
        };
        let expected =
            [("F", "hello"), ("F", "world"), ("F", "")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(own("stdout"), expected);
        let long = own("stderr");
        assert_eq!(long[0], ("P".to_owned(), "x".repeat(LINE)));
        assert_eq!(long[1], ("F".to_owned(), "xxxxx".to_owned()));
    }

    #[test]
    fn a_full_file_is_renamed_and_only_so_many_are_kept() {
        let folder = Folder::new("rotate");
        let (mut log, [out, _err]) = Log::create(folder.1.as_fd(), &plan(200, 3)).unwrap();
        for n in 0..40 {
            nix::unistd::write(&out, format!("line {n:04} {}\n", "y".repeat(50)).as_bytes())
                .unwrap();
            log.drain();
        }
        let mut names: Vec<String> = std::fs::read_dir(folder.0.join("app"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), 3, "{names:?}");
        // The kept ones hold the newest lines, in order, without a gap.
        names.rotate_left(1);
        let all: String = names
            .iter()
            .map(|name| folder.text(&format!("app/{name}")))
            .collect();
        let numbers: Vec<u32> = parse(&all)
            .iter()
            .map(|l| l.2[5..9].parse().unwrap())
            .collect();
        assert_eq!(numbers.last(), Some(&39));
        assert!(numbers.windows(2).all(|w| w[1] == w[0] + 1), "{numbers:?}");
    }

    #[test]
    fn what_the_disk_does_not_take_is_counted_and_marked() {
        let folder = Folder::new("full");
        let (mut log, [out, _err]) = Log::create(folder.1.as_fd(), &plan(1 << 20, 2)).unwrap();
        // A disk that is full, without filling one.
        let full = File::options().write(true).open("/dev/full").unwrap();
        let good = std::mem::replace(&mut log.file.file, full);
        nix::unistd::write(&out, b"lost 1\nlost 2\n").unwrap();
        log.drain();
        assert_eq!(log.dropped_lines(), 2);
        log.file.file = good;
        nix::unistd::write(&out, b"kept\n").unwrap();
        log.drain();
        let contents: Vec<String> = parse(&folder.text("app/0.log"))
            .into_iter()
            .map(|l| l.2)
            .collect();
        assert_eq!(
            contents[0],
            "kernelet: 2 lines of this log were dropped: No space left on device"
        );
        assert_eq!(contents[1], "kept");
    }
}
