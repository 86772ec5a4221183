//! Watching any kind's metadata, for the parts that work on all kinds (garbage collection).
//! No store stands behind it: the caller keeps the little it needs of each object.

use crate::reflect::{Events, Seen, Selectors, Source, follow};
use futures::StreamExt;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, ListParams, ObjectMeta, PartialObjectMeta, WatchParams},
    core::ObjectList,
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

struct Metadata(Api<DynamicObject>);

impl Source for Metadata {
    type Item = PartialObjectMeta<DynamicObject>;

    async fn list(&self, params: &ListParams) -> kube::Result<ObjectList<Self::Item>> {
        self.0.list_metadata(params).await
    }

    async fn watch(&self, params: &WatchParams, version: &str) -> kube::Result<Events<Self::Item>> {
        Ok(self.0.watch_metadata(params, version).await?.boxed())
    }
}

/// Lists and watches a kind's metadata in all namespaces until shutdown.
pub async fn watch_metadata(
    client: Client,
    resource: ApiResource,
    shutdown: CancellationToken,
    mut take: impl FnMut(MetadataEvent) + Send,
) {
    let api: Api<DynamicObject> = Api::all_with(client, &resource);
    let url = api.resource_url().to_owned();
    let (source, selectors) = (Metadata(api), Selectors::default());
    let lean = |object: PartialObjectMeta<DynamicObject>| {
        let mut meta = object.metadata;
        meta.managed_fields = None;
        Box::new(meta)
    };
    let watching = follow(&url, &source, &selectors, |seen| {
        take(match seen {
            Seen::ListBegins => MetadataEvent::ListBegins,
            Seen::ListItem(object) => MetadataEvent::ListItem(lean(object)),
            Seen::Listed => MetadataEvent::Listed,
            Seen::Applied(object) => MetadataEvent::Applied(lean(object)),
            Seen::Deleted(object) => MetadataEvent::Deleted(lean(object)),
        });
    });
    tokio::select! {
        never = watching => match never {},
        // `take` isn't async: no change is ever half taken.
        () = shutdown.cancelled() => {}
    }
}
