//! What a deployment needs next. Pure: its object, its ReplicaSets, the time.
//!
//! One call makes at most one kind of move (up or down), as upstream's sync does; the change that
//! follows from it brings the next call.

use crate::{
    common::time,
    deployment::{
        revision::{REVISION, age_order, annotate, current, new_set, note_sizes, revision},
        scale::{DESIRED, Strategy, available, occupied, proportion, size, strategy, wanted},
        status::{
            PROGRESSING, calculate, condition, find, has_deadline, is_complete, is_paused, judge,
            note_pause, recheck, set,
        },
    },
};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use kube::ResourceExt;
use std::{cmp::Reverse, sync::Arc, time::Duration};

/// One write to the API.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Create(Box<ReplicaSet>),
    /// The set as it should be, and its size before.
    Update {
        set: Box<ReplicaSet>,
        from: i32,
    },
    Delete(String),
}

#[derive(Debug)]
pub(crate) struct Plan {
    pub actions: Vec<Action>,
    /// The deployment's revision annotation, if it must change.
    pub revision: Option<String>,
    pub status: DeploymentStatus,
    pub recheck: Option<Duration>,
}

/// `runs` tells whether any pod of a set (by its uid) still runs: Recreate waits for them.
pub(crate) fn plan(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
    runs: &dyn Fn(&str) -> bool,
    now: Timestamp,
) -> Plan {
    let mut work = Work::new(deployment, sets, now);
    let rollout = work.run(runs);
    let mut status = calculate(
        deployment,
        &work.status,
        work.old.iter().map(|set| &set.object),
        work.new.as_ref().map(|set| &set.object),
        now,
    );
    if rollout == Rollout::Judged {
        let all: Vec<_> = work.all().map(|set| &set.object).collect();
        let new = work.new.as_ref().map(|set| &set.object);
        let empty = DeploymentStatus::default();
        let before = deployment.status.as_ref().unwrap_or(&empty);
        judge(deployment, before, &mut status, &all, new, now);
    }
    if status.conditions.as_ref().is_some_and(Vec::is_empty) {
        status.conditions = None;
    }
    Plan {
        recheck: recheck(deployment, &status, now),
        revision: work.revision.take(),
        actions: work.actions(),
        status,
    }
}

#[derive(PartialEq)]
enum Rollout {
    Judged,
    /// Paused, scaled or deleted: only the counts are reported.
    Counted,
}

struct Set {
    object: ReplicaSet,
    from: i32,
    exists: bool,
    dirty: bool,
}

struct Work<'a> {
    deployment: &'a Deployment,
    strategy: Strategy,
    wanted: i32,
    status: DeploymentStatus,
    old: Vec<Set>,
    new: Option<Set>,
    revision: Option<String>,
    delete: Vec<String>,
    now: Timestamp,
}

impl<'a> Work<'a> {
    fn new(deployment: &'a Deployment, sets: &[Arc<ReplicaSet>], now: Timestamp) -> Self {
        let mut objects: Vec<ReplicaSet> = sets.iter().map(|set| (**set).clone()).collect();
        let known = |object: ReplicaSet| Set {
            from: size(&object),
            object,
            exists: true,
            dirty: false,
        };
        let new = current(deployment, &objects).map(|at| known(objects.remove(at)));
        objects.sort_by_key(age_order);
        Self {
            deployment,
            strategy: strategy(deployment),
            wanted: wanted(deployment),
            status: deployment.status.clone().unwrap_or_default(),
            old: objects.into_iter().map(known).collect(),
            new,
            revision: None,
            delete: Vec::new(),
            now,
        }
    }

    fn run(&mut self, runs: &dyn Fn(&str) -> bool) -> Rollout {
        if self.deployment.metadata.deletion_timestamp.is_some() {
            return Rollout::Counted;
        }
        note_pause(self.deployment, &mut self.status, self.now);
        if is_paused(self.deployment) {
            self.number();
            self.rescale();
            self.clean_up();
            return Rollout::Counted;
        }
        if self.was_rescaled() {
            self.number();
            self.rescale();
            return Rollout::Counted;
        }
        match self.strategy {
            Strategy::Rolling { .. } => self.roll(),
            Strategy::Recreate => self.recreate(runs),
        }
        let counts = calculate(
            self.deployment,
            &self.status,
            self.old.iter().map(|set| &set.object),
            self.new.as_ref().map(|set| &set.object),
            self.now,
        );
        if is_complete(self.deployment, &counts) {
            self.clean_up();
        }
        Rollout::Judged
    }

    fn all(&self) -> impl Iterator<Item = &Set> {
        self.old.iter().chain(&self.new)
    }

    fn actions(self) -> Vec<Action> {
        let mut actions = Vec::new();
        for set in self.new.into_iter().chain(self.old) {
            if !set.exists {
                actions.push(Action::Create(Box::new(set.object)));
            } else if set.dirty {
                let from = set.from;
                let set = Box::new(set.object);
                actions.push(Action::Update { set, from });
            }
        }
        actions.extend(self.delete.into_iter().map(Action::Delete));
        actions
    }

    /// Gives the current set the highest revision, and the deployment the current set's.
    fn number(&mut self) {
        let highest = self.old.iter().map(|set| revision(&set.object)).max();
        let next = highest.unwrap_or(0) + 1;
        let Some(new) = &mut self.new else {
            return;
        };
        new.dirty |= annotate(self.deployment, &mut new.object, next);
        let min_ready = self
            .deployment
            .spec
            .as_ref()
            .and_then(|s| s.min_ready_seconds);
        if let Some(spec) = &mut new.object.spec
            && spec.min_ready_seconds.unwrap_or(0) != min_ready.unwrap_or(0)
        {
            spec.min_ready_seconds = min_ready;
            new.dirty = true;
        }
        let number = revision(&new.object).to_string();
        let annotations = self.deployment.metadata.annotations.as_ref();
        if annotations.and_then(|a| a.get(REVISION)) != Some(&number) {
            self.revision = Some(number);
        }
        if has_deadline(self.deployment) && find(&self.status, PROGRESSING).is_none() {
            let message = format!("Found new replica set \"{}\"", new.object.name_any());
            let found = condition(PROGRESSING, "True", "FoundNewReplicaSet", message, self.now);
            set(&mut self.status, found);
        }
    }

    /// As `number`, and makes the current set when there is none.
    fn number_or_create(&mut self) {
        if self.new.is_none() {
            let highest = self.old.iter().map(|set| revision(&set.object)).max();
            let object = new_set(
                self.deployment,
                self.room_for_new(0),
                highest.unwrap_or(0) + 1,
            );
            if has_deadline(self.deployment) {
                let message = format!("Created new replica set \"{}\"", object.name_any());
                let created = condition(
                    PROGRESSING,
                    "True",
                    "NewReplicaSetCreated",
                    message,
                    self.now,
                );
                set(&mut self.status, created);
            }
            self.new = Some(Set {
                from: 0,
                object,
                exists: false,
                dirty: false,
            });
        }
        self.number();
    }

    /// The size that the current set may have now.
    fn room_for_new(&self, has: i32) -> i32 {
        let Strategy::Rolling { surge, .. } = self.strategy else {
            return self.wanted;
        };
        let occupied: i32 = self.all().map(|set| occupied(&set.object)).sum();
        let room = (self.wanted + surge - occupied).max(0);
        has + room.min(self.wanted - has).max(0)
    }

    fn resize(set: &mut Set, to: i32) -> bool {
        let spec = set.object.spec.get_or_insert_default();
        let changed = spec.replicas != Some(to);
        spec.replicas = Some(to);
        set.dirty |= changed;
        changed
    }

    /// Resizes and notes the deployment's size with it; true when the size changed.
    fn scale(deployment: &Deployment, set: &mut Set, to: i32) -> bool {
        if size(&set.object) == to {
            return false;
        }
        Self::scale_and_note(deployment, set, to)
    }

    fn scale_and_note(deployment: &Deployment, set: &mut Set, to: i32) -> bool {
        set.dirty |= note_sizes(deployment, &mut set.object);
        Self::resize(set, to)
    }

    fn roll(&mut self) {
        self.number_or_create();
        if self.grow_new() {
            return;
        }
        self.shrink_old();
    }

    fn grow_new(&mut self) -> bool {
        let has = self.new.as_ref().map_or(0, |new| size(&new.object));
        let to = if has > self.wanted {
            self.wanted
        } else {
            self.room_for_new(has)
        };
        match &mut self.new {
            Some(new) if new.exists => Self::scale(self.deployment, new, to),
            _ => false,
        }
    }

    /// First the pods of old sets that aren't available anyway, then as many as the available
    /// ones allow.
    fn shrink_old(&mut self) {
        let old: i32 = self.old.iter().map(|set| size(&set.object)).sum();
        if old == 0 {
            return;
        }
        let least = self.wanted - self.strategy.unavailable(self.wanted);
        let new_size = self.new.as_ref().map_or(0, |new| size(&new.object));
        let new_available = self.new.as_ref().map_or(0, |new| available(&new.object));
        let mut budget = old + new_size - least - (new_size - new_available).max(0);
        for set in &mut self.old {
            if budget <= 0 {
                return;
            }
            let (size, available) = (size(&set.object), available(&set.object));
            if size == 0 || size <= available {
                continue;
            }
            let down = budget.min(size - available);
            Self::scale(self.deployment, set, size - down);
            budget -= down;
        }
        // A set that was told to shrink may still report pods that are going.
        let counted = |set: &Set| available(&set.object).min(size(&set.object));
        let available: i32 = self.all().map(counted).sum();
        let mut spare = available - least;
        for set in &mut self.old {
            if spare <= 0 {
                return;
            }
            let size = size(&set.object);
            let down = spare.min(size);
            Self::scale(self.deployment, set, size - down);
            spare -= down;
        }
    }

    fn recreate(&mut self, runs: &dyn Fn(&str) -> bool) {
        self.number();
        let mut shrunk = false;
        for set in &mut self.old {
            shrunk |= Self::scale(self.deployment, set, 0);
        }
        let still_run = || {
            let mut uids = self.old.iter().filter_map(|set| set.object.uid());
            uids.any(|uid| runs(&uid))
        };
        if shrunk || still_run() {
            return;
        }
        self.number_or_create();
        if let Some(new) = &mut self.new
            && new.exists
        {
            Self::scale(self.deployment, new, self.wanted);
        }
    }

    /// Whether the wanted count changed since the sets were sized.
    fn was_rescaled(&self) -> bool {
        self.all()
            .filter(|set| size(&set.object) > 0)
            .filter_map(|set| {
                let annotations = set.object.metadata.annotations.as_ref()?;
                annotations.get(DESIRED)?.parse::<i32>().ok()
            })
            .any(|desired| desired != self.wanted)
    }

    /// Fits the sets to a changed count, in the middle of a rollout in proportion to their sizes.
    fn rescale(&mut self) {
        let deployment = self.deployment;
        let wanted = self.wanted;
        let active = self.all().filter(|set| size(&set.object) > 0).count();
        if active <= 1 {
            let mut sets: Vec<&mut Set> = self.old.iter_mut().chain(&mut self.new).collect();
            let only = sets.iter().position(|set| size(&set.object) > 0);
            // Without an active set the latest one counts: the current, or the youngest old one.
            let at = only.or_else(|| sets.len().checked_sub(1));
            if let Some(at) = at {
                Self::scale_and_note(deployment, sets[at], wanted);
            }
            return;
        }
        if self.is_saturated() {
            for set in &mut self.old {
                Self::scale(deployment, set, 0);
            }
            return;
        }
        if self.strategy == Strategy::Recreate {
            return;
        }
        let max = if wanted > 0 {
            wanted + self.strategy.surge()
        } else {
            0
        };
        let has: i32 = self.all().map(|set| size(&set.object)).sum();
        let to_add = max - has;
        let mut sets: Vec<&mut Set> = self
            .old
            .iter_mut()
            .chain(&mut self.new)
            .filter(|set| size(&set.object) > 0)
            .collect();
        // Larger sets first; among equals, young ones grow first and old ones shrink first.
        if to_add > 0 {
            sets.sort_by_key(|s| (Reverse(size(&s.object)), Reverse(age_order(&s.object))));
        } else {
            sets.sort_by_key(|s| (Reverse(size(&s.object)), age_order(&s.object)));
        }
        let mut added = 0;
        let mut sizes: Vec<i32> = Vec::with_capacity(sets.len());
        for set in &sets {
            let part = proportion(&set.object, deployment, to_add, added);
            sizes.push(size(&set.object) + part);
            added += part;
        }
        if let Some(first) = sizes.first_mut() {
            *first = (*first + to_add - added).max(0);
        }
        for (set, to) in sets.into_iter().zip(sizes) {
            Self::scale_and_note(deployment, set, to);
        }
    }

    /// The current set has all wanted pods, and they are available.
    fn is_saturated(&self) -> bool {
        self.new.as_ref().is_some_and(|new| {
            let annotations = new.object.metadata.annotations.as_ref();
            let desired = annotations
                .and_then(|a| a.get(DESIRED))
                .and_then(|d| d.parse().ok());
            size(&new.object) == self.wanted
                && desired == Some(self.wanted)
                && available(&new.object) == self.wanted
        })
    }

    /// Forgets the oldest revisions beyond the limit.
    fn clean_up(&mut self) {
        let spec = self.deployment.spec.as_ref();
        let Some(limit) = spec.and_then(|spec| spec.revision_history_limit) else {
            return;
        };
        let limit = usize::try_from(limit).unwrap_or(0);
        let mut old: Vec<&Set> = self
            .old
            .iter()
            .filter(|set| set.object.metadata.deletion_timestamp.is_none())
            .collect();
        let surplus = old.len().saturating_sub(limit);
        old.sort_by_key(|set| (revision(&set.object), age_order(&set.object)));
        let empty = |set: &&&Set| {
            let meta = &set.object.metadata;
            let status = set.object.status.as_ref();
            size(&set.object) == 0
                && status.map_or(0, |s| s.replicas) == 0
                && meta.generation <= status.and_then(|s| s.observed_generation)
        };
        self.delete = old[..surplus]
            .iter()
            .filter(empty)
            .map(|set| set.object.name_any())
            .collect();
    }
}

/// The condition that says why the current set couldn't be made.
pub(crate) fn creation_failed(status: &mut DeploymentStatus, message: String, now: Timestamp) {
    let mut failed = condition(PROGRESSING, "False", "ReplicaSetCreateError", message, now);
    failed.last_update_time = time(now);
    set(status, failed);
}
