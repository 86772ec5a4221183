//! Services and EndpointSlices → the data plane and the DNS's records, one Service at a time, as they
//! change.

use std::sync::Arc;

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kernelet_client::{Backoff, Index, Informers, ObjectKey, Queue, Shared};
use kernelet_dns::{Records, ServiceKey as DnsKey, ServiceRecords};
use kernelet_net_plan::{NodeView, service_specs};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::kernel::{Kernel, SetServicesError};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The stores that the data plane and the DNS look at.
#[derive(Clone)]
pub struct Stores {
    pub services: Shared<Service>,
    pub slices: Shared<EndpointSlice>,
    by_service: Index<EndpointSlice>,
}

impl Stores {
    pub fn open(informers: &Informers) -> Self {
        let slices = informers.all::<EndpointSlice>();
        let by_service = slices.index(|slice| service_of(slice).into_iter().collect());
        Self {
            services: informers.all::<Service>(),
            slices,
            by_service,
        }
    }
}

fn service_of(slice: &EndpointSlice) -> Option<String> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    let namespace = slice.metadata.namespace.as_deref()?;
    Some(format!("{namespace}/{name}"))
}

/// Runs until `shutdown`: first everything, then each change.
pub async fn follow(
    kernel: Arc<Kernel>,
    stores: Stores,
    records: Records,
    view: NodeView,
    shutdown: CancellationToken,
) {
    let queue: Queue<ObjectKey> = Queue::new(Backoff::default());
    {
        let queue = queue.clone();
        stores
            .services
            .on_change(move |change| queue.add(ObjectKey::of(&**change.object())));
    }
    {
        let queue = queue.clone();
        stores.slices.on_change(move |change| {
            let owners = change.old().into_iter().chain(change.new());
            let owners = owners
                .chain([change.object()])
                .filter_map(|slice| service_of(slice));
            for owner in owners {
                if let Some((namespace, name)) = owner.split_once('/') {
                    queue.add(ObjectKey::new(namespace, name));
                }
            }
        });
    }
    let synced = async {
        stores.services.wait_until_synced().await;
        stores.slices.wait_until_synced().await;
    };
    tokio::select! {
        () = synced => {}
        () = shutdown.cancelled() => return,
    }
    for (index, service) in stores.services.list().iter().enumerate() {
        let key = ObjectKey::of(&**service);
        if let Err(error) = reconcile(&kernel, &stores, &records, &view, &key) {
            warn!(error = &error as &dyn std::error::Error, service = %key, "cannot route a Service");
            queue.retry(key);
        }
        if index % 64 == 63 {
            tokio::task::yield_now().await;
        }
    }
    records.set_synced();
    // Only now is it known what nobody wants.
    if let Err(error) = kernel.finish_sync() {
        warn!(
            error = &error as &dyn std::error::Error,
            "cannot clear what an earlier agent left"
        );
    }
    info!(
        entries = kernel.service_count(),
        "Services are in the data plane"
    );
    loop {
        let item = tokio::select! {
            item = queue.next() => item,
            () = shutdown.cancelled() => return,
        };
        let Some(item) = item else { return };
        match reconcile(&kernel, &stores, &records, &view, &item) {
            Ok(()) => queue.forget(&*item),
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, service = %*item, "cannot route a Service");
                queue.retry((*item).clone());
            }
        }
    }
}

fn reconcile(
    kernel: &Kernel,
    stores: &Stores,
    records: &Records,
    view: &NodeView,
    key: &ObjectKey,
) -> Result<(), SetServicesError> {
    let owner = format!("{}/{}", key.namespace, key.name);
    let dns_key = DnsKey::new(key.namespace.to_string(), key.name.to_string());
    let specs = match stores.services.get_key(key) {
        Some(service) => {
            let slices = stores.by_service.get(&owner);
            let entry = ServiceRecords::build(&service, slices.iter().map(|slice| &**slice));
            records.set(&dns_key, Some(entry));
            service_specs(&service, &slices, view)
        }
        None => {
            records.set(&dns_key, None);
            Vec::new()
        }
    };
    kernel.set_services(&owner, &specs)
}
