//! The planner's part in resizing: the pod's cgroup and its containers' in one step, restarts after it.

use super::Planner;
use crate::{
    ObservedContainer, Run, Stage, Step,
    cgroup::PodCgroup,
    resize::{allocated, pending},
};

impl Planner<'_> {
    pub(super) fn resize(&mut self) {
        let Some(pending) = pending(self.wanted, self.observed) else {
            return;
        };
        if pending.infeasible.is_some() || (!pending.pod && pending.in_place.is_empty()) {
            return;
        }
        let containers = pending.in_place.into_iter().filter_map(|(name, id)| {
            let (_, container) = self.wanted.container(&name)?;
            Some((name, id, allocated(self.wanted, self.observed, container)))
        });
        let step = Step::ResizePod {
            cgroup: PodCgroup::of(&self.wanted.node.cgroup_root, self.wanted),
            containers: containers.collect(),
        };
        let stage: &Stage = &self.observed.resize;
        self.ground(stage, self.observed.cgroup.is_done(), step);
    }

    /// Whether the container must end because its resize asks for a restart. The pod's cgroup comes first: a new run
    /// must fit into it.
    pub(super) fn restarts_for_resize(&self, name: &str, c: &ObservedContainer) -> bool {
        matches!(c.run, Run::Running { .. })
            && pending(self.wanted, self.observed).is_some_and(|p| {
                !p.pod && p.infeasible.is_none() && p.restarts.iter().any(|n| n == name)
            })
    }
}
