//! What every request reaches: configuration, store, cache, registry, authorities.

use std::sync::Arc;

use arc_swap::ArcSwap;
use kernelet_openapi::OpenApi;
use kernelet_store::Store;
use tokio_util::sync::CancellationToken;

use crate::{
    admission::quota::Turns, authn::Authenticator, authz::Authorizer, cache::WatchCache,
    config::ServerConfig, leases::EventLeases, metrics::Metrics, registry::Snapshot,
    usage::Sampler,
};

/// Shared by all requests.
pub struct State {
    pub config: ServerConfig,
    pub store: Store,
    pub cache: Arc<WatchCache>,
    pub registry: ArcSwap<Snapshot>,
    pub openapi: ArcSwap<OpenApi>,
    pub authn: Authenticator,
    pub authz: Authorizer,
    pub event_leases: EventLeases,
    pub quota_turns: Turns,
    pub metrics: Metrics,
    /// What nodes and pods use.
    pub usage: Sampler,
    /// Ends open watches and the server's own tasks.
    pub shutdown: CancellationToken,
}
