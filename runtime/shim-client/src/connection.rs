//! The connection: requests out, answers and levels in, the shim's end.
//!
//! One task reads for as long as the shim lives. It reconnects when the connection ends and the process
//! hasn't; it holds nothing that a caller waits on but the table of pending answers.

use std::{
    collections::HashMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use kernelet_shim::{
    protocol::{Answer, Call, ExecExit, Failure, Hello, Message, Request, VERSION},
    wire::{self, Outgoing, WireError},
};
use kernelet_sys::{process, socket};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{oneshot, watch},
};

use crate::{Liveness, Observed, ShimError, cleanup::line};

type Reply = Result<(Answer, Vec<OwnedFd>), Failure>;

/// What is shared by a shim's handles and its reading task.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: Mutex<Arc<AsyncFd<OwnedFd>>>,
    path: PathBuf,
    pub pidfd: AsyncFd<OwnedFd>,
    pub pid: i32,
    next: AtomicU64,
    waiting: Mutex<Waiting>,
    observed: watch::Sender<Observed>,
}

#[derive(Debug, Default)]
struct Waiting {
    answers: HashMap<u64, oneshot::Sender<Reply>>,
    execs: HashMap<u64, oneshot::Sender<ExecExit>>,
    /// Ends of execs that came before their caller asked.
    early: HashMap<u64, ExecExit>,
    /// No answer will come any more.
    over: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(
    deprecated,
    reason = "an OwnedFd stays what it is; the successor is unsafe for the sake of other types"
)]
fn async_fd(fd: OwnedFd, interest: Interest) -> Result<AsyncFd<OwnedFd>, ShimError> {
    AsyncFd::with_interest(fd, interest).map_err(ShimError::Socket)
}

/// A connection that has said hello.
pub(crate) struct Greeted {
    pub socket: AsyncFd<OwnedFd>,
    pub hello: Hello,
    pub pidfd: OwnedFd,
}

/// The first words on a new socket.
pub(crate) async fn greet(socket: OwnedFd) -> Result<Greeted, ShimError> {
    socket::set_nonblocking(socket.as_fd(), true).map_err(|source| ShimError::Prepare {
        step: "prepare the socket".into(),
        source,
    })?;
    let socket = async_fd(socket, Interest::READABLE | Interest::WRITABLE)?;
    let request = Request {
        id: 0,
        call: Call::Hello { version: VERSION },
    };
    let talk = async {
        send(&socket, &Outgoing::encode(&request).map_err(protocol)?, &[]).await?;
        loop {
            // Levels may come before the answer; the answer holds all of them.
            if let (Message::Reply { id: 0, result }, descriptors) = receive(&socket).await? {
                return result
                    .map(|answer| (answer, descriptors))
                    .map_err(ShimError::Refused);
            }
        }
    };
    let within = Duration::from_secs(10);
    let silent = |_| ShimError::Silent {
        call: "hello",
        seconds: within.as_secs(),
    };
    let (answer, descriptors) = tokio::time::timeout(within, talk).await.map_err(silent)??;
    match (answer, descriptors.into_iter().next()) {
        (Answer::Hello(hello), Some(pidfd)) => Ok(Greeted {
            socket,
            hello: *hello,
            pidfd,
        }),
        _ => Err(ShimError::Protocol(
            "hello was not answered by hello".into(),
        )),
    }
}

fn protocol(error: WireError) -> ShimError {
    ShimError::Protocol(line(&error))
}

async fn send(
    socket: &AsyncFd<OwnedFd>,
    packet: &Outgoing,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), ShimError> {
    loop {
        let mut guard = socket.writable().await.map_err(ShimError::Socket)?;
        match packet.send(socket.get_ref().as_fd(), descriptors) {
            Ok(()) => return Ok(()),
            Err(e) if e.would_block() => guard.clear_ready(),
            Err(WireError::Sys(e)) => return Err(ShimError::Socket(e.errno.into())),
            Err(e) => return Err(protocol(e)),
        }
    }
}

async fn receive(socket: &AsyncFd<OwnedFd>) -> Result<(Message, Vec<OwnedFd>), ShimError> {
    loop {
        let mut guard = socket.readable().await.map_err(ShimError::Socket)?;
        match wire::receive::<Message>(socket.get_ref().as_fd()) {
            Ok(Some(message)) => return Ok(message),
            Ok(None) => return Err(ShimError::Gone),
            Err(e) if e.would_block() => guard.clear_ready(),
            Err(WireError::Sys(e)) => return Err(ShimError::Socket(e.errno.into())),
            Err(e) => return Err(protocol(e)),
        }
    }
}

impl Connection {
    /// Takes over a greeted connection and starts to read.
    pub(crate) fn start(greeted: Greeted, path: PathBuf) -> Result<Arc<Self>, ShimError> {
        let state = greeted.hello.state;
        let (observed, _) = watch::channel(Observed {
            state,
            liveness: Liveness::Connected,
        });
        let connection = Arc::new(Connection {
            socket: Mutex::new(Arc::new(greeted.socket)),
            path,
            pidfd: async_fd(greeted.pidfd, Interest::READABLE)?,
            pid: greeted.hello.pid,
            next: AtomicU64::new(1),
            waiting: Mutex::default(),
            observed,
        });
        tokio::spawn(connection.clone().read());
        Ok(connection)
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Observed> {
        self.observed.subscribe()
    }

    /// A call and its answer, within the time given.
    pub(crate) async fn call(
        &self,
        name: &'static str,
        call: Call,
        descriptors: &[BorrowedFd<'_>],
        within: Duration,
    ) -> Result<(Answer, Vec<OwnedFd>), ShimError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let packet = Outgoing::encode(&Request { id, call }).map_err(protocol)?;
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = lock(&self.waiting);
            if waiting.over {
                return Err(ShimError::Gone);
            }
            waiting.answers.insert(id, sender);
        }
        let talk = async {
            let socket = lock(&self.socket).clone();
            match send(&socket, &packet, descriptors).await {
                // The reader learns the same and decides whether it is the shim's end.
                Err(ShimError::Socket(e)) if e.kind() == std::io::ErrorKind::BrokenPipe => {}
                other => other?,
            }
            receiver.await.map_err(|_| ShimError::Gone)
        };
        let answered = tokio::time::timeout(within, talk).await;
        lock(&self.waiting).answers.remove(&id);
        match answered {
            Err(_) => Err(ShimError::Silent {
                call: name,
                seconds: within.as_secs(),
            }),
            Ok(Err(e)) => Err(e),
            Ok(Ok(reply)) => reply.map_err(ShimError::Refused),
        }
    }

    /// Where the end of an exec will be told, or has been.
    pub(crate) fn exec_exit(&self, exec: u64) -> oneshot::Receiver<ExecExit> {
        let mut waiting = lock(&self.waiting);
        let early = waiting.early.remove(&exec);
        let (sender, receiver) = oneshot::channel();
        match early {
            Some(exit) => drop(sender.send(exit)),
            None if waiting.over => {}
            None => drop(waiting.execs.insert(exec, sender)),
        }
        receiver
    }

    async fn read(self: Arc<Self>) {
        loop {
            let socket = lock(&self.socket).clone();
            tokio::select! {
                // Both are safe to drop: readiness is kept by the descriptor.
                message = receive(&socket) => match message {
                    Ok((message, descriptors)) => self.take(message, descriptors),
                    Err(error) => {
                        if !self.reconnect(error).await {
                            break;
                        }
                    }
                },
                _ = self.pidfd.readable() => {
                    // What it said before it ended is still in the socket.
                    while let Ok(Some((message, descriptors))) = wire::receive(socket.get_ref().as_fd()) {
                        self.take(message, descriptors);
                    }
                    break;
                }
            }
        }
        // Ours to reap if this agent has spawned it; not otherwise.
        let _ = process::try_wait(self.pidfd.get_ref().as_fd());
        self.finish();
    }

    fn take(&self, message: Message, descriptors: Vec<OwnedFd>) {
        match message {
            Message::Reply { id, result } => {
                if let Some(sender) = lock(&self.waiting).answers.remove(&id) {
                    // A caller that no longer waits has dropped its end.
                    let _ = sender.send(result.map(|answer| (answer, descriptors)));
                }
            }
            Message::Container(state) => {
                self.observed
                    .send_modify(|o| drop(o.state.containers.insert(state.id.clone(), *state)));
            }
            Message::Removed(id) => self
                .observed
                .send_modify(|o| drop(o.state.containers.remove(&id))),
            Message::Sandbox(state) => self
                .observed
                .send_modify(|o| o.state.sandbox = Some(*state)),
            Message::ExecExited(exit) => {
                let mut waiting = lock(&self.waiting);
                match waiting.execs.remove(&exit.exec) {
                    Some(sender) => drop(sender.send(exit)),
                    None => drop(waiting.early.insert(exit.exec, exit)),
                }
            }
        }
    }

    /// The connection has ended while the shim may live: it cuts off who doesn't read, or who talks
    /// nonsense. Says whether there is a connection again.
    async fn reconnect(&self, why: ShimError) -> bool {
        let gone = tokio::time::timeout(Duration::from_millis(500), self.pidfd.readable());
        if gone.await.is_ok() {
            return false;
        }
        tracing::warn!(pid = self.pid, error = %line(&why), "the connection with a shim has ended");
        let fresh = match socket::connect(&self.path) {
            Ok(socket) => greet(socket).await,
            Err(e) => Err(ShimError::Socket(e.errno.into())),
        };
        match fresh {
            Ok(greeted) if greeted.hello.pid == self.pid => {
                *lock(&self.socket) = Arc::new(greeted.socket);
                self.fail_pending();
                self.observed.send_modify(|o| o.state = greeted.hello.state);
                true
            }
            // A shim that nobody can talk to is as good as dead, and must not linger half alive.
            _ => {
                let _ =
                    process::pidfd_send_signal(self.pidfd.get_ref().as_fd(), nix::libc::SIGKILL);
                let _ = tokio::time::timeout(Duration::from_secs(5), self.pidfd.readable()).await;
                false
            }
        }
    }

    fn fail_pending(&self) {
        let mut waiting = lock(&self.waiting);
        waiting.answers.clear();
        waiting.execs.clear();
        waiting.early.clear();
    }

    fn finish(&self) {
        lock(&self.waiting).over = true;
        // Dropped senders wake their receivers with "gone".
        self.fail_pending();
        self.observed.send_modify(|o| o.liveness = Liveness::Dead);
    }
}
