//! The error of every call here: what was attempted, and the kernel's answer.

use std::borrow::Cow;

use nix::errno::Errno;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{attempted}")]
pub struct SysError {
    pub attempted: Cow<'static, str>,
    #[source]
    pub errno: Errno,
}

impl SysError {
    pub fn new(attempted: impl Into<Cow<'static, str>>, errno: Errno) -> Self {
        SysError {
            attempted: attempted.into(),
            errno,
        }
    }

    /// The error of the call just made.
    pub fn last(attempted: impl Into<Cow<'static, str>>) -> Self {
        Self::new(attempted, Errno::last())
    }

    /// An `io::Error` that came from the kernel; anything else counts as EIO.
    pub fn io(attempted: impl Into<Cow<'static, str>>, error: &std::io::Error) -> Self {
        Self::new(
            attempted,
            error.raw_os_error().map_or(Errno::EIO, Errno::from_raw),
        )
    }
}

pub type Result<T, E = SysError> = std::result::Result<T, E>;
