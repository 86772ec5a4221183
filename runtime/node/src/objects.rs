//! ConfigMaps and Secrets that pods of this node use: each watched by name while somebody needs it.
//!
//! A node may not list these kinds, only read and watch the ones its pods name (the Node authorizer). A watch
//! is shared by all pods that need the object and ends some time after the last of them, so that a pod that
//! comes soon after another finds it warm.

use std::{
    collections::HashMap,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use futures::{StreamExt, pin_mut};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{ConfigMap, Secret},
};
use kernelet_client::Client;
use kube::{
    Api, Resource,
    runtime::{
        WatchStreamExt,
        watcher::{self, Config, Event},
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

/// How long an unused object stays watched.
const LINGER: Duration = Duration::from_secs(60);
/// A watch that has told nothing by then counts as failed for whoever waits.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// `None`: not heard of yet; `Some(None)`: there is none.
type Level<K> = Option<Option<Arc<K>>>;
type Key = (String, String);

pub(crate) struct Objects {
    config_maps: Kind<ConfigMap>,
    secrets: Kind<Secret>,
}

/// One object, kept current as long as this lives.
pub(crate) struct Kept<K> {
    entry: Arc<Entry<K>>,
}

impl<K> Clone for Kept<K> {
    fn clone(&self) -> Self {
        Self {
            entry: self.entry.clone(),
        }
    }
}

struct Entry<K> {
    name: String,
    level: watch::Receiver<Level<K>>,
    /// Dropped with the last user; the watching task sees it.
    _alive: watch::Sender<()>,
}

struct Kind<K> {
    client: Client,
    entries: Mutex<HashMap<Key, Weak<Entry<K>>>>,
}

#[derive(Debug, thiserror::Error)]
#[error("the API did not answer for {kind} \"{name}\" in time")]
pub(crate) struct NoAnswer {
    kind: String,
    name: String,
}

impl Objects {
    pub fn new(client: Client) -> Self {
        Self {
            config_maps: Kind::new(client.clone()),
            secrets: Kind::new(client),
        }
    }

    pub fn config_map(&self, namespace: &str, name: &str) -> Kept<ConfigMap> {
        self.config_maps.keep(namespace, name)
    }

    pub fn secret(&self, namespace: &str, name: &str) -> Kept<Secret> {
        self.secrets.keep(namespace, name)
    }
}

impl<K> Kept<K>
where
    K: Resource<DynamicType = ()>,
{
    /// The object as it is now; waits for the first answer of its watch.
    pub async fn get(&self) -> Result<Option<Arc<K>>, NoAnswer> {
        let mut level = self.entry.level.clone();
        let no_answer = || NoAnswer {
            kind: K::kind(&()).to_lowercase(),
            name: self.entry.name.clone(),
        };
        match tokio::time::timeout(FIRST_ANSWER, level.wait_for(Option::is_some)).await {
            Ok(Ok(value)) => Ok(value.clone().flatten()),
            _ => Err(no_answer()),
        }
    }

    /// Resolves at the next change after `self` was last looked at through this receiver.
    pub fn changes(&self) -> watch::Receiver<Level<K>> {
        self.entry.level.clone()
    }
}

impl<K> Kind<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    fn new(client: Client) -> Self {
        Self {
            client,
            entries: Mutex::default(),
        }
    }

    fn keep(&self, namespace: &str, name: &str) -> Kept<K> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(entry) = entries.get(&key).and_then(Weak::upgrade) {
            return Kept { entry };
        }
        entries.retain(|_, entry| entry.strong_count() > 0);
        let (level, receiver) = watch::channel(None);
        let (alive, gone) = watch::channel(());
        let entry = Arc::new(Entry {
            name: name.to_owned(),
            level: receiver,
            _alive: alive,
        });
        entries.insert(key, Arc::downgrade(&entry));
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        tokio::spawn(follow(api, name.to_owned(), level, gone));
        tokio::spawn(linger(entry.clone()));
        Kept { entry }
    }
}

/// Holds the entry until nobody else has held it for a while.
async fn linger<K>(entry: Arc<Entry<K>>) {
    loop {
        tokio::time::sleep(LINGER).await;
        if Arc::strong_count(&entry) <= 1 {
            return;
        }
    }
}

async fn follow<K>(
    api: Api<K>,
    name: String,
    level: watch::Sender<Level<K>>,
    mut gone: watch::Receiver<()>,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let config = Config::default().fields(&format!("metadata.name={name}"));
    let events = watcher::watcher(api, config).default_backoff();
    pin_mut!(events);
    let mut listed = None;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            // An error: the entry was dropped, and nobody reads the level any more.
            Err(_) = gone.changed() => return,
        };
        match event {
            Some(Ok(Event::Init)) => listed = None,
            Some(Ok(Event::InitApply(object))) => listed = Some(Arc::new(object)),
            Some(Ok(Event::InitDone)) => publish(&level, listed.take()),
            Some(Ok(Event::Apply(object))) => publish(&level, Some(Arc::new(object))),
            Some(Ok(Event::Delete(_))) => publish(&level, None),
            Some(Err(error)) => tracing::debug!(%error, %name, "watch of a pod's object"),
            None => return,
        }
    }
}

fn publish<K: Resource<DynamicType = ()>>(level: &watch::Sender<Level<K>>, object: Option<Arc<K>>) {
    let version = |o: &Option<Arc<K>>| {
        o.as_ref()
            .map(|o| (o.meta().uid.clone(), o.meta().resource_version.clone()))
    };
    level.send_if_modified(|known| {
        let news = known
            .as_ref()
            .is_none_or(|known| version(known) != version(&object));
        if news {
            *known = Some(object);
        }
        news
    });
}
