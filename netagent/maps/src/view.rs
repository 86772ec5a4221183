//! What the kernel's maps hold, read back for `kernelet net services|backends|affinity|flows`.
//!
//! Nothing here knows what the agent meant to write: every row is decoded from the pinned maps.

use std::net::SocketAddr;

use serde::Serialize;

use crate::LoadError;

/// One virtual address, as the socket hooks see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceRow {
    /// `namespace/name:port`.
    pub name: String,
    pub kind: String,
    pub address: SocketAddr,
    pub protocol: String,
    pub id: u32,
    /// Seconds of ClientIP affinity; `None`: each connection goes anywhere.
    pub affinity_s: Option<u32>,
    pub backends: Vec<SocketAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackendRow {
    pub id: u32,
    pub service: String,
    pub service_id: u32,
    pub address: SocketAddr,
    pub protocol: String,
}

pub fn services(instance_id: &str) -> Result<Vec<ServiceRow>, LoadError> {
    let _ = instance_id;
    todo!()
}

pub fn backends(instance_id: &str) -> Result<Vec<BackendRow>, LoadError> {
    let _ = instance_id;
    todo!()
}
