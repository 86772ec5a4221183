//! The resilient watch behind a store: 410 lists again, a lost connection resumes where it was.
//!
//! kube's watcher holds that state machine. This adds the pause after an error, short at first
//! (a restarted server is back within a second) and capped at ten seconds; and it begins anew
//! where kube's watcher would ask for the same revision for ever: when the answer to the watch
//! itself (not an event in it) is 410, or when it fails again and again.

use crate::{
    is_gone,
    shared::{Feed, Object},
};
use futures::{Stream, StreamExt};
use kube::{
    Api,
    runtime::watcher::{self, Event},
};
use std::{pin::pin, time::Duration};
use tokio_util::sync::CancellationToken;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Refusals in a row after which the revision is taken for the cause (a restored backup, say).
const PATIENCE: u32 = 8;

pub(crate) async fn drive<K: Object>(
    api: Api<K>,
    config: watcher::Config,
    mut feed: Feed<K>,
    shutdown: CancellationToken,
) {
    let url = api.resource_url().to_owned();
    let events = || watcher::watcher(api.clone(), config.clone());
    follow(&url, events, &shutdown, |event| match event {
        Event::Init => feed.list_begins(),
        Event::InitApply(object) => feed.list_item(object),
        Event::InitDone => feed.listed(),
        Event::Apply(object) => feed.apply(object),
        Event::Delete(object) => feed.delete(&object),
    })
    .await;
}

/// Hands every event to `take` until shutdown, pausing after errors. `watch` gives the events
/// from the beginning, that is with a list.
pub(crate) async fn follow<T, S>(
    url: &str,
    watch: impl Fn() -> S,
    shutdown: &CancellationToken,
    mut take: impl FnMut(Event<T>),
) where
    S: Stream<Item = watcher::Result<Event<T>>>,
{
    let mut events = pin!(watch());
    let mut pause = FIRST_PAUSE;
    let mut failures = 0;
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
                    failures = 0;
                }
                take(event);
            }
            Some(Err(error)) => {
                tracing::debug!(url, %error, ?pause, "watch interrupted");
                failures += 1;
                if must_list_again(&error, failures) {
                    failures = 0;
                    events.set(watch());
                }
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

fn must_list_again(error: &watcher::Error, failures: u32) -> bool {
    match error {
        watcher::Error::WatchStartFailed(error) => is_gone(error) || failures >= PATIENCE,
        _ => false,
    }
}
