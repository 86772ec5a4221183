//! The server as a whole: started on a store, reached over TLS or in process.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use kernelet_store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    body::{BoxError, ResponseBody},
    config::ServerConfig,
    user::UserInfo,
};

/// Why a server couldn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the configuration is not usable: {reason}")]
    Config { reason: String },
    #[error("reading the store")]
    Store(#[source] kernelet_store::StoreError),
    #[error("writing the cluster's first objects: {what}: {message}")]
    Bootstrap { what: String, message: String },
}

/// A running API server; clones share it.
#[derive(Clone)]
pub struct Server {
    state: Arc<State>,
}

struct State {
    config: ServerConfig,
}

impl Server {
    /// Loads the watch cache from `store`, and makes sure that what every cluster has is there: the system
    /// namespaces, the default roles and bindings, and the `kubernetes` Service.
    pub async fn start(config: ServerConfig, store: Store) -> Result<Server, StartError> {
        let _ = store;
        Ok(Server { state: Arc::new(State { config }) })
    }

    /// The server as a `tower` service for components of the same process. The identity is attached here, by
    /// the transport; authorisation and admission are the same as for everybody.
    pub fn service(&self, user: UserInfo) -> InProcess {
        InProcess { server: self.clone(), user: Arc::new(user) }
    }

    /// Serves HTTPS until `shutdown`, then finishes what runs.
    pub async fn serve(&self, listener: TcpListener, shutdown: CancellationToken) {
        let _ = (listener, shutdown, &self.state.config);
        todo!()
    }
}

/// The in-process transport of one identity; see [`Server::service`].
#[derive(Clone)]
pub struct InProcess {
    server: Server,
    user: Arc<UserInfo>,
}

impl<B> tower::Service<Request<B>> for InProcess
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, std::convert::Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let _ = (request, &self.server, &self.user);
        todo!()
    }
}
