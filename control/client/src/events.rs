//! The recorder of events (core/v1), as upstream's components write them.
//!
//! Recording never waits: events go through a bounded channel to a task that correlates and sends
//! them, and are dropped when it is full, because an event is never worth delaying the work.

use crate::correlator::{Correlator, Send};
use crate::{is_already_exists, is_not_found};
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use std::time::Duration;
use tokio::sync::mpsc;

const QUEUED: usize = 8192;
const TRIES: u32 = 12;
const BETWEEN_TRIES: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    Normal,
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Writes a component's events. Clones share one sender; it ends with the last of them.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<Event>,
    component: &'static str,
    host: Option<String>,
}

impl Recorder {
    /// `component` is what `kubectl describe` shows as the event's origin; `host` the node's name
    /// for components of a node.
    pub fn new(client: Client, component: &'static str, host: Option<String>) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUED);
        tokio::spawn(send_all(client, receiver));
        Self {
            sender,
            component,
            host,
        }
    }

    /// A recorder whose events the caller receives instead of a server.
    pub fn capture(component: &'static str) -> (Self, mpsc::Receiver<Event>) {
        let (sender, receiver) = mpsc::channel(QUEUED);
        let recorder = Self {
            sender,
            component,
            host: None,
        };
        (recorder, receiver)
    }

    /// Records an event about a typed object.
    pub fn event<K: Resource<DynamicType = ()>>(
        &self,
        about: &K,
        type_: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.event_about(reference(about), type_, reason, message);
    }

    /// Records an event about a reference (a container's has a field path, a node's uid may be
    /// its name).
    pub fn event_about(
        &self,
        about: ObjectReference,
        type_: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let now = Timestamp::now();
        let namespace = about
            .namespace
            .clone()
            .filter(|namespace| !namespace.is_empty())
            .unwrap_or_else(|| "default".to_owned());
        let name = format!(
            "{}.{:x}",
            about.name.as_deref().unwrap_or_default(),
            now.as_nanosecond()
        );
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            involved_object: about,
            reason: Some(reason.to_owned()),
            message: Some(message.into()),
            type_: Some(type_.as_str().to_owned()),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            source: Some(EventSource {
                component: Some(self.component.to_owned()),
                host: self.host.clone(),
            }),
            reporting_component: Some(self.component.to_owned()),
            reporting_instance: Some(self.host.clone().unwrap_or_default()),
            ..Event::default()
        };
        if self.sender.try_send(event).is_err() {
            tracing::debug!(reason, "event dropped: the queue of events is full");
        }
    }
}

/// The reference by which events name an object.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: object.namespace(),
        name: Some(object.name_any()),
        uid: object.uid(),
        resource_version: object.resource_version(),
        field_path: None,
    }
}

/// Sends one after the other, as upstream's recorders do: behind a burst of bindings, events wait in the queue instead
/// of taking the server's time from the bindings.
async fn send_all(client: Client, mut events: mpsc::Receiver<Event>) {
    let mut correlator = Correlator::default();
    while let Some(event) = events.recv().await {
        let send = correlator.take(event, Timestamp::now());
        if send != Send::Drop {
            send_persistently(&client, &send).await;
        }
    }
}

async fn send_persistently(client: &Client, send: &Send) {
    for attempt in 1..=TRIES {
        match send_one(client, send).await {
            Ok(()) => return,
            // The server's refusal is final (a namespace that is being deleted, say).
            Err(error @ kube::Error::Api(_)) => {
                tracing::debug!(%error, "event refused");
                return;
            }
            Err(error) => {
                tracing::debug!(%error, attempt, "event not sent");
                tokio::time::sleep(BETWEEN_TRIES).await;
            }
        }
    }
}

async fn send_one(client: &Client, send: &Send) -> kube::Result<()> {
    let api = |event: &Event| {
        let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
        Api::<Event>::namespaced(client.clone(), namespace)
    };
    let event = match send {
        Send::Drop => return Ok(()),
        Send::Create(event) => event,
        Send::Count(event) => {
            let name = event.metadata.name.as_deref().unwrap_or_default();
            let patch = serde_json::json!({
                "count": event.count,
                "message": event.message,
                "lastTimestamp": event.last_timestamp,
            });
            let params = PatchParams::default();
            match api(event).patch(name, &params, &Patch::Merge(&patch)).await {
                Err(error) if is_not_found(&error) => event,
                other => return other.map(drop),
            }
        }
    };
    match api(event).create(&PostParams::default(), event).await {
        Err(error) if is_already_exists(&error) => Ok(()),
        other => other.map(drop),
    }
}
