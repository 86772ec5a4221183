//! Making room: which pods of lower priority must leave which node so that a pod fits. Pure.
//!
//! On each node that would take the pod if others left, all lower pods are taken away and then,
//! the most important first, put back as long as the pod still fits; those left over are its
//! victims. The node whose victims are least missed is chosen, by upstream's order.

use crate::{
    decide::{NodeName, enough, start},
    filter::{Filter, Refusals, Verdict},
    pod::PodInfo,
    selector::Selector,
    snapshot::{Slot, Snapshot},
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";

/// What came of making room, as far as the pod's condition tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Preemption {
    /// Pods were asked to leave.
    Begun,
    NotEligible(&'static str),
    /// What the nodes said, with their numbers.
    NoUse(BTreeMap<String, usize>),
}

impl Preemption {
    /// Where nobody has a lower priority, the refusals alone tell what would come of it.
    pub(crate) fn not_tried(pod: &PodInfo, nodes: usize, hopeless: usize) -> Self {
        if pod.never_preempts {
            return Self::NotEligible("not eligible due to preemptionPolicy=Never.");
        }
        let verdicts = [(NO_VICTIMS, nodes - hopeless), (NOT_HELPFUL, hopeless)];
        let counted = verdicts.into_iter().filter(|(_, count)| *count > 0);
        Self::NoUse(
            counted
                .map(|(text, count)| (text.to_owned(), count))
                .collect(),
        )
    }
}

/// Who must leave which node.
#[derive(Clone, Debug)]
pub struct Plan {
    pub node: NodeName,
    pub victims: Vec<Arc<PodInfo>>,
}

/// A PodDisruptionBudget, as far as victims are chosen by it.
#[derive(Debug)]
pub struct Budget {
    namespace: String,
    selector: Selector,
    /// Pods whose eviction it granted already.
    granted: Vec<String>,
    allowed: i32,
}

impl Budget {
    pub fn new(budget: &PodDisruptionBudget) -> Self {
        let status = budget.status.as_ref();
        let granted = status.and_then(|status| status.disrupted_pods.as_ref());
        let spec = budget.spec.as_ref();
        Self {
            namespace: budget.metadata.namespace.clone().unwrap_or_default(),
            selector: Selector::new(spec.and_then(|spec| spec.selector.as_ref())),
            granted: granted
                .into_iter()
                .flat_map(|g| g.keys().cloned())
                .collect(),
            allowed: status.map_or(0, |status| status.disruptions_allowed),
        }
    }

    fn protects(&self, pod: &PodInfo) -> bool {
        *self.namespace == *pod.key.namespace
            && self.selector.matches(&pod.labels)
            && !self.granted.iter().any(|name| **name == *pod.key.name)
    }
}

/// Whom to ask to leave for a pod that no node takes, or why that is of no use. The snapshot is
/// changed while trying, and given back as it was.
pub fn preempt(
    snapshot: &mut Snapshot,
    pod: &PodInfo,
    budgets: &[Budget],
) -> Result<Plan, Preemption> {
    if pod.never_preempts {
        return Err(Preemption::not_tried(pod, 0, 0));
    }
    let lower = snapshot.lower(pod.priority);
    let leaving = snapshot.nominated_slot(&pod.uid).is_some_and(|slot| {
        let there = lower.get(&slot).into_iter().flatten();
        there.into_iter().any(|pod| pod.terminating)
    });
    if leaving {
        return Err(Preemption::NotEligible(
            "not eligible due to a terminating pod on the nominated node.",
        ));
    }
    let mut verdicts: BTreeMap<String, usize> = BTreeMap::new();
    let mut count = |text: String| *verdicts.entry(text).or_default() += 1;
    let mut best: Option<(Cost, Slot, Vec<Arc<PodInfo>>)> = None;
    let mut found = 0;
    for slot in candidates(snapshot, pod, &mut count) {
        let Some(lower) = lower.get(&slot) else {
            count(NO_VICTIMS.to_owned());
            continue;
        };
        match try_on(snapshot, pod, slot, lower, budgets) {
            Ok((cost, victims)) => {
                found += 1;
                if best.as_ref().is_none_or(|(known, ..)| cost < *known) {
                    best = Some((cost, slot, victims));
                }
                if found >= enough(snapshot.node_count()) {
                    break;
                }
            }
            Err(refusals) => {
                for (reason, _) in refusals.reasons {
                    count(reason.to_string());
                }
            }
        }
    }
    match best {
        Some((_, slot, victims)) => Ok(Plan {
            node: NodeName(snapshot.nodes[slot].name.as_str().into()),
            victims,
        }),
        None => Err(Preemption::NoUse(verdicts)),
    }
}

/// Nodes that might take the pod if others left; the others are counted.
fn candidates(snapshot: &Snapshot, pod: &PodInfo, count: &mut impl FnMut(String)) -> Vec<Slot> {
    let filter = Filter::new(snapshot, pod);
    let slots = snapshot.nodes.len();
    let start = start(pod, slots);
    let mut candidates = Vec::new();
    for slot in (start..slots).chain(0..start) {
        if !snapshot.nodes[slot].exists {
            continue;
        }
        match snapshot.ask(&filter, slot, pod, &mut Refusals::default()) {
            Verdict::Hopeless => count(NOT_HELPFUL.to_owned()),
            Verdict::Fits | Verdict::NotNow => candidates.push(slot),
        }
    }
    candidates
}

/// How much the victims are missed; the least is best. Broken budgets, the highest priority, the
/// sum of priorities (shifted, so that many low ones outweigh one), their number, and how long the
/// most important of them has run.
type Cost = (usize, i32, i64, usize, Reverse<Option<jiff::Timestamp>>);

fn try_on(
    snapshot: &mut Snapshot,
    pod: &PodInfo,
    slot: Slot,
    lower: &[Arc<PodInfo>],
    budgets: &[Budget],
) -> Result<(Cost, Vec<Arc<PodInfo>>), Refusals> {
    let name = snapshot.nodes[slot].name.clone();
    for other in lower {
        snapshot.remove_pod(&other.uid);
    }
    let outcome = choose(snapshot, pod, slot, &name, lower, budgets);
    for other in lower {
        snapshot.place(other.clone(), &name);
    }
    outcome
}

fn choose(
    snapshot: &mut Snapshot,
    pod: &PodInfo,
    slot: Slot,
    name: &str,
    lower: &[Arc<PodInfo>],
    budgets: &[Budget],
) -> Result<(Cost, Vec<Arc<PodInfo>>), Refusals> {
    let fits = |snapshot: &Snapshot, refusals: &mut Refusals| {
        let filter = Filter::new(snapshot, pod);
        snapshot.ask(&filter, slot, pod, refusals) == Verdict::Fits
    };
    let mut refusals = Refusals::default();
    if !fits(snapshot, &mut refusals) {
        return Err(refusals);
    }
    // Those that a budget protects are put back first, then the most important, then the oldest.
    let mut left: Vec<i32> = budgets.iter().map(|budget| budget.allowed).collect();
    let mut order: Vec<(bool, Arc<PodInfo>)> = Vec::with_capacity(lower.len());
    let mut important: Vec<_> = lower.to_vec();
    important.sort_by_key(|other| (Reverse(other.priority), other.started, other.uid.clone()));
    for other in important {
        let mut breaks = false;
        for (budget, left) in budgets.iter().zip(&mut left) {
            if budget.protects(&other) {
                *left -= 1;
                breaks |= *left < 0;
            }
        }
        order.push((breaks, other));
    }
    order.sort_by_key(|(breaks, _)| !breaks);
    let mut victims = Vec::new();
    let mut broken = 0;
    for (breaks, other) in order {
        snapshot.place(other.clone(), name);
        if !fits(snapshot, &mut Refusals::default()) {
            snapshot.remove_pod(&other.uid);
            broken += usize::from(breaks);
            victims.push(other);
        }
    }
    victims.sort_by_key(|victim| (Reverse(victim.priority), victim.started));
    let highest = victims.first();
    let shifted = |victim: &Arc<PodInfo>| i64::from(victim.priority) - i64::from(i32::MIN);
    let cost = (
        broken,
        highest.map_or(i32::MIN, |victim| victim.priority),
        victims.iter().map(shifted).sum(),
        victims.len(),
        Reverse(highest.and_then(|victim| victim.started)),
    );
    Ok((cost, victims))
}
