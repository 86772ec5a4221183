//! The server as a whole: started on a store, reached over TLS or in process.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use kernelet_api::Registry;
use kernelet_openapi::OpenApi;
use kernelet_pki::{ServeLimits, serve_tls};
use kernelet_store::{Revision, Store};
use tokio::{net::TcpListener, time};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    audit::Audit,
    authn::{
        Authenticator, BoundObjects,
        tokens::{TokenError, Tokens},
    },
    authz::{
        Authorizer, aggregate,
        node::NodeAuthorizer,
        rbac::{Rbac, RbacCaches},
    },
    body::{BoxError, ResponseBody},
    bootstrap,
    cache::{ResourceCache, WatchCache},
    config::ServerConfig,
    encrypt::{SealedStore, reseal},
    flow::{self, Flows, SERVER_SEATS},
    leases::EventLeases,
    meta_api,
    metrics::Metrics,
    pipeline,
    registry::{self, Snapshot},
    state::State,
    usage::Sampler,
    user::UserInfo,
};

/// History is kept for at least this long, and for at most twice as long.
const COMPACT_EVERY: Duration = Duration::from_secs(300);

/// Why a server couldn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("reading the store")]
    Store(#[source] kernelet_store::StoreError),
    #[error("the ServiceAccount keys are not usable")]
    Keys(#[source] TokenError),
    #[error("the audit log can't be opened")]
    Audit(#[source] std::io::Error),
    #[error("the registry lacks {what}")]
    Registry { what: &'static str },
    #[error("writing the cluster's first objects: {what}: {message}")]
    Bootstrap { what: String, message: String },
}

/// A running API server; clones share it. It stops when the last one goes.
#[derive(Clone)]
pub struct Server {
    state: Arc<State>,
    _stop: Arc<DropGuard>,
}

impl Server {
    /// Loads the watch cache from `store`, and makes sure that what every cluster has is there: the system
    /// namespaces, the default roles and bindings, and the `kubernetes` Service.
    pub async fn start(config: ServerConfig, store: Store) -> Result<Server, StartError> {
        Server::start_with(config, store, Registry::builtin().clone()).await
    }

    /// The same with a registry of one's own: for tests of kinds that aren't built in.
    pub async fn start_with(
        config: ServerConfig,
        store: Store,
        api: Arc<Registry>,
    ) -> Result<Server, StartError> {
        let store = SealedStore::new(store, config.encryption.clone());
        let audit = config.audit.clone().map(Audit::start).transpose();
        let audit = audit.map_err(StartError::Audit)?;
        let (cache, feed) = WatchCache::load(store.clone(), registry::storages(&api))
            .await
            .map_err(StartError::Store)?;
        let find = |prefix: &str, what| cache.resource(prefix).ok_or(StartError::Registry { what });
        let rbac = |resource: &str| -> Result<Arc<ResourceCache>, StartError> {
            find(&format!("rbac.authorization.k8s.io/{resource}"), "RBAC")
        };
        let tokens =
            Tokens::new(&config.service_account_keys, &config.issuer).map_err(StartError::Keys)?;
        let objects = BoundObjects {
            service_accounts: find("serviceaccounts", "ServiceAccounts")?,
            pods: find("pods", "Pods")?,
            secrets: find("secrets", "Secrets")?,
            nodes: find("nodes", "Nodes")?,
        };
        let authz = Authorizer {
            node: NodeAuthorizer::new(objects.pods.clone()),
            rbac: Rbac::new(RbacCaches {
                roles: rbac("roles")?,
                cluster_roles: rbac("clusterroles")?,
                role_bindings: rbac("rolebindings")?,
                cluster_role_bindings: rbac("clusterrolebindings")?,
            }),
        };
        let shutdown = CancellationToken::new();
        let metrics = Metrics::new();
        let state = Arc::new(State {
            registry: ArcSwap::from_pointee(Snapshot::new(api.clone(), &cache)),
            openapi: ArcSwap::from_pointee(OpenApi::new(api, meta_api::GIT_VERSION)),
            authn: Authenticator::new(tokens, objects),
            authz,
            audit,
            config,
            store,
            cache,
            event_leases: EventLeases::default(),
            quota_turns: Default::default(),
            flows: Flows::new(metrics.flow.clone(), SERVER_SEATS),
            metrics,
            usage: Sampler::default(),
            shutdown: shutdown.clone(),
        });
        tokio::spawn(feed.run(shutdown.clone()));
        let server = Server {
            state: state.clone(),
            _stop: Arc::new(shutdown.drop_guard()),
        };
        bootstrap::run(&state)
            .await
            .map_err(|failed| StartError::Bootstrap {
                what: failed.what,
                message: failed.error.message,
            })?;
        aggregate::settle(&state).await;
        flow::settle(&state).await;
        tokio::spawn(flow::run(state.clone()));
        tokio::spawn(aggregate::run(state.clone()));
        tokio::spawn({
            let store = state.store.clone();
            async move {
                let sealed = reseal(&store).await;
                if sealed > 0 {
                    tracing::info!(sealed, "values in the store were encrypted anew");
                }
            }
        });
        tokio::spawn(compact(state));
        Ok(server)
    }

    /// The server as a `tower` service for components of the same process. The identity is attached here, by
    /// the transport; authorisation and admission are the same as for everybody.
    pub fn service(&self, user: UserInfo) -> InProcess {
        InProcess {
            state: self.state.clone(),
            user: Arc::new(user),
        }
    }

    /// Serves HTTPS until `shutdown`, then ends open watches and finishes the requests that run.
    pub async fn serve(&self, listener: TcpListener, shutdown: CancellationToken) {
        let stopping = {
            let (state, shutdown) = (self.state.clone(), shutdown.clone());
            async move {
                shutdown.cancelled().await;
                // Watches would otherwise hold their connections until the drain's deadline.
                state.shutdown.cancel();
            }
        };
        let state = self.state.clone();
        let handle = move |request| pipeline::serve(state.clone(), None, request);
        let accept = serve_tls(
            listener,
            self.state.config.tls.clone(),
            ServeLimits::default(),
            handle,
            shutdown,
        );
        tokio::join!(stopping, accept);
    }
}

/// Forgets the store's history beyond two intervals.
async fn compact(state: Arc<State>) {
    let mut before: Option<i64> = None;
    loop {
        tokio::select! {
            () = state.shutdown.cancelled() => return,
            () = time::sleep(COMPACT_EVERY) => {}
        }
        if let Some(revision) = before
            && let Err(error) = state.store.compact(Revision(revision)).await
        {
            // Another server in front of the same store may have been faster.
            tracing::debug!(revision, %error, "compacting the store");
        }
        before = Some(state.cache.applied());
    }
}

/// The in-process transport of one identity; see [`Server::service`].
#[derive(Clone)]
pub struct InProcess {
    state: Arc<State>,
    user: Arc<UserInfo>,
}

impl<B> tower::Service<Request<B>> for InProcess
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let (state, user) = (self.state.clone(), self.user.clone());
        // A part of this program names itself as upstream's does: its fields are booked under that name.
        if let Some(agent) = user.component().and_then(|name| name.parse().ok()) {
            request
                .headers_mut()
                .entry(http::header::USER_AGENT)
                .or_insert(agent);
        }
        Box::pin(async move { Ok(pipeline::serve(state, Some(user), request).await) })
    }
}
