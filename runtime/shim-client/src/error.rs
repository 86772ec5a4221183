//! One enum an operation.

use std::{io, path::PathBuf};

use kernelet_shim::protocol::Failure;
use kernelet_sys::SysError;

/// Why there is no new shim.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("prepare the shim's folder {path}")]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{step}")]
    Sys {
        step: &'static str,
        #[source]
        source: SysError,
    },
    #[error("the first words with the new shim")]
    Hello(#[source] ShimError),
}

/// Why a shim of a former agent could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// Nobody listens: the shim has died, or the machine was restarted. Use [`crate::cleanup`].
    #[error("no shim answers at {path}")]
    Gone {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("what answers at {path} is not this pod's shim: {reason}")]
    Impostor { path: PathBuf, reason: String },
    #[error("the first words with the shim at {path}")]
    Hello {
        path: PathBuf,
        #[source]
        source: ShimError,
    },
}

/// Why a call to a shim failed.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// The shim's own refusal, or the step that failed.
    #[error(transparent)]
    Refused(Failure),
    #[error("{step}")]
    Prepare {
        step: String,
        #[source]
        source: SysError,
    },
    #[error("the plan: {0}")]
    Plan(#[from] kernelet_spec::PlanError),
    /// The shim is gone: kill the pod's cgroup, then [`crate::cleanup`].
    #[error("the pod's shim is gone")]
    Gone,
    #[error("the pod's shim did not answer {call} within {seconds} s")]
    Silent { call: &'static str, seconds: u64 },
    #[error("talk to the pod's shim")]
    Socket(#[source] io::Error),
    #[error("the pod's shim said something unexpected: {0}")]
    Protocol(String),
}

/// Everything that could not be cleaned up; the rest was.
#[derive(Debug, thiserror::Error)]
#[error("{} leftovers of pod {pod}: {}", failures.len(), failures.join("; "))]
pub struct CleanupError {
    pub pod: String,
    pub failures: Vec<String>,
}
