//! Answers of calls, and what is taken from their requests.

use std::os::fd::{BorrowedFd, OwnedFd};

use kernelet_container::{CreateError, ErrorKind};
use kernelet_sys::{SysError, cgroup::Join};

use crate::protocol::{Answer, Failure, FailureKind, JoinLayout};

/// A call's answer and the descriptors that go with it.
pub(crate) type Answered = Result<(Answer, Vec<OwnedFd>), Failure>;

pub(crate) fn failure(kind: FailureKind, what: impl Into<String>) -> Failure {
    Failure {
        kind,
        what: what.into(),
        errno: None,
    }
}

impl From<CreateError> for Failure {
    fn from(error: CreateError) -> Self {
        let kind = match error.kind {
            ErrorKind::Command => FailureKind::Command,
            ErrorKind::Invalid => FailureKind::Invalid,
            ErrorKind::Gone => FailureKind::Conflict,
            ErrorKind::Kernel => FailureKind::Kernel,
        };
        Failure {
            kind,
            what: error.line(),
            errno: error.errno.map(|e| e as i32),
        }
    }
}

impl From<SysError> for Failure {
    fn from(error: SysError) -> Self {
        CreateError::from(error).into()
    }
}

/// Descriptors of a request, taken in the order that the protocol says.
pub(crate) struct Taken(pub std::vec::IntoIter<OwnedFd>);

impl Taken {
    pub(crate) fn one(&mut self, what: &str) -> Result<OwnedFd, Failure> {
        self.0.next().ok_or_else(|| {
            failure(
                FailureKind::Invalid,
                format!("the descriptor of {what} is missing"),
            )
        })
    }

    pub(crate) fn join(&mut self, layout: JoinLayout) -> Result<Join, Failure> {
        let v2 = if layout.v2 {
            Some(self.one("the cgroup")?)
        } else {
            None
        };
        let v1 = (0..layout.v1)
            .map(|_| self.one("a cgroup's tasks"))
            .collect::<Result<_, _>>()?;
        Ok(Join { v2, v1 })
    }

    pub(crate) fn stdio(&mut self) -> Result<[OwnedFd; 3], Failure> {
        Ok([self.one("stdin")?, self.one("stdout")?, self.one("stderr")?])
    }
}

pub(crate) fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    fd.try_clone_to_owned()
        .map_err(|e| SysError::io("duplicate a descriptor", &e).into())
}
