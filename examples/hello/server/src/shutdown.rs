//! SIGTERM and SIGINT: stop accepting, finish what is under way.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    sync::atomic::{AtomicBool, Ordering},
};

static REQUESTED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(_: libc::c_int) {
    // An atomic store is all that a signal handler may do here.
    REQUESTED.store(true, Ordering::Release);
}

/// As pid 1 of a container a signal without a handler would be ignored.
pub fn install() -> io::Result<()> {
    let handler = on_signal as extern "C" fn(libc::c_int);
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: sigaction is plain data; the handler is async-signal-safe. No SA_RESTART, so that a
        // waiting poll returns.
        let n = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as libc::sighandler_t;
            libc::sigaction(signal, &action, std::ptr::null_mut())
        };
        if n < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

pub fn requested() -> bool {
    REQUESTED.load(Ordering::Acquire)
}

/// The next connection; `None` when a signal came, or nobody for a while.
pub fn accept(listener: &TcpListener) -> io::Result<Option<(TcpStream, SocketAddr)>> {
    let mut fd = libc::pollfd {
        fd: listener.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid pollfd. The timeout covers a signal that came just before.
    match unsafe { libc::poll(&mut fd, 1, 200) } {
        1.. => listener.accept().map(Some),
        0 => Ok(None),
        _ => match io::Error::last_os_error() {
            e if e.kind() == io::ErrorKind::Interrupted => Ok(None),
            e => Err(e),
        },
    }
}
