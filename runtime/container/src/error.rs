//! Why a process could not be made; crosses from the child to its parent as bytes.

use kernelet_sys::SysError;
use nix::errno::Errno;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The command isn't in the root, or can't be executed.
    Command,
    /// The plan names something that the root doesn't have: a user, a group.
    Invalid,
    /// The container to exec into has ended.
    Gone,
    /// The kernel refused a step.
    Kernel,
}

/// What was attempted and why it failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct CreateError {
    pub kind: ErrorKind,
    pub what: String,
    #[source]
    pub errno: Option<Errno>,
}

impl CreateError {
    pub(crate) fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        CreateError {
            kind,
            what: what.into(),
            errno: None,
        }
    }

    /// What was attempted, and why it failed, in one line.
    pub fn line(&self) -> String {
        match self.errno {
            Some(errno) => format!("{}: {}", self.what, errno.desc()),
            None => self.what.clone(),
        }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let kind = match self.kind {
            ErrorKind::Command => b'c',
            ErrorKind::Invalid => b'i',
            ErrorKind::Gone => b'g',
            ErrorKind::Kernel => b'k',
        };
        let errno = self.errno.map_or(0, |errno| errno as i32);
        let mut bytes = vec![b'E', kind];
        bytes.extend(errno.to_ne_bytes());
        bytes.extend(self.what.as_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let [b'E', kind, a, b, c, d, what @ ..] = bytes else {
            return None;
        };
        let kind = match kind {
            b'c' => ErrorKind::Command,
            b'i' => ErrorKind::Invalid,
            b'g' => ErrorKind::Gone,
            _ => ErrorKind::Kernel,
        };
        let errno = i32::from_ne_bytes([*a, *b, *c, *d]);
        Some(CreateError {
            kind,
            what: String::from_utf8_lossy(what).into_owned(),
            errno: (errno != 0).then(|| Errno::from_raw(errno)),
        })
    }
}

impl From<SysError> for CreateError {
    fn from(error: SysError) -> Self {
        CreateError {
            kind: ErrorKind::Kernel,
            what: error.attempted.into_owned(),
            errno: Some(error.errno),
        }
    }
}

/// Says for what a step was made, before what it was.
pub(crate) trait During<T> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, CreateError>;
}

impl<T, E: Into<CreateError>> During<T> for Result<T, E> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, CreateError> {
        self.map_err(|error| {
            let mut error = error.into();
            error.what = format!("{}: {}", what(), error.what);
            error
        })
    }
}
