//! One object's cells, by the columns of its resource.

use std::cell::OnceCell;

use jiff::Timestamp;
use kernelet_api::{
    Value,
    resources::{Cell, Column},
};

use super::{
    cells::{self, at},
    core, flow, metrics, pod, workloads,
};

/// An object that is being printed.
pub(super) struct Row<'o> {
    object: &'o Value,
    now: Timestamp,
    /// Several cells of a pod come from one look at its containers.
    pod: OnceCell<pod::Summary>,
}

impl<'o> Row<'o> {
    pub(super) fn new(object: &'o Value, now: Timestamp) -> Self {
        Self {
            object,
            now,
            pod: OnceCell::new(),
        }
    }

    pub(super) fn cell(&self, column: &Column) -> Value {
        match column.cell {
            Cell::Path(path) => match at(self.object, path).filter(|value| !value.is_null()) {
                Some(value) => value.clone(),
                // Upstream prints from structs, in which what is absent has its zero value.
                None => match column.ty {
                    "integer" => 0.into(),
                    "boolean" => false.into(),
                    _ => "".into(),
                },
            },
            Cell::Age(path) => cells::since(at(self.object, path), self.now).into(),
            Cell::Computed(name) => self.computed(name).unwrap_or(Value::Null),
        }
    }

    /// The cell that the registry names; `None` for a name that nobody computes.
    pub(super) fn computed(&self, name: &str) -> Option<Value> {
        let (object, now) = (self.object, self.now);
        let pod = || self.pod.get_or_init(|| pod::Summary::of(object));
        Some(match name {
            "quota.request" => core::quota(object, false).into(),
            "quota.limit" => core::quota(object, true).into(),
            "pod.ready" => pod().ready().into(),
            "pod.status" => pod().status.as_str().into(),
            "pod.restarts" => pod().restarts(now).into(),
            "pod.ip" => pod::ip(object).into(),
            "pod.node" => cells::or_none(object, "spec.nodeName").into(),
            "pod.nominatedNode" => cells::or_none(object, "status.nominatedNodeName").into(),
            "pod.readinessGates" => pod::readiness_gates(object).into(),
            "template.containers" => cells::containers(object, "name").into(),
            "template.images" => cells::containers(object, "image").into(),
            "template.nodeSelector" => {
                cells::labels(at(object, "spec.template.spec.nodeSelector")).into()
            }
            "revision.controller" => workloads::controller(object).into(),
            "selector.labels" => workloads::selector(object).into(),
            "selector.map" => cells::labels(at(object, "spec.selector")).into(),
            "deployment.upToDate" => cells::number(object, "status.updatedReplicas").into(),
            "deployment.available" => cells::number(object, "status.availableReplicas").into(),
            "deployment.ready" => workloads::deployment_ready(object).into(),
            "pdb.minAvailable" => workloads::amount(object, "spec.minAvailable").into(),
            "pdb.maxUnavailable" => workloads::amount(object, "spec.maxUnavailable").into(),
            "service.clusterIP" => core::cluster_ip(object).into(),
            "service.externalIP" => core::external_ip(object).into(),
            "service.ports" => core::service_ports(object).into(),
            "endpoints.addresses" => core::endpoints(object).into(),
            "slice.ports" => core::slice_ports(object).into(),
            "slice.endpoints" => core::slice_endpoints(object).into(),
            "node.status" => core::node_status(object).into(),
            "node.roles" => core::node_roles(object).into(),
            "node.internalIP" => core::node_address(object, "InternalIP").into(),
            "node.externalIP" => core::node_address(object, "ExternalIP").into(),
            "node.osImage" => core::node_info(object, "osImage").into(),
            "node.kernelVersion" => core::node_info(object, "kernelVersion").into(),
            "node.containerRuntime" => core::node_info(object, "containerRuntimeVersion").into(),
            "data.count" => {
                (cells::size(object, "data") + cells::size(object, "binaryData")).into()
            }
            "binding.role" => core::binding_role(object).into(),
            "binding.users" => core::subjects(object, "User").into(),
            "binding.groups" => core::subjects(object, "Group").into(),
            "binding.serviceAccounts" => core::subjects(object, "ServiceAccount").into(),
            "csr.duration" => core::csr_duration(object).into(),
            "csr.condition" => core::csr_condition(object).into(),
            "flow.distinguisher" => flow::distinguisher(object).into(),
            "flow.dangling" => flow::dangling(object).into(),
            "flow.shares" => flow::limited(object, "nominalConcurrencyShares"),
            "flow.queues" => flow::limited(object, "limitResponse.queuing.queues"),
            "flow.handSize" => flow::limited(object, "limitResponse.queuing.handSize"),
            "flow.queueLength" => flow::limited(object, "limitResponse.queuing.queueLengthLimit"),
            "metrics.cpu" => metrics::usage(object, "cpu").into(),
            "metrics.memory" => metrics::usage(object, "memory").into(),
            "event.lastSeen" => core::Event(object).last_seen(now).into(),
            "event.firstSeen" => core::Event(object).first_seen(now).into(),
            "event.object" => core::Event(object).target().into(),
            "event.subobject" => core::Event(object).subobject().into(),
            "event.source" => core::Event(object).source().into(),
            "event.message" => core::Event(object).message().into(),
            "event.count" => core::Event(object).count().into(),
            _ => return None,
        })
    }
}
