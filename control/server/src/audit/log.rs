//! The file: a bounded queue, a thread that writes it, and rotation by size.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

/// So many lines wait for the disk, upstream's figure for its batches.
const QUEUE: usize = 10_000;
/// Written at once.
const BATCH_BYTES: usize = 64 * 1024;

/// Where the log is, and how much of it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    pub path: PathBuf,
    /// A file that has grown so large is renamed, and another begun.
    pub max_bytes: u64,
    /// So many renamed files are kept.
    pub max_files: usize,
}

impl LogFile {
    /// With upstream's 100 MiB a file, and few enough of them to fill no disk.
    pub fn new(path: PathBuf) -> LogFile {
        LogFile {
            path,
            max_bytes: 100 << 20,
            max_files: 3,
        }
    }
}

pub struct Writer {
    queue: Option<SyncSender<Vec<u8>>>,
    dropped: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub fn start(file: LogFile) -> io::Result<Writer> {
        let mut open = Open::new(file)?;
        let (queue, lines) = sync_channel(QUEUE);
        let thread = thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || open.run(&lines))?;
        Ok(Writer {
            queue: Some(queue),
            dropped: Arc::default(),
            thread: Some(thread),
        })
    }

    /// Queues a line, or drops it.
    pub fn write(&self, line: Vec<u8>) {
        let queued = self
            .queue
            .as_ref()
            .is_some_and(|queue| queue.try_send(line).is_ok());
        if queued {
            return;
        }
        let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
        if dropped % 1000 == 1 {
            tracing::warn!(dropped, "the audit log can't keep up, and drops events");
        }
    }

    #[cfg(test)]
    fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the audit log's thread panicked");
        }
    }
}

struct Open {
    to: LogFile,
    file: File,
    bytes: u64,
    failing: bool,
}

fn open(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

impl Open {
    fn new(to: LogFile) -> io::Result<Open> {
        let file = open(&to.path)?;
        let bytes = file.metadata()?.len();
        Ok(Open {
            to,
            file,
            bytes,
            failing: false,
        })
    }

    fn run(&mut self, lines: &Receiver<Vec<u8>>) {
        while let Ok(mut batch) = lines.recv() {
            while batch.len() < BATCH_BYTES
                && let Ok(line) = lines.try_recv()
            {
                batch.extend_from_slice(&line);
            }
            let written = self.append(&batch);
            if let Err(error) = &written
                && !self.failing
            {
                tracing::error!(path = %self.to.path.display(), %error, "writing the audit log");
            }
            self.failing = written.is_err();
        }
    }

    fn append(&mut self, batch: &[u8]) -> io::Result<()> {
        let length = batch.len() as u64;
        if self.bytes > 0 && self.bytes + length > self.to.max_bytes {
            self.rotate()?;
        }
        self.file.write_all(batch)?;
        self.bytes += length;
        Ok(())
    }

    /// `audit.log` becomes `audit.log.1`, that `audit.log.2`, and the last goes.
    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |number: usize| {
            let mut name = self.to.path.as_os_str().to_owned();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        let ignore_missing = |result: io::Result<()>| match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        if self.to.max_files == 0 {
            ignore_missing(fs::remove_file(&self.to.path))?;
        } else {
            for number in (1..self.to.max_files).rev() {
                ignore_missing(fs::rename(numbered(number), numbered(number + 1)))?;
            }
            ignore_missing(fs::rename(&self.to.path, numbered(1)))?;
        }
        self.file = open(&self.to.path)?;
        self.bytes = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_full_is_followed_by_another_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let mut open = Open::new(LogFile {
            path: path.clone(),
            max_bytes: 10,
            max_files: 2,
        })
        .unwrap();
        for line in ["aaaaaa\n", "bbbbbb\n", "cccccc\n", "dddddd\n"] {
            open.append(line.as_bytes()).unwrap();
        }
        let text = |suffix: &str| fs::read_to_string(format!("{}{suffix}", path.display())).ok();
        assert_eq!(text("").unwrap(), "dddddd\n");
        assert_eq!(text(".1").unwrap(), "cccccc\n");
        assert_eq!(text(".2").unwrap(), "bbbbbb\n");
        assert_eq!(text(".3"), None);
    }

    #[test]
    fn what_is_queued_is_written_before_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let writer = Writer::start(LogFile::new(path.clone())).unwrap();
        for _ in 0..500 {
            writer.write(b"line\n".to_vec());
        }
        let dropped = writer.dropped();
        drop(writer);
        let lines = fs::read_to_string(path).unwrap().lines().count() as u64;
        assert_eq!(lines + dropped, 500);
    }

    #[test]
    fn a_queue_that_is_full_drops_and_counts() {
        let (queue, _lines) = sync_channel(1);
        let writer = Writer {
            queue: Some(queue),
            dropped: Arc::default(),
            thread: None,
        };
        for _ in 0..3 {
            writer.write(Vec::new());
        }
        assert_eq!(writer.dropped(), 2);
    }
}
