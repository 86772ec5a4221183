//! Watching any kind's metadata, for the parts that work on all kinds (garbage collection).
//! No store stands behind it: the caller keeps the little it needs of each object.

use crate::reflect;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, ObjectMeta, PartialObjectMeta},
    runtime::watcher::{self, Event},
};
use tokio_util::sync::CancellationToken;

/// What a metadata watch reports. Everything between `ListBegins` and `Listed` is one list.
#[derive(Debug)]
pub enum MetadataEvent {
    ListBegins,
    ListItem(Box<ObjectMeta>),
    Listed,
    Applied(Box<ObjectMeta>),
    Deleted(Box<ObjectMeta>),
}

/// Lists and watches a kind's metadata in all namespaces until shutdown.
pub async fn watch_metadata(
    client: Client,
    resource: ApiResource,
    shutdown: CancellationToken,
    mut take: impl FnMut(MetadataEvent) + Send,
) {
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client, &resource);
    let url = api.resource_url().to_owned();
    let events = || watcher::watcher(api.clone(), watcher::Config::default());
    let lean = |mut meta: ObjectMeta| {
        meta.managed_fields = None;
        Box::new(meta)
    };
    reflect::follow(&url, events, &shutdown, |event| {
        take(match event {
            Event::Init => MetadataEvent::ListBegins,
            Event::InitApply(object) => MetadataEvent::ListItem(lean(object.metadata)),
            Event::InitDone => MetadataEvent::Listed,
            Event::Apply(object) => MetadataEvent::Applied(lean(object.metadata)),
            Event::Delete(object) => MetadataEvent::Deleted(lean(object.metadata)),
        });
    })
    .await;
}
