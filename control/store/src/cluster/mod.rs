//! The store as an etcd cluster: the same handle, every call a request.
//!
//! etcd's semantics are the store's, so this translates words and nothing else. What it adds: the newest revision
//! that any answer named, from which a watch "from now on" starts.

mod convert;
mod watch;

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use etcd_client::{Certificate, Client, ConnectOptions, Identity, ResponseHeader, TlsOptions};

use self::convert::failed;
pub(crate) use self::watch::ClusterWatcher;
use crate::{
    LeaseId, LeaseStatus, OpenError, Range, RangeResponse, Revision, Stats, StoreError, Txn,
    TxnResponse, Watch, validate,
};

/// Answers can be as large as a list; the default of 4 MiB is not.
const MAX_ANSWER: usize = 1 << 30;
/// etcd's own limit on a request, less what encoding adds.
const MAX_TXN_BYTES: usize = 1_500_000;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    seen: AtomicI64,
    /// Whether its answer to a progress request can be believed.
    progress: bool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}

/// `etcd://host:port,…` or `etcds://host:port,…?ca=FILE&cert=FILE&key=FILE`, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Address {
    endpoints: Vec<String>,
    tls: Option<TlsFiles>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct TlsFiles {
    ca: Option<String>,
    identity: Option<(String, String)>,
}

impl Address {
    fn parse(url: &str) -> Result<Address, &'static str> {
        let (scheme, rest) = url.split_once("://").ok_or("it has no scheme")?;
        let (hosts, query) = match rest.split_once('?') {
            Some((hosts, query)) => (hosts, Some(query)),
            None => (rest, None),
        };
        let http = match scheme {
            "etcd" => "http",
            "etcds" => "https",
            _ => return Err("the scheme is etcd or etcds"),
        };
        let endpoints: Vec<_> = hosts
            .trim_end_matches('/')
            .split(',')
            .map(|host| match host.rsplit_once(':') {
                Some((name, port)) if !name.is_empty() && port.parse::<u16>().is_ok() => {
                    Ok(format!("{http}://{host}"))
                }
                _ => Err("each server is host:port"),
            })
            .collect::<Result<_, _>>()?;
        let (mut ca, mut cert, mut key) = (None, None, None);
        for pair in query.into_iter().flat_map(|query| query.split('&')) {
            let (name, value) = pair.split_once('=').ok_or("a parameter has no value")?;
            match name {
                "ca" => ca = Some(value.to_owned()),
                "cert" => cert = Some(value.to_owned()),
                "key" => key = Some(value.to_owned()),
                _ => return Err("the parameters are ca, cert and key"),
            }
        }
        let identity = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err("cert and key go together"),
        };
        let tls = match http {
            "https" => Some(TlsFiles { ca, identity }),
            _ if query.is_some() => return Err("certificates need the scheme etcds"),
            _ => None,
        };
        Ok(Address { endpoints, tls })
    }
}

impl Cluster {
    pub async fn connect(url: &str) -> Result<Cluster, OpenError> {
        let address = Address::parse(url).map_err(|detail| OpenError::Url {
            url: url.to_owned(),
            detail: detail.to_owned(),
        })?;
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(Duration::from_secs(10), Duration::from_secs(5))
            .with_keep_alive_while_idle(true)
            // A member that lost the others would let a watch stand still.
            .with_require_leader(true);
        if let Some(files) = &address.tls {
            options = options.with_tls(tls(files)?);
        }
        let connect = |error: etcd_client::Error| OpenError::Connect {
            url: url.to_owned(),
            source: Arc::from(deepest(&error)),
        };
        let client = Client::connect(&address.endpoints, Some(options))
            .await
            .map_err(connect)?;
        // The first request says whether anybody is there.
        let status = async { client.maintenance_client().status().await };
        let status = tokio::time::timeout(CONNECT_TIMEOUT, status)
            .await
            .map_err(|_| OpenError::Connect {
                url: url.to_owned(),
                source: Arc::new(std::io::Error::from(std::io::ErrorKind::TimedOut)),
            })?
            .map_err(connect)?;
        let shared = Shared {
            client,
            seen: AtomicI64::new(0),
            progress: believable_progress(status.version()),
        };
        let cluster = Cluster {
            shared: Arc::new(shared),
        };
        cluster.see(status.header());
        Ok(cluster)
    }

    fn client(&self) -> Client {
        self.shared.client.clone()
    }

    fn kv(&self) -> etcd_client::KvClient {
        self.shared
            .client
            .kv_client()
            .max_decoding_message_size(MAX_ANSWER)
    }

    /// Notes an answer's revision, and gives it.
    fn see(&self, header: Option<&ResponseHeader>) -> Revision {
        let revision = header.map_or(0, ResponseHeader::revision);
        self.shared.seen.fetch_max(revision, Ordering::Relaxed);
        Revision(revision)
    }

    fn seen(&self) -> Revision {
        Revision(self.shared.seen.load(Ordering::Relaxed))
    }

    pub async fn txn(&self, txn: Txn) -> Result<TxnResponse, StoreError> {
        validate::txn(&txn, MAX_TXN_BYTES)?;
        let lease = convert::first_lease(&txn);
        let response = self
            .kv()
            .txn(convert::txn(&txn))
            .await
            .map_err(|error| failed(&error, self.seen(), None, lease))?;
        self.see(response.header());
        Ok(convert::txn_response(&response))
    }

    pub async fn range(&self, range: Range) -> Result<RangeResponse, StoreError> {
        validate::range(&range)?;
        // etcd takes a range that ends where it starts, or before, for an error or for nothing.
        let options = convert::get_options(&range);
        let response = self
            .kv()
            .get(range.key.to_vec(), Some(options))
            .await
            .map_err(|error| failed(&error, self.seen(), range.revision, LeaseId::NONE))?;
        self.see(response.header());
        Ok(convert::range_response(response))
    }

    pub fn watch(&self, watch: Watch) -> ClusterWatcher {
        ClusterWatcher::new(self.clone(), watch)
    }

    pub async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let response = self
            .kv()
            .compact(revision.0, None)
            .await
            .map_err(|error| failed(&error, self.seen(), Some(revision), LeaseId::NONE))?;
        self.see(response.header());
        Ok(())
    }

    pub async fn lease_grant(
        &self,
        id: Option<LeaseId>,
        ttl: Duration,
    ) -> Result<LeaseStatus, StoreError> {
        if ttl.is_zero() {
            return Err(StoreError::Invalid("a lease needs a time to live"));
        }
        let chosen = id.unwrap_or(LeaseId::NONE);
        // Whole seconds, rather longer than shorter.
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        let options = etcd_client::LeaseGrantOptions::new().with_id(chosen.0);
        let response = self
            .client()
            .lease_grant(seconds, Some(options))
            .await
            .map_err(|error| failed(&error, self.seen(), None, chosen))?;
        self.see(response.header());
        let granted = seconds_of(response.ttl());
        Ok(LeaseStatus {
            id: LeaseId(response.id()),
            granted,
            remaining: granted,
            keys: Vec::new(),
        })
    }

    pub async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration, StoreError> {
        let failed = |error| match &error {
            // The client's own word for an answer without time left.
            etcd_client::Error::LeaseKeepAliveError(text) if text == "lease not found" => {
                StoreError::LeaseNotFound(id)
            }
            _ => failed(&error, self.seen(), None, id),
        };
        let (mut keeper, mut answers) =
            self.client().lease_keep_alive(id.0).await.map_err(failed)?;
        keeper.keep_alive().await.map_err(failed)?;
        match answers.message().await.map_err(failed)? {
            Some(answer) if answer.ttl() > 0 => Ok(seconds_of(answer.ttl())),
            _ => Err(StoreError::LeaseNotFound(id)),
        }
    }

    pub async fn lease_revoke(&self, id: LeaseId) -> Result<Revision, StoreError> {
        let response = self
            .client()
            .lease_revoke(id.0)
            .await
            .map_err(|error| failed(&error, self.seen(), None, id))?;
        Ok(self.see(response.header()))
    }

    pub async fn lease_time_to_live(&self, id: LeaseId) -> Result<LeaseStatus, StoreError> {
        let options = etcd_client::LeaseTimeToLiveOptions::new().with_keys();
        let response = self
            .client()
            .lease_time_to_live(id.0, Some(options))
            .await
            .map_err(|error| failed(&error, self.seen(), None, id))?;
        self.see(response.header());
        if response.ttl() < 0 {
            return Err(StoreError::LeaseNotFound(id));
        }
        Ok(LeaseStatus {
            id,
            granted: seconds_of(response.granted_ttl()),
            remaining: seconds_of(response.ttl()),
            keys: response
                .keys()
                .iter()
                .map(|key| key.clone().into())
                .collect(),
        })
    }

    pub async fn leases(&self) -> Result<Vec<LeaseId>, StoreError> {
        let response = self
            .client()
            .leases()
            .await
            .map_err(|error| failed(&error, self.seen(), None, LeaseId::NONE))?;
        Ok(response
            .leases()
            .iter()
            .map(|lease| LeaseId(lease.id()))
            .collect())
    }

    pub async fn revision(&self) -> Result<Revision, StoreError> {
        let probe = Range {
            count_only: true,
            ..Range::key("\0")
        };
        Ok(self.range(probe).await?.revision)
    }

    pub async fn stats(&self) -> Result<Stats, StoreError> {
        let failed = |error| failed(&error, self.seen(), None, LeaseId::NONE);
        let status = self.client().status().await.map_err(failed)?;
        let count = Range {
            count_only: true,
            ..Range::prefix("")
        };
        let count = self.range(count).await?;
        Ok(Stats {
            revision: count.revision,
            keys: count.count,
            file_bytes: u64::try_from(status.db_size()).unwrap_or(0),
            leases: self.leases().await?.len() as u64,
            ..Stats::default()
        })
    }
}

fn seconds_of(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// What lies at the bottom: the layers above it print each other's debug forms.
fn deepest(error: &etcd_client::Error) -> Box<dyn std::error::Error + Send + Sync> {
    let mut cause: &dyn std::error::Error = match error {
        // It names its status' source only in its text.
        etcd_client::Error::GRpcStatus(status) => status,
        error => error,
    };
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string().into()
}

fn tls(files: &TlsFiles) -> Result<TlsOptions, OpenError> {
    let read = |path: &String| {
        std::fs::read(path).map_err(|source| OpenError::Io {
            attempt: "read",
            path: path.into(),
            source,
        })
    };
    let mut tls = TlsOptions::new();
    if let Some(ca) = &files.ca {
        tls = tls.ca_certificate(Certificate::from_pem(read(ca)?));
    }
    if let Some((cert, key)) = &files.identity {
        tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    Ok(tls)
}

/// Older servers report progress before they have sent the events that it covers (etcd issue 15220).
fn believable_progress(version: &str) -> bool {
    let mut numbers = version
        .split(['.', '-', '+'])
        .map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(3), Some(4), Some(patch)) => patch >= 31,
        (Some(3), Some(5), Some(patch)) => patch >= 13,
        (Some(major), Some(minor), Some(_)) => (major, minor) > (3, 5),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_servers_and_certificates() {
        let parsed = Address::parse("etcd://a:2379,b:2379").unwrap();
        assert_eq!(parsed.endpoints, ["http://a:2379", "http://b:2379"]);
        assert_eq!(parsed.tls, None);
        let parsed = Address::parse("etcds://[::1]:2379?ca=/a&cert=/b&key=/c").unwrap();
        assert_eq!(parsed.endpoints, ["https://[::1]:2379"]);
        let identity = Some(("/b".to_owned(), "/c".to_owned()));
        assert_eq!(
            parsed.tls,
            Some(TlsFiles {
                ca: Some("/a".to_owned()),
                identity
            })
        );
        for wrong in [
            "a:2379",
            "http://a:2379",
            "etcd://",
            "etcd://a",
            "etcd://a:x",
            "etcd://a:1,",
            "etcd://a:1?ca=/x",
            "etcds://a:1?cert=/x",
            "etcds://a:1?what=1",
            "etcds://a:1?ca",
        ] {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn progress_is_believed_from_the_releases_that_fixed_it() {
        for (version, believed) in [
            ("3.4.23", false),
            ("3.4.31", true),
            ("3.5.8", false),
            ("3.5.16", true),
            ("3.6.0", true),
            ("4.0.0", true),
            ("3.7.0-alpha.0", true),
            ("junk", false),
            ("2.3.8", false),
        ] {
            assert_eq!(believable_progress(version), believed, "{version}");
        }
    }
}
