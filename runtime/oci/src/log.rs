//! Errors where the caller wants them: a file as text or JSON (containerd and podman read it), and
//! always stderr.

use std::{fs::File, io::Write, path::PathBuf, time::SystemTime};

use crate::cli::{Global, LogFormat};

pub struct Sink {
    path: Option<PathBuf>,
    format: LogFormat,
}

impl Sink {
    pub fn new(global: &Global) -> Self {
        Sink {
            path: global.log.clone(),
            format: global.log_format,
        }
    }

    pub fn error(&self, error: &anyhow::Error) {
        let message = format!("{error:#}");
        eprintln!("kernelet-oci: {message}");
        let Some(path) = &self.path else {
            return;
        };
        let seconds = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let line = match self.format {
            LogFormat::Json => serde_json::json!({"level": "error", "msg": message, "time": crate::state::rfc3339(seconds)}).to_string(),
            LogFormat::Text => format!("time=\"{}\" level=error msg={message:?}", crate::state::rfc3339(seconds)),
        };
        // A log that can't be written is no reason to hide the error itself, which stderr has.
        let written = File::options()
            .append(true)
            .create(true)
            .open(path)
            .and_then(|mut f| writeln!(f, "{line}"));
        if let Err(e) = written {
            eprintln!("kernelet-oci: write {}: {e}", path.display());
        }
    }
}
