//! Why the data plane could not be loaded, changed or read.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("mount the bpf file system at {path}")]
    MountBpffs {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "{path} is hidden here (as `ip netns exec` does by mounting /sys anew): enter the namespace with `nsenter --net=...` instead"
    )]
    Hidden { path: PathBuf },
    #[error("no cgroup v2 hierarchy is mounted: Services are translated at its root")]
    NoCgroup2,
    #[error("{step}")]
    Step {
        step: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl LoadError {
    pub(crate) fn step(
        step: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Step {
            step: step.into(),
            source: source.into(),
        }
    }
}
