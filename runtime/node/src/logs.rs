//! Container logs as the shim writes them (CRI's format), read back: by line, from the end, from a time, followed.
//!
//! `2026-11-21T09:01:26.123456789Z stdout F the text`; `P` instead of `F` is a part of a longer line.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use jiff::Timestamp;

/// What of a log is wanted: the query of `containerLogs`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogWish {
    pub follow: bool,
    pub timestamps: bool,
    pub tail_lines: Option<usize>,
    pub since: Option<Timestamp>,
    pub limit_bytes: Option<u64>,
    /// `Stdout`, `Stderr` or both.
    pub stream: Option<&'static str>,
}

/// One entry of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub time: &'a str,
    pub stream: &'a str,
    pub whole: bool,
    pub text: &'a [u8],
}

impl<'a> Entry<'a> {
    /// `None`: not an entry of ours (half written by a crash).
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let mut parts = line.splitn(4, |b| *b == b' ');
        let text = |bytes: &'a [u8]| std::str::from_utf8(bytes).ok();
        let (time, stream, tag) = (text(parts.next()?)?, text(parts.next()?)?, parts.next()?);
        if !matches!(stream, "stdout" | "stderr") {
            return None;
        }
        Some(Self {
            time,
            stream,
            whole: !tag.starts_with(b"P"),
            text: parts.next().unwrap_or_default(),
        })
    }

    fn is_before(&self, since: Timestamp) -> bool {
        self.time.parse::<Timestamp>().is_ok_and(|t| t < since)
    }
}

/// Renders entries to what the client sees, keeping to the wish.
#[derive(Debug)]
pub(crate) struct Renderer {
    wish: LogWish,
    left: Option<u64>,
    /// The last entry was a part: its line goes on without a new time.
    within: bool,
}

impl Renderer {
    pub fn new(wish: LogWish) -> Self {
        Self {
            left: wish.limit_bytes,
            wish,
            within: false,
        }
    }

    /// All has been given that the limit allows.
    pub fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    /// Appends complete lines of the file; what follows the last newline is left to the caller.
    pub fn render(&mut self, lines: &[u8], out: &mut Vec<u8>) {
        for line in lines.split_inclusive(|b| *b == b'\n') {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            let Some(entry) = Entry::parse(line) else {
                continue;
            };
            if self.wish.stream.is_some_and(|s| s != entry.stream)
                || self.wish.since.is_some_and(|since| entry.is_before(since))
            {
                continue;
            }
            let mut text = Vec::with_capacity(entry.text.len() + entry.time.len() + 2);
            if self.wish.timestamps && !self.within {
                text.extend_from_slice(entry.time.as_bytes());
                text.push(b' ');
            }
            text.extend_from_slice(entry.text);
            if entry.whole {
                text.push(b'\n');
            }
            self.within = !entry.whole;
            if let Some(left) = &mut self.left {
                let fits = usize::try_from(*left).unwrap_or(usize::MAX).min(text.len());
                text.truncate(fits);
                *left -= u64::try_from(fits).unwrap_or(u64::MAX);
            }
            out.extend_from_slice(&text);
            if self.is_full() {
                return;
            }
        }
    }
}

/// The files of one container run, oldest first: rotated ones carry a time behind their name.
pub(crate) fn files(log: &Path) -> Vec<PathBuf> {
    let mut rotated = Vec::new();
    if let (Some(dir), Some(name)) = (log.parent(), log.file_name().and_then(|n| n.to_str())) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let is_rotated = entry.file_name().to_str().is_some_and(|n| {
                n.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with('.'))
                    && !n.ends_with(".tmp")
            });
            if is_rotated {
                rotated.push(entry.path());
            }
        }
    }
    rotated.sort();
    rotated.push(log.to_path_buf());
    rotated
}

/// Where the last `lines` whole lines of the file begin; with fewer lines there, how many were found.
pub(crate) fn tail_start(file: &mut File, lines: usize) -> io::Result<(u64, usize)> {
    const BLOCK: u64 = 64 << 10;
    let len = file.metadata()?.len();
    if lines == 0 {
        return Ok((len, 0));
    }
    let mut position = len;
    let mut found = 0;
    let mut block = Vec::new();
    // The newline that ends the last line doesn't begin another.
    let mut first = true;
    while position > 0 {
        let size = position.min(BLOCK);
        position -= size;
        file.seek(SeekFrom::Start(position))?;
        block.clear();
        file.by_ref().take(size).read_to_end(&mut block)?;
        for (index, byte) in block.iter().enumerate().rev() {
            if *byte != b'\n' {
                first = false;
                continue;
            }
            let ends_file = first;
            first = false;
            if ends_file {
                continue;
            }
            found += 1;
            if found == lines {
                return Ok((position + u64::try_from(index).unwrap_or(0) + 1, found));
            }
        }
    }
    Ok((0, found + usize::from(len > 0)))
}

/// The end of a log as plain text, for a termination message.
pub(crate) fn tail_text(log: &Path, lines: usize, bytes: usize) -> io::Result<String> {
    let mut file = File::open(log)?;
    let (start, _) = tail_start(&mut file, lines)?;
    file.seek(SeekFrom::Start(start))?;
    let mut raw = Vec::new();
    // Entries carry some 45 bytes of head; what a limit of text needs is well within this.
    file.take(u64::try_from(bytes * 64).unwrap_or(u64::MAX))
        .read_to_end(&mut raw)?;
    let mut text = Vec::new();
    Renderer::new(LogWish::default()).render(&raw, &mut text);
    let from = text.len().saturating_sub(bytes);
    Ok(String::from_utf8_lossy(&text[from..]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-11-21T09:00:00.1Z stdout F one\n2026-11-21T09:00:01.1Z stderr F two\n\
        2026-11-21T09:00:02.1Z stdout P thr\n2026-11-21T09:00:02.2Z stdout F ee\nhalf";

    fn shown(wish: LogWish) -> String {
        let mut out = Vec::new();
        Renderer::new(wish).render(LOG.as_bytes(), &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn entries_become_lines_again() {
        let wish = LogWish::default;
        assert_eq!(shown(wish()), "one\ntwo\nthree\n");
        assert_eq!(
            shown(LogWish {
                stream: Some("stderr"),
                ..wish()
            }),
            "two\n"
        );
        let stamped = "2026-11-21T09:00:00.1Z one\n2026-11-21T09:00:01.1Z two\n2026-11-21T09:00:02.1Z three\n";
        assert_eq!(
            shown(LogWish {
                timestamps: true,
                ..wish()
            }),
            stamped
        );
        let since = "2026-11-21T09:00:01Z".parse().ok();
        assert_eq!(shown(LogWish { since, ..wish() }), "two\nthree\n");
        assert_eq!(
            shown(LogWish {
                limit_bytes: Some(6),
                ..wish()
            }),
            "one\ntw"
        );
    }

    #[test]
    fn the_tail_begins_at_the_right_line() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("0.log");
        std::fs::write(&path, "a\nb\nc\n").expect("written");
        let start =
            |lines| tail_start(&mut File::open(&path).expect("opens"), lines).expect("reads");
        assert_eq!(start(1), (4, 1));
        assert_eq!(start(2), (2, 2));
        assert_eq!(start(3), (0, 3));
        assert_eq!(start(9), (0, 3));
        assert_eq!(start(0), (6, 0));
        std::fs::write(dir.path().join("0.log.20261121-090000"), "").expect("written");
        std::fs::write(dir.path().join("0.log.20261121-080000"), "").expect("written");
        std::fs::write(dir.path().join("01.log"), "").expect("written");
        let names: Vec<_> = files(&path)
            .into_iter()
            .map(|p| p.file_name().map(|n| n.to_owned()))
            .collect();
        let texts: Vec<_> = names
            .iter()
            .flatten()
            .map(|n| n.to_str().unwrap_or("?"))
            .collect();
        assert_eq!(
            texts,
            ["0.log.20261121-080000", "0.log.20261121-090000", "0.log"]
        );
    }

    #[test]
    fn the_end_of_the_output_serves_as_a_message() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).expect("written");
        assert_eq!(
            tail_text(&path, 80, 2048).expect("reads"),
            "one\ntwo\nthree\n"
        );
        assert_eq!(tail_text(&path, 80, 4).expect("reads"), "ree\n");
    }
}
