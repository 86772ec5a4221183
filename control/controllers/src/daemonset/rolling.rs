//! The rolling update: which old pods go, and on which nodes new ones come before that. Pure.

use super::{
    nodes::Verdict,
    plan::{Steps, View, is_leaving},
    pod::is_updated,
};
use crate::deployment::share;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, RollingUpdateDaemonSet},
        core::v1::Pod,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use std::{collections::BTreeSet, sync::Arc};

/// `None` for a DaemonSet that is updated by hand.
fn strategy(set: &DaemonSet) -> Option<&RollingUpdateDaemonSet> {
    let strategy = set.spec.as_ref()?.update_strategy.as_ref()?;
    let rolling = strategy.type_.as_deref() == Some("RollingUpdate");
    strategy.rolling_update.as_ref().filter(|_| rolling)
}

fn count(value: Option<&IntOrString>, nodes: usize) -> usize {
    let nodes = i32::try_from(nodes).unwrap_or(i32::MAX);
    let share = value.map_or(0, |value| share(value, nodes, true));
    usize::try_from(share).unwrap_or(0)
}

/// Whether two pods may run on one node while it is updated.
pub(super) fn surges(set: &DaemonSet) -> bool {
    strategy(set).is_some_and(|rolling| count(rolling.max_surge.as_ref(), 1) > 0)
}

/// The one new and the one old pod of a node; `None` where there are more: those are for `manage`.
type Pair<'p> = Option<(Option<&'p Arc<Pod>>, Option<&'p Arc<Pod>>)>;

impl View<'_> {
    /// What the update does next, on nodes that `manage` has nothing to do on.
    pub(super) fn rolling_update(&self) -> Steps {
        let Some(rolling) = strategy(self.set) else {
            return Steps::default();
        };
        let desired = self.desired();
        let surge = count(rolling.max_surge.as_ref(), desired);
        let unavailable = count(rolling.max_unavailable.as_ref(), desired);
        // Nodes with a pod, and those that should have one.
        let wanting = self.nodes.iter().filter(|(_, v)| v.should_run());
        let nodes: BTreeSet<&str> = self.pods.keys().copied().collect();
        let nodes: BTreeSet<&str> = nodes.into_iter().chain(wanting.map(|(n, _)| *n)).collect();
        if surge == 0 {
            // Neither was given room: unavailability is accepted.
            self.one_after_the_other(&nodes, unavailable.max(1))
        } else {
            self.one_beside_the_other(&nodes, surge, desired)
        }
    }

    fn pair(&self, node: &str) -> Pair<'_> {
        let (mut new, mut old) = (None, None);
        let pods = self.pods.get(node).into_iter().flatten().copied();
        for pod in pods.filter(|pod| !is_leaving(pod)) {
            let place = match is_updated(self.set, pod, self.hash) {
                true => &mut new,
                false => &mut old,
            };
            if place.replace(pod).is_some() {
                return None;
            }
        }
        Some((new, old))
    }

    /// Old pods go, as many as may be missing; `manage` makes new ones where they were.
    fn one_after_the_other(&self, nodes: &BTreeSet<&str>, allowed: usize) -> Steps {
        let mut steps = Steps::default();
        let mut candidates = Vec::new();
        let mut missing = 0;
        for node in nodes {
            match self.pair(node) {
                None | Some((None, None) | (Some(_), Some(_))) => missing += 1,
                Some((Some(new), None)) => missing += usize::from(!self.is_available(new)),
                Some((None, Some(old))) if !self.is_available(old) => {
                    // It serves nobody: replacing it costs nothing.
                    steps.delete.push(Arc::clone(old));
                    missing += 1;
                }
                Some((None, Some(old))) => candidates.push(Arc::clone(old)),
            }
        }
        candidates.truncate(allowed.saturating_sub(missing));
        steps.delete.extend(candidates);
        steps
    }

    /// New pods come beside old ones, which go once the new ones are available.
    fn one_beside_the_other(&self, nodes: &BTreeSet<&str>, surge: usize, desired: usize) -> Steps {
        let mut steps = Steps::default();
        let (mut candidates, mut unwanted) = (Vec::new(), Vec::new());
        let (mut surging, mut available) = (0, 0);
        for node in nodes {
            let Some((new, old)) = self.pair(node) else {
                surging += 1;
                continue;
            };
            let serving = old.or(new).is_some_and(|pod| self.is_available(pod));
            available += usize::from(serving);
            let should_run = self.verdict(node) == Some(Verdict::Run);
            match (new, old) {
                (_, None) => {}
                (None, Some(old)) => match (self.is_available(old), should_run) {
                    (false, false) => steps.delete.push(Arc::clone(old)),
                    (false, true) => steps.create.push((*node).to_owned()),
                    (true, false) => unwanted.push(Arc::clone(old)),
                    (true, true) => candidates.push((*node).to_owned()),
                },
                (Some(new), Some(_)) if !self.is_available(new) => surging += 1,
                (Some(_), Some(old)) => steps.delete.push(Arc::clone(old)),
            }
        }
        unwanted.truncate(available.saturating_sub(desired));
        steps.delete.extend(unwanted);
        candidates.truncate(surge.saturating_sub(surging));
        steps.create.extend(candidates);
        steps
    }
}
