//! Certificates, keys, rustls configurations, kubeconfigs and the TLS accept loop: what the server and the
//! node's HTTPS API have in common.
//!
//! **Invariants:** no key is written with a mode other than 0600; no file is half-written (temporary name,
//! sync, rename); nothing here knows a path, verb or kind of the API.

mod anyone;
mod ca;
mod files;
mod kubeconfig;
mod serve;
mod tls;

pub use anyone::client_config_for_anyone;
pub use ca::{Ca, CsrError, IdentitySpec, Lifetimes, PkiError, ServiceAccountKeys, Usage};
pub use files::{Identity, write_private, write_public};
pub use kubeconfig::{KubeConfig, Login};
pub use serve::{Peer, RemoteAddr, ServeLimits, serve_tls};
pub use tls::{
    PeerCertificate, PeerIdentity, TlsError, client_config, csr_identity, peer_identity,
    server_config,
};
