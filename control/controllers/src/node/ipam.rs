//! Gives each node its range of pod addresses, once.

use crate::{
    common::{Attempt, Context, Failed},
    node::cidr::Cidr,
};
use k8s_openapi::api::core::v1::Node;
use kernelet_client::{
    EventType, Next, ObjectKey, Queue, Recorder, Shared, is_not_found, reconcile_all,
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

/// A cluster's range and the prefix length of the parts that nodes get.
pub(crate) struct Range {
    pub cluster: Cidr,
    pub node_prefix: u8,
}

struct Controller {
    client: Client,
    nodes: Shared<Node>,
    ranges: Vec<Range>,
    recorder: Recorder,
    /// Given out, and perhaps not in the store yet.
    given: Mutex<HashMap<String, Vec<Cidr>>>,
}

pub(crate) async fn run(context: Context, ranges: Vec<Range>) {
    let nodes = context.informers.all::<Node>();
    let queue = Queue::default();
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        nodes: nodes.clone(),
        ranges,
        recorder: Recorder::new(context.client, "cidrAllocator", None),
        given: Mutex::default(),
    });
    let (on_change, on_nodes) = (queue.clone(), controller.clone());
    nodes.on_change_until(&context.shutdown, move |change| {
        if change.new().is_none() {
            // Its range is free again: somebody may wait for it.
            on_nodes.given().remove(&change.object().name_any());
            for node in on_nodes.nodes.list() {
                on_change.add(ObjectKey::of(&*node));
            }
        } else {
            on_change.add(ObjectKey::of(&**change.object()));
        }
    });
    nodes.wait_until_synced().await;
    // One worker: two at once could take the same range.
    reconcile_all("node ipam", queue, 1, context.shutdown, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key.name).await }
    })
    .await;
}

fn ranges_of(node: &Node) -> Vec<Cidr> {
    let spec = node.spec.as_ref();
    let all = spec
        .and_then(|spec| spec.pod_cidrs.clone())
        .unwrap_or_default();
    let one = spec.and_then(|spec| spec.pod_cidr.clone());
    all.into_iter()
        .chain(one)
        .filter_map(|range| range.parse().ok())
        .collect()
}

impl Controller {
    fn given(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<Cidr>>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn choose(&self, name: &str) -> Option<Vec<Cidr>> {
        if let Some(given) = self.given().get(name) {
            return Some(given.clone());
        }
        let nodes = self.nodes.list();
        let mut used: HashSet<Cidr> = nodes.iter().flat_map(|node| ranges_of(node)).collect();
        used.extend(self.given().values().flatten());
        let chosen: Option<Vec<_>> = self
            .ranges
            .iter()
            .map(|range| range.cluster.next_free(range.node_prefix, &used))
            .collect();
        if let Some(chosen) = &chosen {
            self.given().insert(name.to_owned(), chosen.clone());
        }
        chosen
    }

    async fn reconcile(&self, name: &str) -> Result<Next, Failed> {
        let Some(node) = self.nodes.get("", name) else {
            return Ok(Next::OnChange);
        };
        if !ranges_of(&node).is_empty() || self.ranges.is_empty() {
            return Ok(Next::OnChange);
        }
        let Some(ranges) = self.choose(name) else {
            let message = format!("Node {name} status is now: CIDRNotAvailable");
            self.recorder
                .event(&*node, EventType::Normal, "CIDRNotAvailable", message);
            return Ok(Next::OnChange);
        };
        let ranges: Vec<_> = ranges.iter().map(ToString::to_string).collect();
        let patch = serde_json::json!({
            "metadata": {"uid": node.metadata.uid},
            "spec": {"podCIDR": ranges[0], "podCIDRs": ranges},
        });
        let api: Api<Node> = Api::all(self.client.clone());
        let params = PatchParams::default();
        match api.patch(name, &params, &Patch::Merge(&patch)).await {
            Err(error) if is_not_found(&error) => {}
            result => drop(result.attempt(|| format!("giving node {name} its pod range"))?),
        }
        Ok(Next::OnChange)
    }
}
