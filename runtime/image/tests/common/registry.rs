//! A registry that does as it is told, also what no registry should.

#![allow(dead_code)]

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kernelet_image::{Digest, Keyring, PullEvent, PullOptions, Puller, Registries, Retry};
use serde_json::{Value, json};
use sha2::Digest as _;

pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

pub fn sha256(bytes: &[u8]) -> String {
    let hash: [u8; 32] = sha2::Sha256::digest(bytes).into();
    Digest(hash).to_string()
}

/// What was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Asked {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// What is answered.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection is closed after so many bytes of the body.
    pub cut: Option<usize>,
    /// What the answer says its length is, if not the truth.
    pub length: Option<u64>,
    /// Sends nothing after the header (and the bytes before `cut`) until the registry is gone.
    pub hang: bool,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply {
            status,
            headers: Vec::new(),
            body: body.into(),
            cut: None,
            length: None,
            hang: false,
        }
    }

    pub fn with(mut self, name: &str, value: impl ToString) -> Reply {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }
}

/// What changes an honest answer into another one; `n` counts the requests of this path from 1 on.
type Twist = dyn Fn(&Asked, usize, Reply) -> Reply + Send + Sync;

/// Blobs and manifests by path, served on loopback without TLS.
pub struct Registry {
    pub host: String,
    shared: Arc<Shared>,
}

struct Shared {
    content: Mutex<BTreeMap<String, (String, Vec<u8>)>>,
    asked: Mutex<Vec<Asked>>,
    twist: Box<Twist>,
    over: AtomicBool,
    address: std::net::SocketAddr,
}

impl Registry {
    pub fn honest() -> Registry {
        Registry::twisted(|_, _, reply| reply)
    }

    pub fn twisted(
        twist: impl Fn(&Asked, usize, Reply) -> Reply + Send + Sync + 'static,
    ) -> Registry {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            content: Mutex::default(),
            asked: Mutex::default(),
            twist: Box::new(twist),
            over: AtomicBool::new(false),
            address,
        });
        let server = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if server.over.load(Ordering::Relaxed) {
                    return;
                }
                let server = server.clone();
                // A client that goes away in the middle is no news.
                std::thread::spawn(move || server.serve(stream.unwrap()));
            }
        });
        Registry {
            host: address.to_string(),
            shared,
        }
    }

    pub fn put(&self, path: &str, media_type: &str, bytes: &[u8]) {
        let mut content = self.shared.content.lock().unwrap();
        content.insert(path.to_owned(), (media_type.to_owned(), bytes.to_vec()));
    }

    pub fn blob(&self, repository: &str, media_type: &str, bytes: &[u8]) -> Value {
        let digest = sha256(bytes);
        self.put(
            &format!("/v2/{repository}/blobs/{digest}"),
            "application/octet-stream",
            bytes,
        );
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// Puts a document there under its digest and perhaps a tag; answers its descriptor.
    pub fn document(&self, repository: &str, tag: Option<&str>, document: &Value) -> Value {
        let bytes = document.to_string().into_bytes();
        let media_type = document["mediaType"].as_str().unwrap_or("application/json");
        let digest = sha256(&bytes);
        for name in [Some(digest.as_str()), tag].into_iter().flatten() {
            self.put(
                &format!("/v2/{repository}/manifests/{name}"),
                media_type,
                &bytes,
            );
        }
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// An image of these layers, each as `(media type, compressed, diff id)`.
    pub fn image(
        &self,
        repository: &str,
        tag: Option<&str>,
        architecture: &str,
        layers: &[(&str, Vec<u8>, String)],
    ) -> Value {
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|(_, _, id)| id).collect::<Vec<_>>()},
        });
        let config = self.blob(
            repository,
            "application/vnd.oci.image.config.v1+json",
            config.to_string().as_bytes(),
        );
        let layers: Vec<_> = layers
            .iter()
            .map(|(media_type, bytes, _)| self.blob(repository, media_type, bytes))
            .collect();
        let manifest =
            json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        self.document(repository, tag, &manifest)
    }

    /// The same of plain archives, for this machine.
    pub fn plain_image(&self, repository: &str, tag: &str, layers: &[Vec<u8>]) -> Value {
        let layers: Vec<_> = layers
            .iter()
            .map(|layer| (LAYER, layer.clone(), sha256(layer)))
            .collect();
        self.image(repository, Some(tag), architecture(), &layers)
    }

    pub fn content(&self, path: &str) -> Vec<u8> {
        self.shared.content.lock().unwrap()[path].1.clone()
    }

    /// The paths that were asked for.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    pub fn count(&self, part: &str) -> usize {
        self.asked()
            .iter()
            .filter(|a| a.path.contains(part))
            .count()
    }

    pub fn name(&self, rest: &str) -> kernelet_image::Reference {
        format!("{}/{rest}", self.host).parse().unwrap()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.shared.address);
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let mut words = line.split_whitespace();
            let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
            let mut headers = BTreeMap::new();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).ok()?;
                match line.trim_end().split_once(": ") {
                    Some((name, value)) => {
                        headers.insert(name.to_lowercase(), value.to_owned());
                    }
                    None => break,
                }
            }
            let length = headers
                .get("content-length")
                .and_then(|n| n.parse().ok())
                .unwrap_or(0);
            let mut body = vec![0; length];
            std::io::Read::read_exact(&mut reader, &mut body).ok()?;
            let asked = Asked {
                method,
                path,
                headers,
                body: String::from_utf8_lossy(&body).into_owned(),
            };
            let n = {
                let mut all = self.asked.lock().unwrap();
                all.push(asked.clone());
                all.iter().filter(|a| a.path == asked.path).count()
            };
            let reply = (self.twist)(&asked, n, self.honest(&asked));
            if !self.send(&stream, reply)? {
                return None;
            }
        }
    }

    fn honest(&self, asked: &Asked) -> Reply {
        let path = asked.path.split('?').next().unwrap();
        let Some((media_type, bytes)) = self.content.lock().unwrap().get(path).cloned() else {
            let error =
                json!({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]});
            return Reply::new(404, error.to_string());
        };
        let range = asked
            .header("range")
            .strip_prefix("bytes=")
            .and_then(|r| r.strip_suffix('-')?.parse::<usize>().ok());
        let reply = match range {
            Some(from) if from < bytes.len() => {
                let all = bytes.len();
                Reply::new(206, &bytes[from..])
                    .with("Content-Range", format!("bytes {from}-{}/{all}", all - 1))
            }
            _ => Reply::new(200, bytes),
        };
        reply.with("Content-Type", media_type)
    }

    /// False: the connection is over.
    fn send(&self, mut stream: &TcpStream, reply: Reply) -> Option<bool> {
        let length = reply.length.unwrap_or(reply.body.len() as u64);
        let mut head = format!(
            "HTTP/1.1 {} X\r\nContent-Length: {length}\r\n",
            reply.status
        );
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        if reply.hang {
            let some = reply.cut.unwrap_or(0).min(reply.body.len());
            stream.write_all(&reply.body[..some]).ok()?;
            while !self.over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(5));
            }
            return Some(false);
        }
        let end = reply.cut.unwrap_or(reply.body.len()).min(reply.body.len());
        stream.write_all(&reply.body[..end]).ok()?;
        Some(reply.cut.is_none() && reply.length.is_none())
    }
}

pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A puller that doesn't wait long.
pub fn puller(store: &kernelet_image::ImageStore, registries: Registries) -> Puller {
    let retry = Retry {
        tries: 4,
        first: Duration::from_millis(1),
    };
    Puller::with(
        store.clone(),
        registries,
        retry,
        Some(Duration::from_secs(2)),
    )
}

/// Options that write down what is told.
pub fn options(keyring: Keyring) -> (PullOptions, Arc<Mutex<Vec<PullEvent>>>) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let told = events.clone();
    let options = PullOptions {
        keyring,
        progress: Arc::new(move |event| told.lock().unwrap().push(event.clone())),
        ..PullOptions::default()
    };
    (options, events)
}

/// Runs what is asynchronous.
pub fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

/// An error with its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}
