//! What ReplicaSets and ReplicationControllers differ in: where their fields lie, and their names.

use crate::{common::Matcher, pods::Kept};
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
        core::v1::{
            PodTemplateSpec, ReplicationController, ReplicationControllerCondition,
            ReplicationControllerStatus,
        },
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use serde::Serialize;

/// A kind that keeps a number of pods from one template.
pub(crate) trait Replicated: Kept {
    type Status: Serialize + Send + Sync;
    /// Who records its events.
    const COMPONENT: &'static str;
    /// Its queue's name in the log.
    const QUEUE: &'static str;

    /// `None` for an object without a spec.
    fn wanted(&self) -> Option<Wanted<'_>>;
    fn status(&self) -> Option<&Self::Status>;
    /// A status in the form that the plan speaks of, and back.
    fn neutral(status: &Self::Status) -> ReplicaSetStatus;
    fn own(status: &ReplicaSetStatus) -> Self::Status;
}

pub(crate) struct Wanted<'o> {
    pub replicas: i32,
    pub min_ready_seconds: i32,
    pub selector: Matcher,
    pub template: Option<&'o PodTemplateSpec>,
}

impl Replicated for ReplicaSet {
    type Status = ReplicaSetStatus;
    const COMPONENT: &'static str = "replicaset-controller";
    const QUEUE: &'static str = "replicaset";

    fn wanted(&self) -> Option<Wanted<'_>> {
        let spec = self.spec.as_ref()?;
        Some(Wanted {
            replicas: spec.replicas.unwrap_or(1),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            selector: Matcher::new(&spec.selector),
            template: spec.template.as_ref(),
        })
    }

    fn status(&self) -> Option<&ReplicaSetStatus> {
        self.status.as_ref()
    }

    fn neutral(status: &ReplicaSetStatus) -> ReplicaSetStatus {
        status.clone()
    }

    fn own(status: &ReplicaSetStatus) -> ReplicaSetStatus {
        status.clone()
    }
}

impl Replicated for ReplicationController {
    type Status = ReplicationControllerStatus;
    const COMPONENT: &'static str = "replication-controller";
    const QUEUE: &'static str = "replicationmanager";

    fn wanted(&self) -> Option<Wanted<'_>> {
        let spec = self.spec.as_ref()?;
        Some(Wanted {
            replicas: spec.replicas.unwrap_or(1),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            selector: Matcher::new(&LabelSelector {
                match_labels: spec.selector.clone(),
                match_expressions: None,
            }),
            template: spec.template.as_ref(),
        })
    }

    fn status(&self) -> Option<&ReplicationControllerStatus> {
        self.status.as_ref()
    }

    fn neutral(status: &ReplicationControllerStatus) -> ReplicaSetStatus {
        let condition = |c: &ReplicationControllerCondition| ReplicaSetCondition {
            type_: c.type_.clone(),
            status: c.status.clone(),
            reason: c.reason.clone(),
            message: c.message.clone(),
            last_transition_time: c.last_transition_time.clone(),
        };
        let conditions = status.conditions.as_ref();
        ReplicaSetStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            // It does not tell.
            terminating_replicas: None,
            observed_generation: status.observed_generation,
            conditions: conditions.map(|list| list.iter().map(condition).collect()),
        }
    }

    fn own(status: &ReplicaSetStatus) -> ReplicationControllerStatus {
        let condition = |c: &ReplicaSetCondition| ReplicationControllerCondition {
            type_: c.type_.clone(),
            status: c.status.clone(),
            reason: c.reason.clone(),
            message: c.message.clone(),
            last_transition_time: c.last_transition_time.clone(),
        };
        let conditions = status.conditions.as_ref();
        ReplicationControllerStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            observed_generation: status.observed_generation,
            conditions: conditions.map(|list| list.iter().map(condition).collect()),
        }
    }
}
