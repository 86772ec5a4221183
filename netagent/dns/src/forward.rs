//! Asking the host's resolvers for names outside the cluster.
//!
//! A question is sent on as it came, under an id and from a port of its own, over the transport that the client chose
//! (so that a truncated answer reaches the client, which then asks over TCP). Nothing is cached here: the resolvers do.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::{Notify, Semaphore},
    time::timeout,
};
use tracing::{debug, warn};

use crate::config::{Upstreams, name_servers};

/// How long one resolver may take before the next is asked.
const PATIENCE: Duration = Duration::from_secs(2);
/// Questions on their way at once; more fail at once instead of piling up (and a loop that the probe missed dies out).
const MAX_IN_FLIGHT: usize = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    #[error("no resolver outside the cluster is known")]
    NoUpstream,
    #[error("too many questions are under way")]
    Busy,
    #[error("asking {0}")]
    Ask(SocketAddr, #[source] io::Error),
}

pub(crate) struct Forwarder {
    source: Upstreams,
    /// Addresses that lead back here.
    not: Vec<IpAddr>,
    state: ArcSwap<State>,
    in_flight: Semaphore,
    probe: OnceLock<Name>,
    /// Resolvers came that were not probed yet.
    changed: Notify,
}

/// What tells one edition of a file from the next: when it was written, how long it is, its inode.
type Edition = (SystemTime, u64, u64);

fn edition(path: &Path) -> Option<Edition> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len(), meta.ino()))
}

#[derive(Clone, Default)]
struct State {
    /// Which file was read last; inside, `None` when there was none.
    read: Option<Option<Edition>>,
    servers: Vec<SocketAddr>,
    /// Resolvers that were found to ask us in turn.
    looping: Vec<SocketAddr>,
}

impl Forwarder {
    pub(crate) fn new(source: Upstreams, not: Vec<IpAddr>) -> Self {
        Self {
            source,
            not,
            state: ArcSwap::from_pointee(State::default()),
            in_flight: Semaphore::new(MAX_IN_FLIGHT),
            probe: OnceLock::new(),
            changed: Notify::new(),
        }
    }

    /// The resolvers as they are now.
    fn servers(&self) -> Vec<SocketAddr> {
        match &self.source {
            Upstreams::Fixed(servers) => {
                let state = self.state.load();
                servers
                    .iter()
                    .copied()
                    .filter(|server| !state.looping.contains(server))
                    .collect()
            }
            Upstreams::ResolvConf(path) => {
                self.refresh(path);
                self.state.load().servers.clone()
            }
        }
    }

    /// Reads the file again if it is another one than the last time. That costs one `stat` a question.
    fn refresh(&self, path: &Path) {
        let edition = edition(path);
        let state = self.state.load();
        if state.read == Some(edition) {
            return;
        }
        let text = fs::read_to_string(path).unwrap_or_else(|error| {
            warn!(path = %path.display(), %error, "reading the host's resolvers");
            String::new()
        });
        let servers: Vec<SocketAddr> = name_servers(&text, &self.not)
            .into_iter()
            .filter(|server| !state.looping.contains(server))
            .collect();
        let others = servers != state.servers;
        self.state.store(Arc::new(State {
            read: Some(edition),
            servers,
            looping: state.looping.clone(),
        }));
        if others {
            self.changed.notify_one();
        }
    }

    /// Sends `question` on and answers what came back.
    pub(crate) async fn ask(
        &self,
        question: &[u8],
        transport: Transport,
    ) -> Result<Message, ForwardError> {
        let _place = self
            .in_flight
            .try_acquire()
            .map_err(|_| ForwardError::Busy)?;
        let mut last = ForwardError::NoUpstream;
        for server in self.servers() {
            match ask_one(server, question, transport).await {
                // A resolver that can't help may have a neighbour that can.
                Ok(answer) if answer.metadata.response_code == ResponseCode::ServFail => {
                    last = ForwardError::Ask(server, io::Error::other("it answered SERVFAIL"));
                }
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    debug!(%server, %error, "asking a resolver");
                    last = ForwardError::Ask(server, error);
                }
            }
        }
        Err(last)
    }

    pub(crate) async fn ask_for(
        &self,
        name: Name,
        ty: RecordType,
    ) -> Result<Message, ForwardError> {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name, ty));
        // A name that DNS can't carry was refused before it came here.
        let bytes = message.to_vec().map_err(|_| ForwardError::NoUpstream)?;
        match self.ask(&bytes, Transport::Udp).await {
            Ok(answer) if answer.metadata.truncation => self.ask(&bytes, Transport::Tcp).await,
            other => other,
        }
    }

    /// Whether this is the name that only [`Forwarder::drop_loops`] asks for.
    pub(crate) fn is_probe(&self, name: &Name) -> bool {
        self.probe.get() == Some(name)
    }

    /// Drops resolvers that ask us in turn: those of now, and whenever there are others.
    pub(crate) async fn watch_for_loops(&self, probe: Name) {
        loop {
            self.drop_loops(&probe).await;
            self.changed.notified().await;
        }
    }

    /// Asks each resolver for a name that nobody else knows. One that comes back refused in the way that only this
    /// server refuses asks us in turn, and is not asked again.
    async fn drop_loops(&self, probe: &Name) {
        let probe = self.probe.get_or_init(|| probe.clone());
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(probe.clone(), RecordType::HINFO));
        let Ok(bytes) = message.to_vec() else { return };
        for server in self.servers() {
            if let Ok(answer) = ask_one(server, &bytes, Transport::Udp).await
                && answer.metadata.response_code == ResponseCode::YXDomain
            {
                warn!(%server, "this resolver sends questions back to the cluster's DNS; it is not asked any more");
                let mut state = State::clone(&self.state.load());
                state.looping.push(server);
                state.servers.retain(|known| *known != server);
                self.state.store(Arc::new(state));
            }
        }
    }
}

async fn ask_one(server: SocketAddr, question: &[u8], transport: Transport) -> io::Result<Message> {
    let (id, question) = with_own_id(question)?;
    let exchange = async {
        match transport {
            Transport::Udp => over_udp(server, &question, id).await,
            Transport::Tcp => over_tcp(server, &question, id).await,
        }
    };
    match timeout(PATIENCE, exchange).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "it didn't answer in time",
        )),
    }
}

/// The question under a fresh id: together with a fresh port, that is what a forger would have to guess.
fn with_own_id(question: &[u8]) -> io::Result<(u16, Vec<u8>)> {
    let mut question = question.to_vec();
    let id = Message::query().metadata.id;
    match question.get_mut(..2) {
        Some(bytes) => bytes.copy_from_slice(&id.to_be_bytes()),
        None => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a question without a header",
            ));
        }
    }
    Ok((id, question))
}

async fn over_udp(server: SocketAddr, question: &[u8], id: u16) -> io::Result<Message> {
    let any: SocketAddr = if server.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; 65_535];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Anything that isn't the answer to this question is noise, or an attempt to forge one.
        if let Some(answer) = matching(&buffer[..length], id, question) {
            return Ok(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, question: &[u8], id: u16) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the question is too long"))?;
    let framed = [&length.to_be_bytes()[..], question].concat();
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    matching(&buffer, id, question).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "the answer is to another question",
        )
    })
}

fn matching(bytes: &[u8], id: u16, question: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let asked = Message::from_vec(question).ok()?;
    let same =
        answer.metadata.id == id && (answer.queries.is_empty() || answer.queries == asked.queries);
    same.then_some(answer)
}
