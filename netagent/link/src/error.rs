//! The one error of this crate: a step that the kernel refused.

/// What was attempted, on what, and the kernel's answer.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct LinkError {
    pub what: String,
    #[source]
    pub source: std::io::Error,
}

impl LinkError {
    pub fn new(what: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self {
            what: what.into(),
            source: source.into(),
        }
    }

    /// The thing is already as wanted, or already gone.
    pub fn is(&self, errno: nix::errno::Errno) -> bool {
        self.source.raw_os_error() == Some(errno as i32)
    }
}
