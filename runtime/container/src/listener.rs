//! Who decides on system calls that a filter leaves to another process: gets the notification descriptor and
//! OCI's container process state, over a unix socket.

use std::{
    fmt,
    os::{
        fd::AsFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixStream},
    },
    path::{Path, PathBuf},
};

use kernelet_sys::{
    process::{self, Process},
    socket,
};

use crate::{CreateError, ErrorKind, error::During};

/// Where a seccomp agent listens, and what it is told of a process with this id.
pub struct Listener {
    pub path: PathBuf,
    pub message: Box<dyn Fn(i32) -> String>,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Takes the descriptor out of the process, which waits and may no more than write, and hands it on.
pub(crate) fn hand_over(
    process: &Process,
    number: i32,
    listener: Option<&Listener>,
) -> Result<(), CreateError> {
    let listener = listener.ok_or_else(|| {
        CreateError::new(
            ErrorKind::Invalid,
            "linux.seccomp.listenerPath: nobody would decide on calls with SCMP_ACT_NOTIFY",
        )
    })?;
    let descriptor = process::take_descriptor(process.pidfd.as_fd(), number)?;
    let agent = connect(&listener.path).during(|| {
        "failed to connect with seccomp agent specified in the seccomp profile".to_owned()
    })?;
    let message = (listener.message)(process.pid);
    socket::send(agent.as_fd(), message.as_bytes(), &[descriptor.as_fd()])
        .during(|| "hand the seccomp descriptor to the agent".to_owned())
}

fn connect(path: &Path) -> Result<UnixStream, kernelet_sys::SysError> {
    let text = path.to_string_lossy();
    let stream = match text.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name.as_bytes())
            .and_then(|address| UnixStream::connect_addr(&address)),
        None => UnixStream::connect(path),
    };
    stream.map_err(|e| kernelet_sys::SysError::io(format!("connect to {text}"), &e))
}
