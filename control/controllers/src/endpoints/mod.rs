//! Which pods stand behind a Service: its EndpointSlices and its Endpoints object.

mod legacy;
mod plan;

use crate::{
    common::{Attempt, Context, Failed, Matcher, is_namespace_terminating, message_of},
    expectations::Writes,
};
use k8s_openapi::{
    api::{
        core::v1::{Endpoints, Node, Pod, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kernelet_client::{
    Change, EventType, Index, Next, ObjectKey, Queue, Recorder, Scope, Shared, is_already_exists,
    is_not_found, reconcile_all,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, PostParams},
};
use legacy::endpoints;
use plan::{MANAGED_BY, MANAGER, SERVICE_NAME, is_managed, plan};
use std::sync::Arc;

const WORKERS: usize = 5;

struct Controller {
    client: Client,
    services: Shared<Service>,
    pods: Shared<Pod>,
    nodes: Shared<Node>,
    slices: Index<EndpointSlice>,
    all_slices: Shared<EndpointSlice>,
    endpoints: Shared<Endpoints>,
    recorder: Recorder,
    writes: Writes,
}

pub(crate) async fn run(context: Context) {
    let services = context.informers.all::<Service>();
    let pods = context.informers.all::<Pod>();
    let nodes = context.informers.all::<Node>();
    let slices = context.informers.all::<EndpointSlice>();
    let legacy = context.informers.scoped::<Endpoints>(Scope::labels(
        "endpoints.kubernetes.io/managed-by=endpoint-controller",
    ));
    let queue = Queue::default();
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        services: services.clone(),
        pods: pods.clone(),
        nodes: nodes.clone(),
        slices: slices.index(|slice| {
            let key = service_of(slice).filter(|_| is_ours(slice));
            key.map(|key| key.to_string()).into_iter().collect()
        }),
        all_slices: slices.clone(),
        endpoints: legacy.clone(),
        recorder: Recorder::new(context.client.clone(), "endpoint-slice-controller", None),
        writes: Writes::default(),
    });
    let (a, b, c, d) = (queue.clone(), queue.clone(), queue.clone(), queue.clone());
    let (on_pods, on_slices) = (controller.clone(), controller.clone());
    services.on_change_until(&context.shutdown, move |change| {
        a.add(ObjectKey::of(&**change.object()))
    });
    pods.on_change_until(&context.shutdown, move |change| on_pods.on_pod(change, &b));
    slices.on_change_until(&context.shutdown, move |change| {
        on_slices.on_slice(change, &c)
    });
    legacy.on_change_until(&context.shutdown, move |change| {
        d.add(ObjectKey::of(&**change.object()))
    });
    services.wait_until_synced().await;
    pods.wait_until_synced().await;
    nodes.wait_until_synced().await;
    slices.wait_until_synced().await;
    legacy.wait_until_synced().await;
    reconcile_all("endpoints", queue, WORKERS, context.shutdown, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
    .await;
}

fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.labels().get(SERVICE_NAME)?;
    Some(ObjectKey::new(
        slice.namespace().unwrap_or_default(),
        name.as_str(),
    ))
}

fn is_ours(slice: &EndpointSlice) -> bool {
    slice.labels().get(MANAGED_BY).map(String::as_str) == Some(MANAGER)
}

fn selector(service: &Service) -> Matcher {
    let labels = service.spec.as_ref().and_then(|spec| spec.selector.clone());
    Matcher::new(&LabelSelector {
        match_labels: labels,
        match_expressions: None,
    })
}

/// Whether a pod's change can change an endpoint.
fn concerns_endpoints(change: &Change<Pod>) -> bool {
    let (Some(old), Some(new)) = (change.old(), change.new()) else {
        return true;
    };
    let seen = |pod: &Pod| {
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        (
            pod.metadata.labels.clone(),
            pod.metadata.deletion_timestamp.is_some(),
            crate::common::is_ready(pod),
            crate::common::is_finished(pod),
            spec.map(|s| (s.node_name.clone(), s.hostname.clone(), s.subdomain.clone())),
            status.map(|s| (s.pod_ip.clone(), s.pod_ips.clone())),
        )
    };
    seen(old) != seen(new)
}

impl Controller {
    fn on_pod(&self, change: &Change<Pod>, queue: &Queue<ObjectKey>) {
        if !concerns_endpoints(change) {
            return;
        }
        let namespace = change.object().namespace().unwrap_or_default();
        for service in self.services.list_in(&namespace) {
            if !is_managed(&service) {
                continue;
            }
            let selector = selector(&service);
            let mut states = [change.old(), change.new()].into_iter().flatten();
            if states.any(|pod| selector.matches(&pod.metadata)) {
                queue.add(ObjectKey::of(&*service));
            }
        }
    }

    fn on_slice(&self, change: &Change<EndpointSlice>, queue: &Queue<ObjectKey>) {
        let states = [change.old(), change.new()].into_iter().flatten();
        for key in states
            .filter(|slice| is_ours(slice))
            .filter_map(|slice| service_of(slice))
        {
            if change.new().is_none() {
                self.writes.gone(&key, &change.object().name_any());
            }
            queue.add(key);
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failed> {
        let Some(service) = self.services.get_key(key) else {
            self.writes.forget(key);
            return self.clean_up(key).await.map(|()| Next::OnChange);
        };
        if !is_managed(&service) || service.metadata.deletion_timestamp.is_some() {
            return Ok(Next::OnChange);
        }
        let seen = |slice: &str| {
            self.all_slices
                .get(&key.namespace, slice)?
                .resource_version()
        };
        if let Some(left) = self.writes.unseen(key, seen) {
            return Ok(Next::After(left));
        }
        let selector = selector(&service);
        let pods: Vec<_> = self
            .pods
            .list_in(&key.namespace)
            .into_iter()
            .filter(|pod| selector.matches(&pod.metadata))
            .collect();
        let slices = self.write_slices(key, &service, &pods).await;
        let legacy = self.write_endpoints(key, &service, &pods).await;
        // One failing doesn't keep the other from being written.
        for failed in [&slices, &legacy]
            .into_iter()
            .filter_map(|r| r.as_ref().err())
        {
            let message = format!(
                "Error updating Endpoint Slices for Service {key}: {}",
                message_of(&failed.source)
            );
            self.recorder.event(
                &*service,
                EventType::Warning,
                "FailedToUpdateEndpointSlices",
                message,
            );
        }
        slices.and(legacy).map(|()| Next::OnChange)
    }

    async fn write_slices(
        &self,
        key: &ObjectKey,
        service: &Service,
        pods: &[Arc<Pod>],
    ) -> Result<(), Failed> {
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &key.namespace);
        let known = self.slices.get(&key.to_string());
        let node_of = |name: &str| self.nodes.get("", name);
        let plan = plan(service, pods, &node_of, &known);
        let params = PostParams::default();
        let attempted = || format!("writing the EndpointSlices of Service {key}");
        for slice in plan.create {
            match api.create(&params, &slice).await {
                Ok(made) => self.wrote(key, &made),
                Err(error) if is_namespace_terminating(&error) => return Ok(()),
                Err(error) => return Err(error).attempt(attempted),
            }
        }
        for slice in plan.update {
            let name = slice.name_any();
            let made = api
                .replace(&name, &params, &slice)
                .await
                .attempt(attempted)?;
            self.wrote(key, &made);
        }
        for slice in plan.delete {
            gone(
                api.delete(&slice.name_any(), &DeleteParams::default())
                    .await,
            )
            .attempt(attempted)?;
        }
        Ok(())
    }

    fn wrote(&self, service: &ObjectKey, slice: &EndpointSlice) {
        let version = slice.metadata.resource_version.as_deref();
        self.writes.written(service, &slice.name_any(), version);
    }

    async fn write_endpoints(
        &self,
        key: &ObjectKey,
        service: &Service,
        pods: &[Arc<Pod>],
    ) -> Result<(), Failed> {
        let known = self.endpoints.get_key(key);
        let wanted = endpoints(service, pods, known.as_deref());
        if known.as_deref() == Some(&wanted) {
            return Ok(());
        }
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = PostParams::default();
        let written = match known {
            None => match api.create(&params, &wanted).await {
                // Made by somebody else before the Service had a selector: it is ours now.
                Err(error) if is_already_exists(&error) => {
                    api.replace(&key.name, &params, &wanted).await
                }
                other => other,
            },
            Some(_) => api.replace(&key.name, &params, &wanted).await,
        };
        match written {
            Err(error) if is_namespace_terminating(&error) => Ok(()),
            result => result
                .map(drop)
                .attempt(|| format!("writing the Endpoints of Service {key}")),
        }
    }

    /// The Service is gone. Its slices go by their owner; the Endpoints object has none.
    async fn clean_up(&self, key: &ObjectKey) -> Result<(), Failed> {
        if self.endpoints.get_key(key).is_none() {
            return Ok(());
        }
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), &key.namespace);
        gone(api.delete(&key.name, &DeleteParams::default()).await)
            .attempt(|| format!("deleting the Endpoints of Service {key}"))
    }
}

/// Deleted, now or before.
fn gone<T>(result: kube::Result<T>) -> kube::Result<()> {
    match result {
        Err(error) if is_not_found(&error) => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests;
