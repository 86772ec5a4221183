//! What every request reaches: configuration, store, cache, registry, authorities.

use std::sync::Arc;

use arc_swap::ArcSwap;
use kernelet_openapi::OpenApi;
use kernelet_store::Store;
use tokio_util::sync::CancellationToken;

use crate::{
    authn::Authenticator, authz::Authorizer, cache::WatchCache, config::ServerConfig,
    leases::EventLeases, metrics::Metrics, registry::Snapshot,
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
    pub metrics: Metrics,
    /// Ends open watches and the server's own tasks.
    pub shutdown: CancellationToken,
}
