//! What is found out about a request on its way, beside its answer.

use std::collections::BTreeMap;

/// Gathered by whoever judges the request, and told at its end.
#[derive(Debug, Default)]
pub struct Notes {
    /// For the client.
    pub warnings: Vec<String>,
    /// For the audit log.
    pub annotations: BTreeMap<String, String>,
}
