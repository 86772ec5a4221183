//! Errors as the CNI specification wants them: a code, a message, details (section 5, "Error").

use serde::Serialize;

use crate::config::NEWEST;

/// The specification's codes, and this plugin's own from 100 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    IncompatibleVersion = 1,
    InvalidEnvironment = 4,
    Io = 5,
    Decode = 6,
    InvalidConfiguration = 7,
    TryAgainLater = 11,
    NotAvailable = 50,
    /// The kernel refused a step.
    Kernel = 100,
    /// CHECK found a difference.
    Different = 101,
}

#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CniError {
    pub code: Code,
    pub message: String,
    pub details: String,
}

impl CniError {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: String::new(),
        }
    }

    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        Self {
            code: Code::Io,
            message: what.into(),
            details: source.to_string(),
        }
    }

    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Answer<'a> {
            cni_version: &'a str,
            code: u32,
            msg: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            details: &'a str,
        }
        let answer = Answer {
            cni_version: NEWEST,
            code: self.code as u32,
            msg: &self.message,
            details: &self.details,
        };
        serde_json::to_string(&answer).expect("plain strings and numbers are always JSON")
    }
}

impl From<kernelet_link::LinkError> for CniError {
    fn from(error: kernelet_link::LinkError) -> Self {
        Self {
            code: Code::Kernel,
            details: error.source.to_string(),
            message: error.to_string(),
        }
    }
}
