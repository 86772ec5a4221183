//! HTTP/1.1 towards registries: connections, TLS, redirections. Knows nothing of images.
//!
//! Of its own on hyper and rustls, which the program has anyway: registry clients read manifests of any length, keep an
//! answer's headers for themselves (`Retry-After`), and bring a second HTTP stack along.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::{
    error::RegistryError,
    registries::{Registries, Trust},
    url::Url,
};

/// For a connection with its handshake, and for an answer's first byte.
const CONNECT: Duration = Duration::from_secs(30);
/// For each piece of an answer: whoever sends nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(60);
const DIAL: &str = "dial tcp";
const HANDSHAKE: &str = "TLS handshake with";
const MAX_REDIRECTS: usize = 10;
/// What is kept of a refusal's text.
const MAX_REFUSAL: usize = 16 << 10;

type Sender = http1::SendRequest<Full<Bytes>>;
type Origin = (bool, String);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// An answer whose body hasn't been read.
pub(crate) struct Answer {
    /// Where it came from in the end.
    pub url: Url,
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Incoming,
    method: &'static str,
}

pub(crate) struct Http {
    registries: Arc<Registries>,
    idle: Mutex<HashMap<Origin, Vec<Sender>>>,
    configs: Mutex<HashMap<Trust, Arc<ClientConfig>>>,
    silence: Duration,
}

impl std::hash::Hash for Trust {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        match self {
            Trust::Anyone => 0_u8.hash(state),
            Trust::Verify(own) => own
                .iter()
                .for_each(|certificate| certificate.as_ref().hash(state)),
        }
    }
}

impl Http {
    pub fn new(registries: Arc<Registries>, silence: Option<Duration>) -> Http {
        Http {
            registries,
            idle: Mutex::default(),
            configs: Mutex::default(),
            silence: silence.unwrap_or(SILENCE),
        }
    }

    /// Asks, and follows redirections; `secret` (an `Authorization`) goes to the first host only.
    pub async fn get(
        &self,
        url: &Url,
        headers: &[(HeaderName, String)],
        secret: Option<&str>,
    ) -> Result<Answer, RegistryError> {
        let mut at = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let secret = secret.filter(|_| at.same_origin(url));
            let answer = self
                .send(Method::GET, &at, headers, secret, Bytes::new())
                .await?;
            if !matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let location = answer.header(&header::LOCATION).unwrap_or_default();
            let refuse = |reason| RegistryError::Redirect {
                from: at.to_string(),
                to: Url::parse(location)
                    .map_or_else(|| location.chars().take(200).collect(), |u| u.to_string()),
                reason,
            };
            let next = at
                .join(location)
                .ok_or_else(|| refuse("that is not an address"))?;
            if at.tls && !next.tls && !self.registries.plain(&next.host) {
                return Err(refuse("it leaves TLS"));
            }
            at = next;
        }
        Err(RegistryError::Redirect {
            from: url.to_string(),
            to: at.to_string(),
            reason: "stopped after 10 redirects",
        })
    }

    /// Posts a form, without following redirections.
    pub async fn post(&self, url: &Url, form: String) -> Result<Answer, RegistryError> {
        let headers = [(
            header::CONTENT_TYPE,
            "application/x-www-form-urlencoded".to_owned(),
        )];
        self.send(Method::POST, url, &headers, None, form.into())
            .await
    }

    async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: &[(HeaderName, String)],
        secret: Option<&str>,
        body: Bytes,
    ) -> Result<Answer, RegistryError> {
        let name = if method == Method::POST {
            "POST"
        } else {
            "GET"
        };
        let protocol = |problem: String| RegistryError::Protocol {
            url: url.to_string(),
            problem,
        };
        let broken = |attempt: &str, source: io::Error| RegistryError::Io {
            method: name,
            url: url.to_string(),
            attempt: attempt.to_owned(),
            source,
        };
        let path = match url.path.as_str() {
            "" => "/".to_owned(),
            path if path.starts_with('?') => format!("/{path}"),
            path => path.to_owned(),
        };
        let request = || {
            let mut request = Request::new(Full::new(body.clone()));
            *request.method_mut() = method.clone();
            *request.uri_mut() = path
                .parse()
                .map_err(|_| protocol("a path that is none".to_owned()))?;
            let all = request.headers_mut();
            let value = |text: &str| {
                HeaderValue::from_str(text)
                    .map_err(|_| protocol("a header that is none".to_owned()))
            };
            all.insert(header::HOST, value(&url.host)?);
            all.insert(
                header::USER_AGENT,
                HeaderValue::from_static(concat!("kernelet/", env!("CARGO_PKG_VERSION"))),
            );
            for (name, text) in headers {
                all.append(name, value(text)?);
            }
            if let Some(secret) = secret {
                let mut value = value(secret)?;
                value.set_sensitive(true);
                all.insert(header::AUTHORIZATION, value);
            }
            Ok::<_, RegistryError>(request)
        };
        let origin = (url.tls, url.host.clone());
        // A kept connection may have been closed by the other side just now: then a new one is made, once.
        if let Some(mut sender) = self.take(&origin) {
            let sent = tokio::time::timeout(self.silence, sender.send_request(request()?)).await;
            match sent {
                Ok(Ok(response)) => {
                    self.keep(origin, sender);
                    return Ok(Answer::new(name, url, response));
                }
                Ok(Err(_)) => {}
                Err(_) => return Err(broken("wait for an answer", io::ErrorKind::TimedOut.into())),
            }
        }
        let mut sender = match tokio::time::timeout(CONNECT, self.connect(url)).await {
            Ok(connected) => connected.map_err(|(attempt, source)| broken(&attempt, source))?,
            Err(_) => return Err(broken("connect", io::ErrorKind::TimedOut.into())),
        };
        let response =
            match tokio::time::timeout(self.silence, sender.send_request(request()?)).await {
                Ok(response) => {
                    response.map_err(|e| broken("send the request", io::Error::other(e)))?
                }
                Err(_) => return Err(broken("wait for an answer", io::ErrorKind::TimedOut.into())),
            };
        self.keep(origin, sender);
        Ok(Answer::new(name, url, response))
    }

    fn take(&self, origin: &Origin) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let senders = idle.get_mut(origin)?;
        senders.retain(|sender| !sender.is_closed());
        // One whose answer is still being read isn't ready.
        let ready = senders.iter().position(http1::SendRequest::is_ready)?;
        Some(senders.swap_remove(ready))
    }

    fn keep(&self, origin: Origin, sender: Sender) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let senders = idle.entry(origin).or_default();
        senders.retain(|sender| !sender.is_closed());
        senders.push(sender);
    }

    async fn connect(&self, url: &Url) -> Result<Sender, (String, io::Error)> {
        let (name, port) = url.address().expect("an Url has an address");
        let at = |attempt: &str| format!("{attempt} {name}:{port}");
        let tcp = TcpStream::connect((name, port))
            .await
            .map_err(|e| (at(DIAL), e))?;
        let _ = tcp.set_nodelay(true);
        let stream: Box<dyn Stream> = if url.tls {
            let config = self
                .config(self.registries.trust_of(&url.host))
                .map_err(|e| (at("prepare TLS to"), e))?;
            let server = ServerName::try_from(name.to_owned())
                .map_err(|e| (at("prepare TLS to"), io::Error::other(e)))?;
            let tls = tokio_rustls::TlsConnector::from(config)
                .connect(server, tcp)
                .await;
            Box::new(tls.map_err(|e| (at(HANDSHAKE), e))?)
        } else {
            Box::new(tcp)
        };
        let (sender, connection) = http1::Builder::new()
            .max_headers(100)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| (at("begin HTTP with"), io::Error::other(e)))?;
        // Ends with the sender, or with the other side.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a registry");
            }
        });
        Ok(sender)
    }

    /// The machine's authorities are read when a registry is spoken to, and again when the last one's are forgotten.
    fn config(&self, trust: Trust) -> io::Result<Arc<ClientConfig>> {
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = configs.get(&trust) {
            return Ok(config.clone());
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let config = match &trust {
            Trust::Anyone => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
                .with_no_client_auth(),
            Trust::Verify(own) => {
                let mut roots = RootCertStore::empty();
                let machine = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(machine.certs);
                for certificate in own {
                    roots.add(certificate.clone()).map_err(io::Error::other)?;
                }
                builder.with_root_certificates(roots).with_no_client_auth()
            }
        };
        let config = Arc::new(config);
        configs.insert(trust, config.clone());
        Ok(config)
    }

    /// Lets go of connections and of the machine's authorities, which are a third of a MiB.
    pub fn rest(&self) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        self.configs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// A body's next piece; none at its end.
    pub async fn piece(&self, answer: &mut Answer) -> Result<Option<Bytes>, RegistryError> {
        let broken = |url: &Url, method, source| RegistryError::Io {
            method,
            url: url.to_string(),
            attempt: "read the answer".to_owned(),
            source,
        };
        loop {
            match tokio::time::timeout(self.silence, answer.body.frame()).await {
                Err(_) => {
                    return Err(broken(
                        &answer.url,
                        answer.method,
                        io::ErrorKind::TimedOut.into(),
                    ));
                }
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => {
                    return Err(broken(&answer.url, answer.method, io::Error::other(error)));
                }
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// A whole body of at most `most` bytes.
    pub async fn body(&self, answer: &mut Answer, most: usize) -> Result<Vec<u8>, RegistryError> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece(answer).await? {
            if body.len() + piece.len() > most {
                return Err(RegistryError::Protocol {
                    url: answer.url.to_string(),
                    problem: format!("more than {most} bytes"),
                });
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// A refusal as an error, with what the registry says about it.
    pub async fn refusal(&self, mut answer: Answer) -> RegistryError {
        let mut body = Vec::new();
        while let Ok(Some(piece)) = self.piece(&mut answer).await {
            body.extend_from_slice(&piece[..piece.len().min(MAX_REFUSAL - body.len())]);
            if body.len() >= MAX_REFUSAL {
                break;
            }
        }
        RegistryError::Status {
            method: answer.method,
            url: answer.url.to_string(),
            status: answer.status.to_string(),
            detail: said(&body).map_or_else(String::new, |text| format!(": {text}")),
        }
    }
}

/// The text of the distribution specification's errors, else the body if it is short and plain.
pub(crate) fn said(body: &[u8]) -> Option<String> {
    let value: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    if let Some(errors) = value.as_ref().and_then(|v| v.get("errors")?.as_array()) {
        let texts: Vec<_> = errors
            .iter()
            .take(4)
            .map(|error| {
                let part = |key: &str| error.get(key).and_then(|v| v.as_str()).unwrap_or_default();
                format!(
                    "{}: {}",
                    part("code").to_lowercase().replace('_', " "),
                    part("message")
                )
            })
            .collect();
        return Some(texts.join(", ")).filter(|text| !text.is_empty());
    }
    let text = std::str::from_utf8(body).ok()?.trim();
    let plain = !text.is_empty() && text.len() <= 300 && !text.contains(['<', '\n']);
    plain.then(|| text.to_owned())
}

impl Answer {
    fn new(method: &'static str, url: &Url, response: http::Response<Incoming>) -> Answer {
        let (head, body) = response.into_parts();
        Answer {
            url: url.clone(),
            status: head.status,
            headers: head.headers,
            body,
            method,
        }
    }

    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// What the other side says the body's length is.
    pub fn length(&self) -> Option<u64> {
        self.header(&header::CONTENT_LENGTH)?.parse().ok()
    }
}

/// Whether trying again at once may help: what broke off or was slow, but neither a host that isn't there nor a
/// certificate that isn't trusted.
pub(crate) fn may_pass(error: &RegistryError) -> bool {
    let RegistryError::Io {
        source, attempt, ..
    } = error
    else {
        return false;
    };
    if source.kind() == io::ErrorKind::TimedOut {
        return true;
    }
    let tls = source
        .get_ref()
        .is_some_and(|inner| inner.is::<rustls::Error>());
    !tls && !attempt.starts_with(DIAL)
}

/// Whether the other side doesn't speak TLS at all.
pub(crate) fn speaks_no_tls(error: &RegistryError) -> bool {
    let RegistryError::Io {
        source, attempt, ..
    } = error
    else {
        return false;
    };
    // Some answer a handshake in words, others hang up.
    let hung_up = matches!(
        source.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
    );
    if hung_up && attempt.starts_with(HANDSHAKE) {
        return true;
    }
    source
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .is_some_and(|error| matches!(error, rustls::Error::InvalidMessage(_)))
}

/// Accepts each certificate whose holder has its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
