//! systemd's readiness protocol (sd_notify(3)) for what runs in a container: it gets a socket of its own, and what it
//! says there about being ready is passed on to who started the runtime.

use std::{
    ffi::OsString,
    fs,
    io::{IoSlice, Read},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            fs::{DirBuilderExt, PermissionsExt},
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{ControlMessage, MsgFlags, sendmsg},
};
use oci_spec::runtime::{MountBuilder, Spec};

use crate::{log, state::Folder};

/// How long the service manager may take to have read everything.
const BARRIER_WITHIN: Duration = Duration::from_secs(30);

/// A container's way to the service manager.
pub struct Notify {
    host: OsString,
    socket: PathBuf,
}

/// The socket, once it listens.
pub struct Listening {
    host: OsString,
    socket: UnixDatagram,
}

impl Notify {
    /// `None`: nobody wants to be told.
    pub fn of(folder: &Folder) -> Option<Notify> {
        let host = std::env::var_os("NOTIFY_SOCKET").filter(|host| !host.is_empty())?;
        Some(Notify {
            host,
            socket: folder.notify().join("notify.sock"),
        })
    }

    /// The container sees the socket's folder, and is told where.
    pub fn change(&self, spec: &mut Spec) -> Result<()> {
        let source = self.socket.parent().unwrap_or(Path::new("/"));
        let options = ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned);
        let mount = MountBuilder::default()
            .destination("/run/notify")
            .source(source)
            .typ("bind")
            .options(options)
            .build()?;
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        mounts.push(mount);
        spec.set_mounts(Some(mounts));
        if let Some(process) = spec.process_mut() {
            let mut env = process.env().clone().unwrap_or_default();
            env.push("NOTIFY_SOCKET=/run/notify/notify.sock".to_owned());
            process.set_env(Some(env));
        }
        Ok(())
    }

    pub fn make_folder(&self) -> Result<()> {
        let folder = self.socket.parent().unwrap_or(Path::new("/"));
        fs::DirBuilder::new()
            .mode(0o755)
            .create(folder)
            .with_context(|| format!("mkdir {}", folder.display()))
    }

    pub fn listen(self) -> Result<Listening> {
        let socket = UnixDatagram::bind(&self.socket)
            .and_then(|socket| {
                // Whoever the container's process is, it may write there.
                fs::set_permissions(&self.socket, fs::Permissions::from_mode(0o777))?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            })
            .with_context(|| format!("listen at {}", self.socket.display()))?;
        Ok(Listening {
            host: self.host,
            socket,
        })
    }
}

impl Listening {
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Waits for the container's word, or its end.
    pub fn wait(&self, pidfd: BorrowedFd<'_>, main_pid: i32) -> Result<()> {
        loop {
            let mut fds = [
                PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
                PollFd::new(pidfd, PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(e).context("wait for the container to be ready"),
            }
            let ended = fds[1].revents().is_some_and(|r| !r.is_empty());
            if self.take(main_pid)? || ended {
                return Ok(());
            }
        }
    }

    /// Reads what is there. True: it was ready, and the service manager knows.
    pub fn take(&self, main_pid: i32) -> Result<bool> {
        let mut buffer = [0_u8; 4096];
        while let Ok(n) = self.socket.recv(&mut buffer) {
            let line = ready_line(&buffer[..n]);
            if let Some(line) = line {
                self.tell(line, main_pid)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn tell(&self, ready: &[u8], main_pid: i32) -> Result<()> {
        let client = UnixDatagram::unbound().context("make a socket")?;
        let connected = match self.host.as_bytes() {
            [b'@', name @ ..] => {
                SocketAddr::from_abstract_name(name).and_then(|name| client.connect_addr(&name))
            }
            _ => client.connect(&self.host),
        };
        connected.with_context(|| format!("connect to {}", Path::new(&self.host).display()))?;
        client
            .send(&[ready, b"\n"].concat())
            .context("tell the service manager")?;
        client
            .send(format!("MAINPID={main_pid}\n").as_bytes())
            .context("tell the service manager")?;
        barrier(&client)
    }
}

/// The line that says it, if the message begins with that: what else is in it is nobody's business here.
fn ready_line(message: &[u8]) -> Option<&[u8]> {
    message
        .split(|b| *b == b'\n')
        .find(|line| line.starts_with(b"READY="))
}

/// Waits until everything sent before was read (sd_notify_barrier(3)): who ends right after sending isn't known any more.
fn barrier(client: &UnixDatagram) -> Result<()> {
    let (read, write): (OwnedFd, OwnedFd) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).context("make a pipe")?;
    let fds = [write.as_raw_fd()];
    sendmsg::<()>(
        client.as_raw_fd(),
        &[IoSlice::new(b"BARRIER=1")],
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .context("tell the service manager")?;
    drop(write);
    let timeout = PollTimeout::try_from(BARRIER_WITHIN).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(read.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, timeout) {
        Ok(0) => {
            log::warn("Timeout after waiting 30s for barrier. Ignored.");
            return Ok(());
        }
        Ok(_) => {}
        Err(e) => return Err(e).context("wait for the service manager"),
    }
    let mut byte = [0_u8; 1];
    match fs::File::from(read).read(&mut byte) {
        Ok(0) => Ok(()),
        _ => anyhow::bail!("unexpected read from synchronization pipe"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_readiness_is_passed_on() {
        assert_eq!(ready_line(b"READY=1"), Some(&b"READY=1"[..]));
        assert_eq!(
            ready_line(b"STATUS=up\nREADY=1\nMAINPID=7"),
            Some(&b"READY=1"[..])
        );
        assert_eq!(ready_line(b"STATUS=READY=1"), None);
    }
}
