//! The pods that wait for a node. Pure: time is an argument.
//!
//! ```text
//! add ─→ Active ─pop→ InFlight ─remove→ (bound)
//!          ↑             ├─ park(why) ─→ Parked ─ event that may cure `why` ─┐
//!          └── Backoff ←─┴─ retry ───────────────────────────────────────────┘
//! ```
//! Nothing comes back by itself: a parked pod waits for an event that may cure one of its reasons.

use crate::{
    pod::PodInfo,
    reasons::{ClusterEvent, Unschedulable},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

enum Place {
    Active((i64, u64)),
    Backoff((Instant, u64)),
    Parked(Unschedulable),
    InFlight,
}

struct Entry {
    pod: Arc<PodInfo>,
    place: Place,
    attempts: u32,
    not_before: Option<Instant>,
    sequence: u64,
}

#[derive(Default)]
pub(crate) struct Queue {
    entries: HashMap<Arc<str>, Entry>,
    /// Highest priority first, then in order of arrival.
    active: BTreeMap<(i64, u64), Arc<str>>,
    backoff: BTreeMap<(Instant, u64), Arc<str>>,
    parked: BTreeSet<Arc<str>>,
    sequence: u64,
}

impl Queue {
    /// A new pod, or a pod whose spec or labels changed: worth a try at once.
    pub(crate) fn add(&mut self, pod: Arc<PodInfo>) {
        let uid = pod.uid.clone();
        match self.entries.get_mut(&uid) {
            Some(entry) => {
                entry.pod = pod;
                if !matches!(entry.place, Place::InFlight | Place::Active(_)) {
                    self.activate(&uid);
                }
            }
            None => {
                self.sequence += 1;
                let entry = Entry {
                    pod,
                    place: Place::InFlight,
                    attempts: 0,
                    not_before: None,
                    sequence: self.sequence,
                };
                self.entries.insert(uid.clone(), entry);
                self.activate(&uid);
            }
        }
    }

    /// The pod's object changed in nothing that decides its place.
    pub(crate) fn refresh(&mut self, pod: Arc<PodInfo>) {
        if let Some(entry) = self.entries.get_mut(&pod.uid) {
            entry.pod = pod;
        }
    }

    pub(crate) fn contains(&self, uid: &str) -> bool {
        self.entries.contains_key(uid)
    }

    pub(crate) fn remove(&mut self, uid: &str) {
        self.unlink(uid);
        self.entries.remove(uid);
    }

    /// The next pod to decide about.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        while let Some((&(due, sequence), _)) = self.backoff.first_key_value() {
            if due > now {
                break;
            }
            if let Some(uid) = self.backoff.remove(&(due, sequence)) {
                self.activate(&uid);
            }
        }
        let (_, uid) = self.active.pop_first()?;
        let entry = self
            .entries
            .get_mut(&uid)
            .expect("active pods have entries");
        entry.place = Place::InFlight;
        entry.attempts = entry.attempts.saturating_add(1);
        Some(entry.pod.clone())
    }

    /// When the next pod leaves its back-off.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.backoff.keys().next().map(|(due, _)| *due)
    }

    /// No node takes the pod for now.
    pub(crate) fn park(&mut self, uid: &str, why: Unschedulable, now: Instant) {
        if let Some((uid, entry)) = self.in_flight(uid, now) {
            entry.place = Place::Parked(why);
            self.parked.insert(uid);
        }
    }

    /// The decision couldn't be carried out: again after the pod's back-off.
    pub(crate) fn retry(&mut self, uid: &str, now: Instant) {
        if let Some((uid, _)) = self.in_flight(uid, now) {
            self.delay(&uid, now);
        }
    }

    /// Wakes the parked pods that the event may help.
    pub(crate) fn on_event(&mut self, event: ClusterEvent, now: Instant) {
        let cured: Vec<Arc<str>> = self
            .parked
            .iter()
            .filter(|uid| {
                let place = self.entries.get(*uid).map(|entry| &entry.place);
                matches!(place, Some(Place::Parked(why)) if why.may_be_cured_by(event))
            })
            .cloned()
            .collect();
        for uid in cured {
            self.delay(&uid, now);
        }
    }

    /// A parked pod is worth another try.
    pub(crate) fn wake(&mut self, uid: &str, now: Instant) {
        let entry = self.entries.get(uid);
        if let Some(entry) = entry.filter(|entry| matches!(entry.place, Place::Parked(_))) {
            let uid = entry.pod.uid.clone();
            self.delay(&uid, now);
        }
    }

    fn in_flight(&mut self, uid: &str, now: Instant) -> Option<(Arc<str>, &mut Entry)> {
        let entry = self.entries.get_mut(uid)?;
        let doublings = entry.attempts.saturating_sub(1).min(10);
        let pause = (FIRST_BACKOFF * (1 << doublings)).min(LONGEST_BACKOFF);
        entry.not_before = Some(now + pause);
        matches!(entry.place, Place::InFlight).then(|| (entry.pod.uid.clone(), entry))
    }

    fn delay(&mut self, uid: &Arc<str>, now: Instant) {
        let entry = &self.entries[uid];
        match entry.not_before {
            Some(due) if due > now => {
                let at = (due, entry.sequence);
                self.unlink(uid);
                self.backoff.insert(at, uid.clone());
                self.set(uid, Place::Backoff(at));
            }
            _ => self.activate(uid),
        }
    }

    fn activate(&mut self, uid: &Arc<str>) {
        self.unlink(uid);
        let entry = &self.entries[uid];
        let at = (-i64::from(entry.pod.priority), entry.sequence);
        self.active.insert(at, uid.clone());
        self.set(uid, Place::Active(at));
    }

    fn set(&mut self, uid: &str, place: Place) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.place = place;
        }
    }

    fn unlink(&mut self, uid: &str) {
        match self.entries.get(uid).map(|entry| &entry.place) {
            Some(Place::Active(at)) => drop(self.active.remove(at)),
            Some(Place::Backoff(at)) => drop(self.backoff.remove(at)),
            Some(Place::Parked(_)) => drop(self.parked.remove(uid)),
            Some(Place::InFlight) | None => {}
        }
    }
}
