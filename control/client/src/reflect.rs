//! The resilient watch behind a store: 410 lists again, a lost connection resumes where it was.
//!
//! kube's watcher holds that state machine; this adds the pause after an error, short at first
//! (a restarted server is back within a second) and capped at ten seconds.

use crate::shared::{Feed, Object};
use futures::{Stream, StreamExt};
use kube::{
    Api,
    runtime::watcher::{self, Event},
};
use std::{pin::pin, time::Duration};
use tokio_util::sync::CancellationToken;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

pub(crate) async fn drive<K: Object>(
    api: Api<K>,
    config: watcher::Config,
    mut feed: Feed<K>,
    shutdown: CancellationToken,
) {
    let url = api.resource_url().to_owned();
    let events = watcher::watcher(api, config);
    follow(&url, events, &shutdown, |event| match event {
        Event::Init => feed.list_begins(),
        Event::InitApply(object) => feed.list_item(object),
        Event::InitDone => feed.listed(),
        Event::Apply(object) => feed.apply(object),
        Event::Delete(object) => feed.delete(&object),
    })
    .await;
}

/// Hands every event to `take` until shutdown, pausing after errors.
pub(crate) async fn follow<T>(
    url: &str,
    events: impl Stream<Item = watcher::Result<Event<T>>>,
    shutdown: &CancellationToken,
    mut take: impl FnMut(Event<T>),
) {
    let mut events = pin!(events);
    let mut pause = FIRST_PAUSE;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            // Nothing is half done between two events.
            () = shutdown.cancelled() => return,
        };
        match event {
            Some(Ok(event)) => {
                // `Init` only says that a list is about to be tried.
                if !matches!(event, Event::Init) {
                    pause = FIRST_PAUSE;
                }
                take(event);
            }
            Some(Err(error)) => {
                tracing::debug!(url, %error, ?pause, "watch interrupted");
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = shutdown.cancelled() => return,
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            // kube's watcher never ends by itself.
            None => return,
        }
    }
}
