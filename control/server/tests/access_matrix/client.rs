//! One identity's connection: TLS with a certificate, or a token on every request.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::common::TestServer;

pub enum Identity {
    Nobody,
    /// Name and group.
    Certificate(String, Option<String>),
    Token(String),
}

pub struct Client {
    sender: SendRequest<Full<Bytes>>,
    token: Option<String>,
}

impl Client {
    pub async fn connect(server: &TestServer, who: &Identity) -> Client {
        let certificate = match who {
            Identity::Certificate(name, group) => Some((name.as_str(), group.as_deref())),
            _ => None,
        };
        let mut tls = (*server.https(certificate)).clone();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = TcpStream::connect(server.address).await.unwrap();
        let name = ServerName::IpAddress(server.address.ip().into());
        let stream = TlsConnector::from(Arc::new(tls))
            .connect(name, tcp)
            .await
            .unwrap();
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let token = match who {
            Identity::Token(token) => Some(token.clone()),
            _ => None,
        };
        Client { sender, token }
    }

    /// The answer's code, and its body if it is an error.
    pub async fn ask(&mut self, verb: &str, path: &str, body: &str) -> (u16, String) {
        let (method, query) = match verb {
            "create" | "post" => ("POST", ""),
            "update" => ("PUT", ""),
            "patch" => ("PATCH", ""),
            "delete" => ("DELETE", ""),
            // Nothing is to be lost: other columns come after this one.
            "deletecollection" => ("DELETE", "dryRun=All"),
            "watch" => ("GET", "watch=1"),
            _ => ("GET", ""),
        };
        let joint = if path.contains('?') { '&' } else { '?' };
        let content = if verb == "patch" {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("https://localhost{path}{joint}{query}"))
            .header("content-type", content);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::from(body.to_owned())).unwrap();
        self.sender.ready().await.unwrap();
        let response = self.sender.send_request(request).await.unwrap();
        let code = response.status().as_u16();
        if code < 400 {
            return (code, String::new());
        }
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8_lossy(&body).into_owned())
    }
}
