//! A layer on its way: written by its download, read by its unpacking while it grows. A broken download goes on where
//! the file ends.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt as _,
    sync::{Arc, Condvar, Mutex, PoisonError},
};

pub(super) struct Spool {
    file: File,
    /// What the layer must be, in bytes.
    pub size: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default)]
struct State {
    written: u64,
    failed: bool,
}

impl Spool {
    pub fn new(file: File, size: u64) -> Arc<Spool> {
        Arc::new(Spool {
            file,
            size,
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn written(&self) -> u64 {
        self.state().written
    }

    pub fn failed(&self) -> bool {
        self.state().failed
    }

    /// Only one writes.
    pub fn append(&self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.written())?;
        self.state().written += bytes.len() as u64;
        self.changed.notify_all();
        Ok(())
    }

    /// Nothing more will come: whoever reads beyond what is there gets an error.
    pub fn fail(&self) {
        self.state().failed = true;
        self.changed.notify_all();
    }
}

/// Ends a spool's readers when its download ends, however it does.
pub(super) struct EndOnDrop(pub Arc<Spool>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if self.0.written() < self.0.size {
            self.0.fail();
        }
    }
}

/// Reads what is there, and waits for the rest.
pub(super) struct SpoolReader {
    spool: Arc<Spool>,
    position: u64,
}

impl SpoolReader {
    pub fn new(spool: Arc<Spool>) -> SpoolReader {
        SpoolReader { spool, position: 0 }
    }
}

impl Read for SpoolReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let spool = &self.spool;
        let mut state = spool.state();
        while state.written <= self.position && self.position < spool.size {
            if state.failed {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "its download ended",
                ));
            }
            state = spool
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let there = state.written.saturating_sub(self.position);
        drop(state);
        let wanted = buffer
            .len()
            .min(usize::try_from(there).unwrap_or(usize::MAX));
        let read = spool.file.read_at(&mut buffer[..wanted], self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_follows_the_writer_and_hears_of_its_end() {
        let spool = Spool::new(tempfile::tempfile().unwrap(), 6);
        let mut reader = SpoolReader::new(spool.clone());
        let writer = spool.clone();
        let thread = std::thread::spawn(move || {
            let _end = EndOnDrop(writer.clone());
            writer.append(b"abc").unwrap();
            writer.append(b"def").unwrap();
        });
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "abcdef");
        thread.join().unwrap();
        assert!(!spool.failed());

        let spool = Spool::new(tempfile::tempfile().unwrap(), 6);
        spool.append(b"abc").unwrap();
        drop(EndOnDrop(spool.clone()));
        let mut buffer = [0; 3];
        let mut reader = SpoolReader::new(spool);
        reader.read_exact(&mut buffer).unwrap();
        assert_eq!(
            reader.read(&mut buffer).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }
}
