//! The poll loop.

use std::{
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
    process::ExitCode,
    time::Instant,
};

use kernelet_spec::ContainerId;
use kernelet_sys::{SysError, process, socket};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::{
    pod::Pod,
    protocol::{Answer, Call, Failure, FailureKind, Hello, Message, Request, VERSION},
    record::Records,
    session::{Broken, Session, chain},
};

/// What the agent places, by number: the null device twice, the shim's own log, a bound socket to
/// listen at, the first connection, the folder for records, the folder for logs, a procfs.
pub const DESCRIPTORS: i32 = 8;

struct Server {
    pod: Pod,
    listener: OwnedFd,
    session: Option<Session>,
    hello: Hello,
    shutdown: bool,
}

/// What a readable descriptor belongs to.
#[derive(Clone, Debug)]
enum Source {
    Listener,
    Session,
    Init,
    Container(ContainerId),
    Log(ContainerId, usize),
    Tap(ContainerId, usize),
    Exec(u64),
    Capture(u64),
}

/// The shim's life.
pub fn run() -> ExitCode {
    let pod = std::env::args().nth(1).unwrap_or_default();
    match Server::new(pod).and_then(|server| server.serve()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("the shim ends: {}", chain(&e));
            ExitCode::FAILURE
        }
    }
}

impl Server {
    fn new(pod: String) -> Result<Self, SysError> {
        process::set_name(c"kernelet-shim");
        process::set_not_dumpable()?;
        // SAFETY: the agent has placed these for us, and nothing here has touched them before.
        let [listener, first, records, logs, proc] =
            [3, 4, 5, 6, 7].map(|number| unsafe { OwnedFd::from_raw_fd(number) });
        // They came through exec; from here on no child may inherit one.
        kernelet_sys::fd::close_on_exec_from(3)?;
        // From now on the agents to come see this process as their peer.
        socket::listen(listener.as_fd())?;
        socket::set_nonblocking(listener.as_fd(), true)?;
        let boot_id = kernelet_sys::fd::read_at(proc.as_fd(), "sys/kernel/random/boot_id")?
            .trim()
            .to_owned();
        let pid = std::process::id() as i32;
        let hello = Hello {
            version: VERSION,
            pod,
            pid,
            start_time: process::start_time(proc.as_fd(), pid)?,
            boot_id: boot_id.clone(),
            state: Default::default(),
        };
        Ok(Server {
            pod: Pod::new(Records::new(records, boot_id), logs, proc)?,
            listener,
            session: Some(Session::new(first)?),
            hello,
            shutdown: false,
        })
    }

    fn serve(mut self) -> Result<(), SysError> {
        loop {
            self.flush_outbox();
            if self.shutdown && self.session.as_ref().is_none_or(|s| !s.wants_to_write()) {
                return Ok(());
            }
            let ready = self.wait()?;
            self.pod.expire(Instant::now());
            for (source, flags) in ready {
                self.react(source, flags);
            }
        }
    }

    /// Everything that can happen, as descriptors; returns what has.
    fn wait(&self) -> Result<Vec<(Source, PollFlags)>, SysError> {
        let mut sources = Vec::new();
        let mut fds = Vec::new();
        let mut add = |source: Source, fd: BorrowedFd<'_>, flags: PollFlags| {
            sources.push(source);
            // SAFETY: the descriptors live in `self`, which is borrowed for as long as `fds`.
            fds.push(PollFd::new(
                unsafe { BorrowedFd::borrow_raw(std::os::fd::AsRawFd::as_raw_fd(&fd)) },
                flags,
            ));
        };
        let readable = PollFlags::POLLIN;
        // Output before ends: an end drains what is left of it anyway.
        for (id, container) in &self.pod.containers {
            for (index, pipe) in container.log.iter().flat_map(|log| log.pipes()) {
                add(Source::Log(id.clone(), index), pipe, readable);
            }
            for (index, pipe, waits) in container.log.iter().flat_map(|log| log.taps.pipes()) {
                let flags = if waits {
                    PollFlags::POLLOUT
                } else {
                    PollFlags::empty()
                };
                add(Source::Tap(id.clone(), index), pipe, flags);
            }
            if let Some(process) = &container.process {
                add(
                    Source::Container(id.clone()),
                    process.pidfd.as_fd(),
                    readable,
                );
            }
        }
        for (id, exec) in &self.pod.execs {
            if let Some(pipe) = exec.capture.as_ref().and_then(|capture| capture.fd()) {
                add(Source::Capture(*id), pipe, readable);
            }
            add(Source::Exec(*id), exec.process.pidfd.as_fd(), readable);
        }
        if let Some(sandbox) = &self.pod.sandbox
            && let Some(init) = sandbox.init.as_ref().filter(|_| !sandbox.init_exited)
        {
            add(Source::Init, init.pidfd.as_fd(), readable);
        }
        if let Some(session) = &self.session {
            let mut flags = readable;
            flags.set(PollFlags::POLLOUT, session.wants_to_write());
            add(Source::Session, session.fd(), flags);
        }
        add(Source::Listener, self.listener.as_fd(), readable);
        let now = Instant::now();
        let execs = self.pod.execs.values().filter_map(|exec| exec.left(now));
        let logs = self.pod.containers.values().flat_map(|c| &c.log);
        let next = execs.chain(logs.filter_map(|log| log.taps.left(now))).min();
        let timeout = match next {
            // Rounded up: a poll that ends just before the deadline would only spin.
            Some(left) => PollTimeout::try_from(left + std::time::Duration::from_millis(1))
                .unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
        };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(SysError::new("wait for events", e)),
        }
        let events = fds
            .iter()
            .map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        Ok(sources
            .into_iter()
            .zip(events)
            .filter(|(_, flags)| !flags.is_empty())
            .collect())
    }

    fn react(&mut self, source: Source, flags: PollFlags) {
        match source {
            Source::Listener => self.accept(),
            Source::Session => self.serve_session(flags),
            Source::Init => self.pod.reap_init(),
            Source::Container(id) => self.pod.reap_container(&id),
            Source::Exec(id) => self.pod.reap_exec(id),
            Source::Log(id, index) => {
                if let Some(log) = self
                    .pod
                    .containers
                    .get_mut(&id)
                    .and_then(|c| c.log.as_mut())
                {
                    // An index may have moved since the poll; the pipes don't block, so that is harmless.
                    log.read(index);
                }
            }
            Source::Tap(id, index) => {
                let container = self.pod.containers.get_mut(&id);
                if let Some(log) = container.and_then(|c| c.log.as_mut()) {
                    log.taps.react(index, flags.contains(PollFlags::POLLERR));
                }
            }
            Source::Capture(id) => {
                if let Some(capture) = self
                    .pod
                    .execs
                    .get_mut(&id)
                    .and_then(|exec| exec.capture.as_mut())
                {
                    capture.read();
                }
            }
        }
    }

    /// A new agent: root only. It takes the place of the former.
    fn accept(&mut self) {
        let connection = match socket::accept(self.listener.as_fd()) {
            Ok(connection) => connection,
            Err(_) => return,
        };
        match socket::peer(connection.as_fd()) {
            Ok(peer) if peer.uid() == 0 => {}
            Ok(peer) => return eprintln!("refused a connection of user {}", peer.uid()),
            Err(e) => return eprintln!("{}", chain(&e)),
        }
        self.end_session();
        match Session::new(connection) {
            Ok(session) => self.session = Some(session),
            Err(e) => eprintln!("{}", chain(&e)),
        }
    }

    fn end_session(&mut self) {
        if self.session.take().is_some() {
            self.pod.end_execs();
        }
    }

    fn serve_session(&mut self, flags: PollFlags) {
        let Some(session) = &mut self.session else {
            return;
        };
        if flags.contains(PollFlags::POLLOUT) && session.flush().is_err() {
            return self.end_session();
        }
        if !flags.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            return;
        }
        // One request a turn: output and ends of processes have theirs in between.
        match session.receive() {
            Ok(Some((request, descriptors))) => self.answer(request, descriptors),
            Ok(None) => {}
            Err(Broken) => self.end_session(),
        }
    }

    fn answer(&mut self, request: Request, descriptors: Vec<OwnedFd>) {
        if matches!(request.call, Call::Shutdown) {
            // Who has just seen the pod's cgroup empty is not refused for an end that waits beside its request.
            self.pod.reap();
        }
        let answered = match request.call {
            Call::Hello { version } => self.hello(version),
            Call::Shutdown if self.pod.is_alive() => Err(Failure {
                kind: FailureKind::Conflict,
                what: "processes of the pod are still running".into(),
                errno: None,
            }),
            Call::Shutdown => {
                self.shutdown = true;
                Ok((Answer::Done, Vec::new()))
            }
            call => self.pod.call(call, descriptors),
        };
        // The level before the answer: who has the answer has seen what it means.
        self.flush_outbox();
        let (result, descriptors) = match answered {
            Ok((answer, descriptors)) => (Ok(answer), descriptors),
            Err(failure) => (Err(failure), Vec::new()),
        };
        self.send(
            &Message::Reply {
                id: request.id,
                result,
            },
            descriptors,
        );
    }

    fn hello(&mut self, version: u16) -> crate::answer::Answered {
        if version != VERSION {
            return Err(Failure {
                kind: FailureKind::Version,
                what: format!("this shim speaks version {VERSION} of the protocol, not {version}"),
                errno: None,
            });
        }
        self.hello.state = self.pod.state();
        let pidfd = process::pidfd_open(self.hello.pid)?;
        Ok((Answer::Hello(Box::new(self.hello.clone())), vec![pidfd]))
    }

    fn flush_outbox(&mut self) {
        for message in std::mem::take(&mut self.pod.outbox) {
            self.send(&message, Vec::new());
        }
    }

    fn send(&mut self, message: &Message, descriptors: Vec<OwnedFd>) {
        if let Some(session) = &mut self.session
            && session.send(message, descriptors).is_err()
        {
            self.end_session();
        }
    }
}
