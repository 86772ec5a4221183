//! What every request reaches: configuration, store, cache, registry, authorities.

use std::sync::Arc;

use arc_swap::ArcSwap;
use kernelet_openapi::OpenApi;
use tokio_util::sync::CancellationToken;

use crate::{
    admission::quota::Turns, audit::Audit, authn::Authenticator, authz::Authorizer,
    cache::WatchCache, config::ServerConfig, encrypt::SealedStore, flow::Flows,
    leases::EventLeases, metrics::Metrics, registry::Snapshot, usage::Sampler,
};

/// Shared by all requests.
pub struct State {
    pub config: ServerConfig,
    pub store: SealedStore,
    pub cache: Arc<WatchCache>,
    pub registry: ArcSwap<Snapshot>,
    pub openapi: ArcSwap<OpenApi>,
    pub authn: Authenticator,
    pub authz: Authorizer,
    pub audit: Option<Audit>,
    pub event_leases: EventLeases,
    pub quota_turns: Turns,
    pub metrics: Metrics,
    /// Whose requests run when there are too many.
    pub flows: Flows,
    /// What nodes and pods use.
    pub usage: Sampler,
    /// Ends open watches and the server's own tasks.
    pub shutdown: CancellationToken,
}
