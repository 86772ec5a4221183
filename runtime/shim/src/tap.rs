//! Live copies of a container's output, for those who are attached to it.
//!
//! A client that reads more slowly than the container writes holds the container's stream back, so that nothing is
//! lost, as with other runtimes; but one that takes nothing for [`STALL`] is cut off, so that no client can stop a
//! container. What is kept for a client is one chunk, and at the container's end what was in its pipes.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use kernelet_sys::{SysError, socket};
use nix::errno::Errno;

/// So long a client may take nothing.
const STALL: Duration = Duration::from_secs(2);
/// Clients of one stream; who comes later is refused.
const CLIENTS: usize = 64;

#[derive(Debug)]
struct Tap {
    stream: &'static str,
    pipe: OwnedFd,
    pending: Vec<u8>,
    /// Since when the client has taken nothing of what is pending.
    since: Instant,
    /// The stream has ended; what is pending is the last.
    ended: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Taps(Vec<Tap>);

impl Taps {
    /// Copies of a stream go to this pipe from now on.
    pub(crate) fn add(&mut self, stream: &'static str, pipe: OwnedFd) -> Result<(), SysError> {
        if self.0.iter().filter(|tap| tap.stream == stream).count() >= CLIENTS {
            return Err(SysError::new("attach one more client", Errno::EUSERS));
        }
        socket::set_nonblocking(pipe.as_fd(), true)?;
        self.0.push(Tap {
            stream,
            pipe,
            pending: Vec::new(),
            since: Instant::now(),
            ended: false,
        });
        Ok(())
    }

    pub(crate) fn write(&mut self, stream: &str, bytes: &[u8]) {
        self.0.retain_mut(|tap| {
            if tap.stream != stream || tap.ended {
                return true;
            }
            if tap.pending.is_empty() {
                tap.since = Instant::now();
            }
            tap.pending.extend_from_slice(bytes);
            tap.flush()
        });
    }

    /// The stream brings no more.
    pub(crate) fn end(&mut self, stream: &str) {
        self.0.retain_mut(|tap| {
            tap.ended |= tap.stream == stream;
            !(tap.ended && tap.pending.is_empty())
        });
    }

    /// Whether a client holds the stream back.
    pub(crate) fn hold(&self, stream: &str) -> bool {
        self.0
            .iter()
            .any(|tap| tap.stream == stream && !tap.pending.is_empty())
    }

    /// What to poll, always for a client's end, and when it is `true` here for room in the pipe.
    pub(crate) fn pipes(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>, bool)> {
        let taps = self.0.iter().enumerate();
        taps.map(|(n, tap)| (n, tap.pipe.as_fd(), !tap.pending.is_empty()))
    }

    /// A pipe has room, or its client has gone.
    pub(crate) fn react(&mut self, index: usize, gone: bool) {
        // An index may have moved since the poll: then this one is only looked at once more.
        if let Some(tap) = self.0.get_mut(index)
            && (gone && tap.is_gone() || !tap.flush())
        {
            self.0.remove(index);
        }
    }

    pub(crate) fn left(&self, now: Instant) -> Option<Duration> {
        let waiting = self.0.iter().filter(|tap| !tap.pending.is_empty());
        waiting
            .map(|tap| (tap.since + STALL).saturating_duration_since(now))
            .min()
    }

    /// Cuts off who takes nothing.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.0
            .retain(|tap| tap.pending.is_empty() || tap.since + STALL > now);
    }
}

impl Tap {
    /// Says whether the client is still of use.
    fn flush(&mut self) -> bool {
        while !self.pending.is_empty() {
            match nix::unistd::write(&self.pipe, &self.pending) {
                Ok(n) => {
                    self.pending.drain(..n);
                    self.since = Instant::now();
                }
                Err(Errno::EAGAIN) => return true,
                Err(Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
        // An idle process keeps no buffer.
        self.pending = Vec::new();
        !self.ended
    }

    /// Nobody has the other end.
    fn is_gone(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut fds = [PollFd::new(self.pipe.as_fd(), PollFlags::empty())];
        let _ = poll(&mut fds, PollTimeout::ZERO);
        fds[0]
            .revents()
            .is_some_and(|flags| flags.contains(PollFlags::POLLERR))
    }
}

#[cfg(test)]
mod tests {
    use kernelet_sys::process;

    use super::*;

    fn read(pipe: &OwnedFd) -> Vec<u8> {
        let mut all = vec![0; 1 << 20];
        let n = nix::unistd::read(pipe, &mut all).expect("read");
        all.truncate(n);
        all
    }

    #[test]
    fn each_client_gets_its_streams_and_nothing_is_lost_while_it_reads() {
        let mut taps = Taps::default();
        let (out, write) = process::pipe().expect("a pipe");
        taps.add("stdout", write).expect("added");
        let (err, write) = process::pipe().expect("a pipe");
        taps.add("stderr", write).expect("added");
        taps.write("stdout", b"out");
        taps.write("stderr", b"err");
        assert_eq!((read(&out), read(&err)), (b"out".to_vec(), b"err".to_vec()));

        // More than a pipe takes: the stream is held back until it is read.
        let much = vec![b'x'; 100_000];
        taps.write("stdout", &much);
        assert!(taps.hold("stdout") && !taps.hold("stderr"));
        assert!(taps.left(Instant::now()).is_some_and(|left| left <= STALL));
        let first = read(&out);
        taps.react(0, false);
        assert!(!taps.hold("stdout"));
        assert_eq!(first.len() + read(&out).len(), much.len());

        // The end comes after what is pending.
        taps.write("stdout", &much);
        taps.end("stdout");
        let first = read(&out);
        taps.react(0, false);
        assert_eq!(first.len() + read(&out).len(), much.len());
        assert_eq!(read(&out), b"");
    }

    #[test]
    fn who_takes_nothing_is_cut_off_and_who_has_gone_is_forgotten() {
        let mut taps = Taps::default();
        let (deaf, write) = process::pipe().expect("a pipe");
        taps.add("stdout", write).expect("added");
        taps.write("stdout", &vec![b'x'; 100_000]);
        taps.expire(Instant::now());
        assert!(taps.hold("stdout"));
        taps.expire(Instant::now() + STALL);
        assert!(!taps.hold("stdout"));
        assert_eq!(taps.pipes().count(), 0);
        drop(deaf);

        let (gone, write) = process::pipe().expect("a pipe");
        taps.add("stdout", write).expect("added");
        taps.react(0, true);
        assert_eq!(taps.pipes().count(), 1, "it is there");
        drop(gone);
        taps.react(0, true);
        assert_eq!(taps.pipes().count(), 0);
    }

    #[test]
    fn clients_are_not_without_number() {
        let mut taps = Taps::default();
        let mut held = Vec::new();
        for _ in 0..CLIENTS {
            let (read, write) = process::pipe().expect("a pipe");
            held.push(read);
            taps.add("stdout", write).expect("added");
        }
        let (_read, write) = process::pipe().expect("a pipe");
        assert!(taps.add("stdout", write).is_err());
    }
}
