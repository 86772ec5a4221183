//! The authority, what it issues, and the accept loop that trusts it.

use std::{net::IpAddr, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use kernelet_pki::{
    Ca, CsrError, Identity, IdentitySpec, Lifetimes, Peer, ServeLimits, ServiceAccountKeys, Usage,
    client_config, peer_identity, serve_tls, server_config,
};
use rcgen::{CertificateParams, DnType, KeyPair};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

fn spec(name: &str, group: Option<&str>, usage: Usage) -> IdentitySpec {
    IdentitySpec {
        common_name: name.into(),
        organization: group.map(str::to_owned),
        dns_names: vec!["localhost".into()],
        ips: vec![IpAddr::from([127, 0, 0, 1])],
        usage,
    }
}

#[test]
fn an_authority_is_found_again_and_its_keys_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let first = Ca::load_or_create(dir.path(), Lifetimes::default()).unwrap();
    let again = Ca::load_or_create(dir.path(), Lifetimes::default()).unwrap();
    assert_eq!(first.cert_pem(), again.cert_pem());
    let keys = ServiceAccountKeys::load_or_create(dir.path()).unwrap();
    assert_eq!(
        keys.public_pem,
        ServiceAccountKeys::load_or_create(dir.path())
            .unwrap()
            .public_pem
    );
    for name in ["ca.key", "sa.key"] {
        let mode = std::fs::metadata(dir.path().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn an_identity_is_issued_anew_only_when_the_old_one_no_longer_serves() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::load_or_create(dir.path(), Lifetimes::default()).unwrap();
    let wanted = spec("kubernetes-admin", Some("system:masters"), Usage::Client);
    let first = ca.load_or_issue(dir.path(), "admin", &wanted).unwrap();
    let again = ca.load_or_issue(dir.path(), "admin", &wanted).unwrap();
    assert_eq!(first.cert_pem, again.cert_pem);

    let mut moved = wanted.clone();
    moved.ips.push(IpAddr::from([10, 0, 0, 1]));
    let other = ca.load_or_issue(dir.path(), "admin", &moved).unwrap();
    assert_ne!(
        first.cert_pem, other.cert_pem,
        "another address needs another certificate"
    );

    // A crash between key and certificate: the certificate is of another key.
    std::fs::write(dir.path().join("admin.key"), &first.key_pem).unwrap();
    let mended = ca.load_or_issue(dir.path(), "admin", &moved).unwrap();
    assert_ne!(other.cert_pem, mended.cert_pem);

    let stranger = Ca::create(Lifetimes::default()).unwrap();
    let theirs = stranger.load_or_issue(dir.path(), "admin", &moved).unwrap();
    assert_ne!(
        theirs.cert_pem, mended.cert_pem,
        "another authority's certificate does not serve"
    );
}

#[test]
fn a_request_is_signed_as_it_names_itself_and_nonsense_is_refused() {
    let ca = Ca::create(Lifetimes::default()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "system:node:a");
    params
        .distinguished_name
        .push(DnType::OrganizationName, "system:nodes");
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    let signed = ca
        .sign_csr(
            &csr,
            &["client auth".to_owned()],
            Some(Duration::from_secs(600)),
        )
        .unwrap();
    let der = rustls::pki_types::pem::PemObject::from_pem_slice(signed.as_bytes()).unwrap();
    let who = peer_identity(&der).unwrap();
    assert_eq!(who.common_name, "system:node:a");
    assert_eq!(who.organizations, ["system:nodes"]);
    assert!(matches!(
        ca.sign_csr("nonsense", &[], None),
        Err(CsrError::Parse(_))
    ));
}

async fn who_am_i(request: Request<Incoming>) -> Response<Full<Bytes>> {
    let peer = request.extensions().get::<Peer>().unwrap().0.clone();
    let name = peer
        .and_then(|shown| shown.identity.clone())
        .map(|who| who.common_name);
    Response::new(Full::from(name.unwrap_or_else(|| "nobody".into())))
}

async fn ask(address: std::net::SocketAddr, ca: &str, identity: Option<&Identity>) -> String {
    let mut config = client_config(ca, identity).unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(address).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let mut tls = match connector
        .connect("localhost".try_into().unwrap(), stream)
        .await
    {
        Ok(tls) => tls,
        Err(error) => return format!("refused: {error}"),
    };
    let head = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    if tls.write_all(head).await.is_err() {
        return "refused".into();
    }
    let mut answer = String::new();
    match tls.read_to_string(&mut answer).await {
        Ok(_) => answer
            .rsplit("\r\n\r\n")
            .next()
            .unwrap_or_default()
            .to_owned(),
        Err(error) => format!("refused: {error}"),
    }
}

#[tokio::test]
async fn the_server_knows_its_caller_by_certificate_and_a_strangers_certificate_is_refused() {
    let ca = Ca::create(Lifetimes::default()).unwrap();
    let serving = ca
        .issue(&spec("kube-apiserver", None, Usage::Server))
        .unwrap();
    let admin = ca
        .issue(&spec("admin", Some("system:masters"), Usage::Client))
        .unwrap();
    let stranger = Ca::create(Lifetimes::default()).unwrap();
    let forged = stranger
        .issue(&spec("admin", Some("system:masters"), Usage::Client))
        .unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let config = Arc::new(server_config(&serving, ca.cert_pem()).unwrap());
    let server = tokio::spawn(serve_tls(
        listener,
        config,
        ServeLimits::default(),
        who_am_i,
        shutdown.clone(),
    ));
    assert_eq!(ask(address, ca.cert_pem(), Some(&admin)).await, "admin");
    assert_eq!(ask(address, ca.cert_pem(), None).await, "nobody");
    let forged = ask(address, ca.cert_pem(), Some(&forged)).await;
    assert!(forged.starts_with("refused"), "{forged}");
    shutdown.cancel();
    server.await.unwrap();
    assert!(
        TcpStream::connect(address).await.is_err(),
        "the port is free again"
    );
}
