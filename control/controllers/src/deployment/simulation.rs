//! A simulated cluster in which rollouts run in any order of events: whatever the order, no more
//! pods than surge allows exist, and no fewer than allowed are available.
//!
//! Each party sees its own, possibly old, copy: the deployment's turn sees sets as they were when
//! last looked at (but for its own writes, which it waits to see), and its writes to a set fail
//! when the set has changed since; a set's turn
//! brings its pods and status in line. Time stands still but for what the steps do.

use super::{
    plan::{Action, plan},
    scale::{Strategy, size, strategy},
    tests::{deployment, now, rolling},
};
use crate::expectations::Writes;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetStatus};
use kernelet_client::ObjectKey;
use proptest::prelude::*;
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc};

#[derive(Default)]
struct Pods {
    ready: i32,
    starting: i32,
}

struct Cluster {
    deployment: Deployment,
    /// The sets as they are.
    sets: BTreeMap<String, ReplicaSet>,
    /// As the deployment's controller last saw them.
    seen: BTreeMap<String, ReplicaSet>,
    pods: BTreeMap<String, Pods>,
    version: i64,
    writes: Writes,
}

impl Cluster {
    fn new(deployment: Deployment) -> Self {
        Self {
            deployment,
            sets: BTreeMap::new(),
            seen: BTreeMap::new(),
            pods: BTreeMap::new(),
            version: 0,
            writes: Writes::default(),
        }
    }

    fn store(&mut self, mut set: ReplicaSet) {
        self.version += 1;
        let name = set.metadata.name.clone().expect("sets are named");
        set.metadata.resource_version = Some(self.version.to_string());
        set.metadata.uid = Some(name.clone());
        if set.metadata.creation_timestamp.is_none() {
            let at = now() + jiff::SignedDuration::from_secs(self.version);
            set.metadata.creation_timestamp =
                Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at));
        }
        self.sets.insert(name, set);
    }

    fn write(&mut self, key: &ObjectKey, set: ReplicaSet) {
        let name = set.metadata.name.clone().expect("sets are named");
        self.store(set);
        let version = self.version.to_string();
        self.writes.written(key, &name, Some(&version));
    }

    fn see(&mut self, at: usize) {
        let names: Vec<_> = self.sets.keys().chain(self.seen.keys()).cloned().collect();
        if names.is_empty() {
            return;
        }
        let name = &names[at % names.len()];
        match self.sets.get(name) {
            Some(set) => drop(self.seen.insert(name.clone(), set.clone())),
            None => drop(self.seen.remove(name)),
        }
    }

    fn deployment_turn(&mut self) {
        let key = ObjectKey::of(&self.deployment);
        let seen = |name: &str| self.seen.get(name)?.metadata.resource_version.clone();
        if self.writes.unseen(&key, seen).is_some() {
            return;
        }
        let sets: Vec<_> = self.seen.values().cloned().map(Arc::new).collect();
        let pods = &self.pods;
        let runs = |uid: &str| pods.get(uid).is_some_and(|p| p.ready + p.starting > 0);
        let outcome = plan(&self.deployment, &sets, &runs, now());
        for action in outcome.actions {
            let written = match action {
                Action::Create(set) => {
                    let name = set.metadata.name.clone().expect("sets are named");
                    let free = !self.sets.contains_key(&name);
                    if free {
                        self.write(&key, *set);
                    }
                    free
                }
                Action::Update { set, .. } => {
                    let name = set.metadata.name.clone().expect("sets are named");
                    let version = self.sets.get(&name).map(|s| &s.metadata.resource_version);
                    let fresh = version == Some(&set.metadata.resource_version);
                    if fresh {
                        self.write(&key, *set);
                    }
                    fresh
                }
                Action::Delete(name) => {
                    self.sets.remove(&name);
                    self.pods.remove(&name);
                    self.writes.gone(&key, &name);
                    true
                }
            };
            if !written {
                break;
            }
        }
        self.deployment.status = Some(outcome.status);
    }

    fn set_turn(&mut self, at: usize) {
        let Some((name, set)) = self.sets.iter().nth(at % self.sets.len().max(1)) else {
            return;
        };
        let (name, mut set) = (name.clone(), set.clone());
        let pods = self.pods.entry(name).or_default();
        let surplus = (pods.ready + pods.starting - size(&set)).max(0);
        let unready = surplus.min(pods.starting);
        pods.starting -= unready;
        pods.ready -= surplus - unready;
        pods.starting += (size(&set) - pods.ready - pods.starting).max(0);
        set.status = Some(ReplicaSetStatus {
            replicas: pods.ready + pods.starting,
            ready_replicas: Some(pods.ready),
            available_replicas: Some(pods.ready),
            observed_generation: set.metadata.generation,
            ..ReplicaSetStatus::default()
        });
        self.store(set);
    }

    fn pod_turn(&mut self, at: usize) {
        let mut starting: Vec<_> = self.pods.values_mut().filter(|p| p.starting > 0).collect();
        let count = starting.len();
        if count > 0 {
            let pods = &mut starting[at % count];
            pods.starting -= 1;
            pods.ready += 1;
        }
    }

    fn existing(&self) -> i32 {
        self.pods.values().map(|p| p.ready + p.starting).sum()
    }

    fn ready(&self) -> i32 {
        self.pods.values().map(|p| p.ready).sum()
    }

    fn roll_to(&mut self, image: &str) {
        let spec = self.deployment.spec.as_mut().expect("a spec");
        let pod = spec.template.spec.as_mut().expect("a pod spec");
        pod.containers[0].image = Some(image.to_owned());
    }

    /// Lets everybody do their part until nothing changes.
    fn settle(&mut self) {
        for _ in 0..400 {
            let before = (self.version, self.ready());
            for at in 0..self.sets.len() + self.seen.len() {
                self.see(at);
            }
            self.deployment_turn();
            for at in 0..self.sets.len() {
                self.set_turn(at);
            }
            for at in 0..8 {
                self.pod_turn(at);
            }
            if before == (self.version, self.ready()) {
                return;
            }
        }
    }
}

fn limits(deployment: &Deployment, replicas: i32) -> (i32, i32) {
    let Strategy::Rolling { surge, unavailable } = strategy(deployment) else {
        panic!("the simulation is of rolling updates");
    };
    (replicas + surge, (replicas - unavailable).max(0))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_rolling_update_keeps_within_surge_and_unavailable(
        replicas in 1..8_i32,
        surge in 0..4_i32,
        unavailable in 0..4_i32,
        percent in any::<bool>(),
        steps in prop::collection::vec((0..10_u8, 0..12_usize), 0..400),
    ) {
        let strategy = if percent {
            rolling(json!(format!("{}%", surge * 25)), json!(format!("{}%", unavailable * 25)))
        } else {
            rolling(json!(surge), json!(unavailable))
        };
        let deployment = deployment(replicas, strategy, "first");
        let (most, fewest) = limits(&deployment, replicas);
        let mut cluster = Cluster::new(deployment);
        cluster.settle();
        prop_assert_eq!(cluster.ready(), replicas, "the first rollout must finish");
        for (at, (kind, which)) in steps.into_iter().enumerate() {
            match kind {
                0 if at % 5 == 0 => cluster.roll_to(["first", "second", "third"][which % 3]),
                0..=2 => cluster.deployment_turn(),
                3 | 4 => cluster.see(which),
                5..=7 => cluster.set_turn(which),
                _ => cluster.pod_turn(which),
            }
            prop_assert!(
                cluster.existing() <= most,
                "step {}: {} pods exist, {} are allowed", at, cluster.existing(), most
            );
            prop_assert!(
                cluster.ready() >= fewest,
                "step {}: {} pods are ready, {} are needed", at, cluster.ready(), fewest
            );
        }
        cluster.roll_to("last");
        cluster.settle();
        prop_assert_eq!(cluster.ready(), replicas);
        let current: Vec<_> = cluster.sets.values().filter(|set| size(set) > 0).collect();
        prop_assert_eq!(current.len(), 1, "one set is left");
    }
}
