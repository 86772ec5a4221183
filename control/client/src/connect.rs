//! The ways to a `kube::Client`: in this process, by a kubeconfig, or to nobody.

use http::{Request, Response};
use kube::{Client, Config, client::Body, config::KubeConfigOptions, config::Kubeconfig};
use std::path::{Path, PathBuf};
use tower::{BoxError, Service};

/// Why a kubeconfig didn't give a client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("reading the kubeconfig {path}")]
    Read {
        path: PathBuf,
        source: Box<kube::config::KubeconfigError>,
    },
    #[error("using the kubeconfig {path}")]
    Use {
        path: PathBuf,
        source: Box<kube::Error>,
    },
}

/// A client of a server in this process: the service carries the caller's identity, so nothing
/// is added to the request and no connection is made.
pub fn from_service<S, B>(service: S) -> Client
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Client::new(service, "default")
}

/// A client of no server: every request fails at once, with `reason`. For who must do without one.
pub fn of_no_server(reason: &'static str) -> Client {
    let refuse = move |_: Request<Body>| async move {
        Err::<Response<Body>, BoxError>(BoxError::from(reason))
    };
    Client::new(tower::service_fn(refuse), "default")
}

/// A client of the kubeconfig's current context.
pub async fn from_kubeconfig(path: &Path) -> Result<Client, ConnectError> {
    let read = |source| ConnectError::Read {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(read)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(read)?;
    Client::try_from(config).map_err(|source| ConnectError::Use {
        path: path.to_owned(),
        source: Box::new(source),
    })
}
