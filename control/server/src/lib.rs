//! The API server: the only crate that knows paths, verbs and media types.
//!
//! One generic handler serves every resource of the registry; authentication, authorisation and admission
//! stand before it, the watch cache and the store behind it. It is reached over TLS ([`Server::serve`]) or, by
//! components of the same process, as a `tower` service with an identity attached ([`Server::service`]).
//!
//! **Invariant:** nothing here knows how a pod runs or a packet travels; nodes are ordinary clients.
//! **Invariant:** nobody but this crate opens the store.
//! **Invariant:** there is no way to switch authentication or authorisation off.

mod admission;
mod audit;
mod authn;
mod authz;
mod body;
mod bootstrap;
mod cache;
mod config;
mod encrypt;
mod flow;
mod gzip;
mod handler;
mod http;
mod kubelet;
mod leases;
mod meta_api;
mod metrics;
mod pipeline;
mod query;
mod registry;
mod request;
mod server;
mod state;
mod usage;
mod user;

pub use admission::{AdmissionConfigError, PodSecurityConfig};
pub use audit::{
    AuditConfig, LogFile as AuditFile, Policy as AuditPolicy, PolicyError as AuditPolicyError,
};
pub use body::{BoxError, ResponseBody};
pub use config::{Cidr, CidrError, ServerConfig};
pub use encrypt::{Encryption, EncryptionError};
pub use meta_api::GIT_VERSION;
pub use server::{InProcess, Server, StartError};
pub use user::UserInfo;
