//! PodDisruptionBudgets: how many of the selected pods may be evicted now.

use crate::common::{
    Attempt, Context, Failed, Matcher, controller_of, is_ready, now, since, write_status,
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        core::v1::{Pod, ReplicationController},
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::{
        apis::meta::v1::{Condition, LabelSelector, Time},
        util::intstr::IntOrString,
    },
};
use kernelet_client::{EventType, Next, ObjectKey, Queue, Recorder, Shared, reconcile_all};
use kube::{Api, Client, ResourceExt};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

/// An eviction that was granted but whose pod still lives is forgotten after this long.
const GRANTED_FOR: Duration = Duration::from_secs(120);
const CONDITION: &str = "DisruptionAllowed";

struct Controller {
    client: Client,
    budgets: Shared<PodDisruptionBudget>,
    pods: Shared<Pod>,
    sets: Shared<ReplicaSet>,
    deployments: Shared<Deployment>,
    controllers: Shared<ReplicationController>,
    recorder: Recorder,
}

pub(crate) async fn run(context: Context) {
    let budgets = context.informers.all::<PodDisruptionBudget>();
    let pods = context.informers.all::<Pod>();
    let sets = context.informers.all::<ReplicaSet>();
    let deployments = context.informers.all::<Deployment>();
    let controllers = context.informers.all::<ReplicationController>();
    let queue: Queue<ObjectKey> = Queue::default();
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        budgets: budgets.clone(),
        pods: pods.clone(),
        sets: sets.clone(),
        deployments: deployments.clone(),
        controllers: controllers.clone(),
        recorder: Recorder::new(context.client, "controllermanager", None),
    });
    let budget_queue = queue.clone();
    budgets.on_change_until(&context.shutdown, move |change| {
        budget_queue.add(ObjectKey::of(&**change.object()))
    });
    let (on_pods, pod_queue) = (budgets.clone(), queue.clone());
    pods.on_change_until(&context.shutdown, move |change| {
        let namespace = change.object().namespace().unwrap_or_default();
        for budget in on_pods.list_in(&namespace) {
            let selector = selector(&budget);
            let mut states = [change.old(), change.new()].into_iter().flatten();
            if states.any(|pod| selector.matches(&pod.metadata)) {
                pod_queue.add(ObjectKey::of(&*budget));
            }
        }
    });
    let (of_sets, set_queue) = (budgets.clone(), queue.clone());
    sets.on_change_until(&context.shutdown, move |change| {
        let size = |set: &ReplicaSet| set.spec.as_ref().and_then(|spec| spec.replicas);
        if change.old().map(|set| size(set)) != change.new().map(|set| size(set)) {
            let namespace = change.object().namespace().unwrap_or_default();
            for budget in of_sets.list_in(&namespace) {
                set_queue.add(ObjectKey::of(&*budget));
            }
        }
    });
    let (of_deployments, deployment_queue) = (budgets.clone(), queue.clone());
    deployments.on_change_until(&context.shutdown, move |change| {
        let size = |d: &Deployment| d.spec.as_ref().and_then(|spec| spec.replicas);
        if change.old().map(|d| size(d)) != change.new().map(|d| size(d)) {
            let namespace = change.object().namespace().unwrap_or_default();
            for budget in of_deployments.list_in(&namespace) {
                deployment_queue.add(ObjectKey::of(&*budget));
            }
        }
    });
    let (of_controllers, controller_queue) = (budgets.clone(), queue.clone());
    controllers.on_change_until(&context.shutdown, move |change| {
        let size = |rc: &ReplicationController| rc.spec.as_ref().and_then(|spec| spec.replicas);
        if change.old().map(|rc| size(rc)) != change.new().map(|rc| size(rc)) {
            let namespace = change.object().namespace().unwrap_or_default();
            for budget in of_controllers.list_in(&namespace) {
                controller_queue.add(ObjectKey::of(&*budget));
            }
        }
    });
    budgets.wait_until_synced().await;
    pods.wait_until_synced().await;
    sets.wait_until_synced().await;
    deployments.wait_until_synced().await;
    controllers.wait_until_synced().await;
    reconcile_all("disruption", queue, 2, context.shutdown, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
    .await;
}

/// policy/v1: an empty selector selects every pod, an absent one none.
fn selector(budget: &PodDisruptionBudget) -> Matcher {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    match selector {
        Some(selector) => Matcher::all_if_empty(selector),
        None => Matcher::new(&Default::default()),
    }
}

/// A selector as Go prints it.
fn shown(selector: &LabelSelector) -> String {
    let labels: Vec<String> = selector
        .match_labels
        .iter()
        .flatten()
        .map(|(key, value)| format!("{key}: {value},"))
        .collect();
    let expressions: Vec<String> = selector
        .match_expressions
        .iter()
        .flatten()
        .map(|expression| {
            let values = expression.values.as_deref().unwrap_or_default().join(" ");
            format!(
                "LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},",
                expression.key, expression.operator
            )
        })
        .collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{}}},MatchExpressions:[]LabelSelectorRequirement{{{}}},}}",
        labels.join(" "),
        expressions.concat()
    )
}

/// How many pods there should be and how many of them must stay healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Need {
    expected: i32,
    healthy: i32,
}

/// `scale` is asked only where the budget is relative to the number of pods that should be there.
fn need(
    budget: &PodDisruptionBudget,
    pods: usize,
    scale: impl FnOnce() -> Result<i32, String>,
) -> Result<Need, String> {
    let spec = budget.spec.as_ref();
    if let Some(most) = spec.and_then(|spec| spec.max_unavailable.as_ref()) {
        let expected = scale()?;
        let missing = crate::deployment::share(most, expected, true);
        let healthy = (expected - missing).max(0);
        return Ok(Need { expected, healthy });
    }
    match spec.and_then(|spec| spec.min_available.as_ref()) {
        Some(IntOrString::Int(least)) => Ok(Need {
            expected: i32::try_from(pods).unwrap_or(i32::MAX),
            healthy: *least,
        }),
        Some(least) => {
            let expected = scale()?;
            let healthy = crate::deployment::share(least, expected, true);
            Ok(Need { expected, healthy })
        }
        None => Ok(Need {
            expected: i32::try_from(pods).unwrap_or(i32::MAX),
            healthy: 0,
        }),
    }
}

/// Evictions that were granted and whose pods still have to go.
fn still_granted(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> BTreeMap<String, Time> {
    let granted = budget
        .status
        .as_ref()
        .and_then(|s| s.disrupted_pods.clone());
    let by_name: HashMap<String, &Arc<Pod>> =
        pods.iter().map(|pod| (pod.name_any(), pod)).collect();
    granted
        .unwrap_or_default()
        .into_iter()
        .filter(|(name, at)| {
            let pod = by_name.get(name);
            pod.is_some_and(|pod| pod.metadata.deletion_timestamp.is_none())
                && since(at.0, now) < GRANTED_FOR
        })
        .collect()
}

fn status(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    need: Result<Need, String>,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let granted = still_granted(budget, pods, now);
    let healthy = |pod: &&Arc<Pod>| {
        pod.metadata.deletion_timestamp.is_none()
            && !granted.contains_key(&pod.name_any())
            && is_ready(pod)
    };
    let current = i32::try_from(pods.iter().filter(healthy).count()).unwrap_or(i32::MAX);
    let known = budget.status.clone().unwrap_or_default();
    let need = match need {
        Ok(need) => need,
        Err(why) => return fail_safe(known, why, now),
    };
    let allowed = if need.expected > 0 {
        (current - need.healthy).max(0)
    } else {
        0
    };
    let reason = if allowed > 0 {
        "SufficientPods"
    } else {
        "InsufficientPods"
    };
    let condition = condition(
        &known,
        allowed > 0,
        reason,
        String::new(),
        budget.metadata.generation,
        now,
    );
    PodDisruptionBudgetStatus {
        conditions: Some(vec![condition]),
        current_healthy: current,
        desired_healthy: need.healthy,
        disrupted_pods: Some(granted).filter(|granted| !granted.is_empty()),
        disruptions_allowed: allowed,
        expected_pods: need.expected,
        observed_generation: budget.metadata.generation,
    }
}

/// What can't be computed allows nothing; all else stays as it was known.
fn fail_safe(
    known: PodDisruptionBudgetStatus,
    why: String,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let generation = known.observed_generation;
    let condition = condition(&known, false, "SyncFailed", why, generation, now);
    PodDisruptionBudgetStatus {
        conditions: Some(vec![condition]),
        disruptions_allowed: 0,
        ..known
    }
}

/// Whether disruptions are allowed, and since when that is so.
fn condition(
    known: &PodDisruptionBudgetStatus,
    allowed: bool,
    reason: &str,
    message: String,
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let value = if allowed { "True" } else { "False" };
    let before = known
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == CONDITION && condition.status == value);
    Condition {
        type_: CONDITION.to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: generation,
        last_transition_time: before
            .map_or(Time(now), |before| before.last_transition_time.clone()),
    }
}

impl Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failed> {
        let Some(budget) = self.budgets.get_key(key) else {
            return Ok(Next::OnChange);
        };
        let selector = selector(&budget);
        let pods: Vec<_> = self
            .pods
            .list_in(&key.namespace)
            .into_iter()
            .filter(|pod| selector.matches(&pod.metadata))
            .collect();
        if pods.is_empty() {
            self.recorder.event(
                &*budget,
                EventType::Normal,
                "NoPods",
                "No matching pods found",
            );
        }
        let mut unmanaged = false;
        let need = need(&budget, pods.len(), || self.scale(&pods, &mut unmanaged));
        if let Err(why) = &need {
            let message = format!("Failed to calculate the number of expected pods: {why}");
            self.recorder.event(
                &*budget,
                EventType::Warning,
                "CalculateExpectedPodCountFailed",
                message,
            );
        }
        if unmanaged && need.is_ok() {
            let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            let message = format!(
                "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, \
                 the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To \
                 account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.",
                selector.map_or_else(|| "nil".to_owned(), shown)
            );
            self.recorder
                .event(&*budget, EventType::Warning, "UnmanagedPods", message);
        }
        let now = now();
        let status = status(&budget, &pods, need, now);
        let granted = status.disrupted_pods.iter().flatten();
        let again = granted
            .map(|(_, at)| GRANTED_FOR.saturating_sub(since(at.0, now)) + Duration::from_secs(1))
            .min();
        if budget.status.as_ref() != Some(&status) {
            let api: Api<PodDisruptionBudget> =
                Api::namespaced(self.client.clone(), &key.namespace);
            write_status(
                &api,
                &budget.metadata,
                None,
                budget.status.as_ref(),
                &status,
            )
            .await
            .attempt(|| format!("writing the status of PodDisruptionBudget {key}"))?;
        }
        Ok(again.map_or(Next::OnChange, Next::After))
    }

    /// How many pods the controllers of these pods want together.
    /// `unmanaged` tells whether some have none: they aren't counted.
    fn scale(&self, pods: &[Arc<Pod>], unmanaged: &mut bool) -> Result<i32, String> {
        let mut wanted: HashMap<String, i32> = HashMap::new();
        for pod in pods {
            let name = pod.name_any();
            let namespace = pod.namespace().unwrap_or_default();
            let Some(owner) = controller_of(&pod.metadata) else {
                *unmanaged = true;
                continue;
            };
            match owner.kind.as_str() {
                "ReplicaSet" => {}
                "ReplicationController" => {
                    let controller = self.controllers.get(&namespace, &owner.name);
                    let spec = controller
                        .filter(|rc| rc.metadata.uid.as_ref() == Some(&owner.uid))
                        .and_then(|rc| rc.spec.clone());
                    if let Some(spec) = spec {
                        wanted.insert(owner.uid.clone(), spec.replicas.unwrap_or(1));
                    }
                    continue;
                }
                "DaemonSet" => {
                    return Err(
                        "daemonsets.apps does not implement the scale subresource".to_owned()
                    );
                }
                _ => return Err(format!("found no controllers for pod \"{name}\"")),
            }
            let set = self
                .sets
                .get(&namespace, &owner.name)
                .filter(|set| set.metadata.uid.as_ref() == Some(&owner.uid));
            let Some(set) = set else {
                continue;
            };
            let above = controller_of(&set.metadata)
                .filter(|above| above.kind == "Deployment")
                .and_then(|above| self.deployments.get(&namespace, &above.name));
            let (uid, replicas) = match above {
                Some(deployment) => (
                    deployment.uid(),
                    deployment.spec.as_ref().and_then(|spec| spec.replicas),
                ),
                None => (set.uid(), set.spec.as_ref().and_then(|spec| spec.replicas)),
            };
            wanted.insert(uid.unwrap_or_default(), replicas.unwrap_or(1));
        }
        Ok(wanted.values().sum())
    }
}

#[cfg(test)]
mod tests;
