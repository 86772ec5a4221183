//! The resilient watch behind a store.
//!
//! ```text
//! list ─→ watch ─(end, lost connection)─→ pause ─→ watch from the last revision
//!  ↑        └─(410, or refused again and again)─→ pause ─┐
//!  └─────────────────────────────────────────────────────┘
//! ```
//! kube's own watcher was turned down: it asks at once and for ever when the server answers a
//! watch with 410, or closes it right away, as one that is shutting down does. The pause is short
//! at first (a restarted server is back within a second) and ten seconds at most; a watch that
//! lived for a while resets it.

use crate::{
    is_gone,
    shared::{Feed, Object},
};
use futures::{Stream, StreamExt};
use kube::{
    Api, Resource, ResourceExt,
    api::{ListParams, WatchEvent, WatchParams},
    core::ObjectList,
};
use serde::de::DeserializeOwned;
use std::{fmt::Debug, future::Future, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A watch that lived for this long was a good one.
const GOOD_LIFE: Duration = Duration::from_secs(1);
/// Refusals in a row after which the revision is taken for the cause (a restored backup, say).
const PATIENCE: u32 = 8;
const PAGE: u32 = 500;
/// The server ends a watch after the first; one that outlives the second is dead.
const WATCH_SECONDS: u32 = 290;
const WATCH_DEAD: Duration = Duration::from_secs(300);

/// What a watch reports. Everything between `ListBegins` and `Listed` is one list, and stands for
/// everything there is.
#[derive(Debug)]
pub(crate) enum Seen<T> {
    ListBegins,
    ListItem(T),
    Listed,
    Applied(T),
    Deleted(T),
}

/// Where a kind is listed and watched.
pub(crate) trait Source: Sync {
    type Item: Resource + Send;

    fn list(
        &self,
        params: &ListParams,
    ) -> impl Future<Output = kube::Result<ObjectList<Self::Item>>> + Send
    where
        Self::Item: Clone;

    fn watch(
        &self,
        params: &WatchParams,
        version: &str,
    ) -> impl Future<Output = kube::Result<Events<Self::Item>>> + Send;
}

pub(crate) type Events<T> =
    std::pin::Pin<Box<dyn Stream<Item = kube::Result<WatchEvent<T>>> + Send>>;

impl<K> Source for Api<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    type Item = K;

    async fn list(&self, params: &ListParams) -> kube::Result<ObjectList<K>> {
        Api::list(self, params).await
    }

    async fn watch(&self, params: &WatchParams, version: &str) -> kube::Result<Events<K>> {
        Ok(Api::watch(self, params, version).await?.boxed())
    }
}

/// Selectors of a list and its watch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selectors {
    pub labels: Option<String>,
    pub fields: Option<String>,
}

pub(crate) async fn drive<K: Object>(
    api: Api<K>,
    selectors: Selectors,
    mut feed: Feed<K>,
    shutdown: CancellationToken,
) {
    let url = api.resource_url().to_owned();
    let watching = follow(&url, &api, &selectors, |seen| match seen {
        Seen::ListBegins => feed.list_begins(),
        Seen::ListItem(object) => feed.list_item(object),
        Seen::Listed => feed.listed(),
        Seen::Applied(object) => feed.apply(object),
        Seen::Deleted(object) => feed.delete(&object),
    });
    tokio::select! {
        never = watching => match never {},
        // `take` isn't async: no change is ever half taken.
        () = shutdown.cancelled() => {}
    }
}

/// Why a watch ended.
enum End {
    /// Go on from the last revision.
    Interrupted(Option<kube::Error>),
    /// The revision is of no use any more.
    Gone,
}

/// Hands everything that is seen to `take`, for ever.
pub(crate) async fn follow<S>(
    url: &str,
    source: &S,
    selectors: &Selectors,
    mut take: impl FnMut(Seen<S::Item>),
) -> std::convert::Infallible
where
    S: Source,
    S::Item: Clone,
{
    let mut pause = Pause(FIRST_PAUSE);
    loop {
        let mut version = match list(source, selectors, &mut take).await {
            Ok(version) => version,
            Err(error) => {
                tracing::debug!(url, %error, pause = ?pause.0, "list failed");
                pause.wait().await;
                continue;
            }
        };
        let mut refusals = 0;
        loop {
            let begun = Instant::now();
            let end = watch(source, selectors, &mut version, &mut take).await;
            if begun.elapsed() >= GOOD_LIFE {
                pause = Pause(FIRST_PAUSE);
                refusals = 0;
            }
            match end {
                End::Gone => {
                    tracing::debug!(url, version, "revision is gone; listing again");
                    pause.wait().await;
                    break;
                }
                End::Interrupted(error) => {
                    tracing::debug!(url, version, ?error, pause = ?pause.0, "watch ended");
                    refusals += u32::from(matches!(error, Some(kube::Error::Api(_))));
                    pause.wait().await;
                    if refusals >= PATIENCE {
                        break;
                    }
                }
            }
        }
    }
}

struct Pause(Duration);

impl Pause {
    async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(LONGEST_PAUSE);
    }
}

/// Reports a whole list; returns its revision.
async fn list<S>(
    source: &S,
    selectors: &Selectors,
    take: &mut impl FnMut(Seen<S::Item>),
) -> kube::Result<String>
where
    S: Source,
    S::Item: Clone,
{
    let mut params = ListParams {
        label_selector: selectors.labels.clone(),
        field_selector: selectors.fields.clone(),
        limit: Some(PAGE),
        ..ListParams::default()
    };
    take(Seen::ListBegins);
    loop {
        let page = source.list(&params).await?;
        for item in page.items {
            take(Seen::ListItem(item));
        }
        let more = page.metadata.continue_.filter(|token| !token.is_empty());
        match more {
            Some(token) => params.continue_token = Some(token),
            None => {
                take(Seen::Listed);
                return Ok(page.metadata.resource_version.unwrap_or_default());
            }
        }
    }
}

/// Reports changes after `version`, which moves with them, until the watch ends.
async fn watch<S: Source>(
    source: &S,
    selectors: &Selectors,
    version: &mut String,
    take: &mut impl FnMut(Seen<S::Item>),
) -> End {
    let params = WatchParams {
        label_selector: selectors.labels.clone(),
        field_selector: selectors.fields.clone(),
        timeout: Some(WATCH_SECONDS),
        ..WatchParams::default()
    };
    let mut events = match source.watch(&params, version).await {
        Ok(events) => events,
        Err(error) if is_gone(&error) => return End::Gone,
        Err(error) => return End::Interrupted(Some(error)),
    };
    loop {
        let Ok(Some(event)) = tokio::time::timeout(WATCH_DEAD, events.next()).await else {
            return End::Interrupted(None);
        };
        let (object, deleted) = match event {
            Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => (object, false),
            Ok(WatchEvent::Deleted(object)) => (object, true),
            Ok(WatchEvent::Bookmark(bookmark)) => {
                *version = bookmark.metadata.resource_version;
                continue;
            }
            Ok(WatchEvent::Error(status)) if status.code == 410 => return End::Gone,
            Ok(WatchEvent::Error(status)) => {
                return End::Interrupted(Some(kube::Error::Api(status.boxed())));
            }
            Err(error) => return End::Interrupted(Some(error)),
        };
        if let Some(new) = object.resource_version() {
            *version = new;
        }
        take(if deleted {
            Seen::Deleted(object)
        } else {
            Seen::Applied(object)
        });
    }
}
