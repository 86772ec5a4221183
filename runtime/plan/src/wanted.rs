//! What the API asks of this node for one pod, and the node's own facts that decisions need.

use std::{net::IpAddr, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};

/// One pod as the API has it.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Changed by [`Wanted::set_pod`] alone.
    pub pod: Arc<Pod>,
    /// The pod's ephemeral containers, in the form that all others have.
    ephemeral: Arc<[Container]>,
    pub presence: Presence,
    /// The node stops and ends its pods with at most this grace; the objects stay as they are.
    pub suspended: Option<Duration>,
    pub node: Arc<NodeFacts>,
}

/// Whether the object still stands in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Present,
    /// The object went away (deleted with grace 0, or while the agent was down).
    Removed,
}

/// The node, as far as pods depend on it.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeFacts {
    pub host_ips: Vec<IpAddr>,
    /// The path below each hierarchy's root under which all pods live.
    pub cgroup_root: String,
    pub memory_bytes: u64,
    pub cpus: u32,
    /// The lowest `oom_score_adj` that this process may set (its own, without CAP_SYS_RESOURCE).
    pub oom_score_floor: i32,
    /// At most so many tasks in a pod.
    pub pod_pids: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// A container's place in the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Init,
    /// An init container with `restartPolicy: Always`: it starts in its turn and runs beside the others.
    Sidecar,
    Main,
    /// Added to a running pod to look into it: started at any time, never again, and of no weight for the pod's phase.
    Ephemeral,
}

impl Role {
    /// Whether it stands among the init containers.
    pub fn is_init(self) -> bool {
        matches!(self, Self::Init | Self::Sidecar)
    }
}

/// A pod on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deletion {
    pub grace: Duration,
    /// Not later than this, whatever was granted before (a second delete may shorten the grace).
    pub not_later_than: Option<Timestamp>,
}

impl Wanted {
    /// A pod that is present and shall run.
    pub fn new(pod: Arc<Pod>, node: Arc<NodeFacts>) -> Self {
        Self {
            ephemeral: ephemeral_containers(&pod),
            pod,
            presence: Presence::Present,
            suspended: None,
            node,
        }
    }

    /// The object has changed.
    pub fn set_pod(&mut self, pod: Arc<Pod>) {
        self.ephemeral = ephemeral_containers(&pod);
        self.pod = pod;
    }

    pub fn spec(&self) -> &PodSpec {
        static NONE: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
        self.pod.spec.as_ref().unwrap_or(&NONE)
    }

    pub fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    pub fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    /// `name_namespace(uid)`, as upstream's messages name a pod.
    pub fn full_name(&self) -> String {
        format!("{}_{}({})", self.name(), self.namespace(), self.uid())
    }

    /// Every container in start order: init containers and sidecars first, the ephemeral ones last.
    pub fn containers(&self) -> impl Iterator<Item = (Role, &Container)> {
        let spec = self.spec();
        let init = spec
            .init_containers
            .iter()
            .flatten()
            .map(|c| (init_role(c), c));
        let ephemeral = self.ephemeral.iter().map(|c| (Role::Ephemeral, c));
        init.chain(spec.containers.iter().map(|c| (Role::Main, c)))
            .chain(ephemeral)
    }

    /// The container whose processes the ephemeral container `name` shall see.
    pub fn target(&self, name: &str) -> Option<&str> {
        let mut all = self.spec().ephemeral_containers.iter().flatten();
        let target = all.find(|c| c.name == name)?.target_container_name.as_ref();
        target.map(String::as_str).filter(|t| !t.is_empty())
    }

    pub fn container(&self, name: &str) -> Option<(Role, &Container)> {
        self.containers().find(|(_, c)| c.name == name)
    }

    pub fn host_network(&self) -> bool {
        self.spec().host_network == Some(true)
    }

    pub fn restart_policy(&self) -> RestartPolicy {
        parse_policy(self.spec().restart_policy.as_deref()).unwrap_or(RestartPolicy::Always)
    }

    pub fn grace(&self) -> Duration {
        seconds(self.spec().termination_grace_period_seconds.unwrap_or(30))
    }

    /// `None` while the pod shall run.
    pub fn deletion(&self) -> Option<Deletion> {
        let meta = &self.pod.metadata;
        let least = Duration::from_secs(1);
        match (&meta.deletion_timestamp, self.presence) {
            (None, Presence::Present) => None,
            (stamp, presence) => {
                let spec = self.spec().termination_grace_period_seconds.unwrap_or(30);
                let granted = meta
                    .deletion_grace_period_seconds
                    .unwrap_or(match presence {
                        Presence::Present => spec,
                        // The object is gone: nobody waits for it any more, and its name may be taken again.
                        Presence::Removed => spec.min(1),
                    });
                Some(Deletion {
                    grace: seconds(granted).max(least),
                    // The stamp is cut to whole seconds.
                    not_later_than: stamp.as_ref().map(|t| t.0 + Duration::from_secs(1)),
                })
            }
        }
    }

    /// Whether a container that ended with `exit_code` is started again.
    pub fn restarts(&self, role: Role, container: &Container, exit_code: i32) -> bool {
        for rule in container.restart_policy_rules.iter().flatten() {
            let Some(codes) = &rule.exit_codes else {
                continue;
            };
            let listed = codes.values.iter().flatten().any(|v| *v == exit_code);
            let applies = match codes.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            };
            if applies && rule.action == "Restart" {
                return true;
            }
        }
        let own = parse_policy(container.restart_policy.as_deref());
        match (role, own.unwrap_or_else(|| self.restart_policy())) {
            (Role::Sidecar, _) => true,
            (Role::Ephemeral, _) | (_, RestartPolicy::Never) => false,
            (Role::Init, _) | (_, RestartPolicy::OnFailure) => exit_code != 0,
            (Role::Main, RestartPolicy::Always) => true,
        }
    }
}

fn ephemeral_containers(pod: &Pod) -> Arc<[Container]> {
    let spec = pod.spec.iter();
    spec.flat_map(|s| s.ephemeral_containers.iter().flatten())
        .map(container_of)
        .collect()
}

/// What an ephemeral container may say; ports, probes, hooks and resources are refused by the API.
fn container_of(c: &EphemeralContainer) -> Container {
    Container {
        name: c.name.clone(),
        image: c.image.clone(),
        image_pull_policy: c.image_pull_policy.clone(),
        command: c.command.clone(),
        args: c.args.clone(),
        working_dir: c.working_dir.clone(),
        env: c.env.clone(),
        env_from: c.env_from.clone(),
        volume_mounts: c.volume_mounts.clone(),
        security_context: c.security_context.clone(),
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        tty: c.tty,
        termination_message_path: c.termination_message_path.clone(),
        termination_message_policy: c.termination_message_policy.clone(),
        ..Container::default()
    }
}

fn init_role(container: &Container) -> Role {
    match container.restart_policy.as_deref() {
        Some("Always") => Role::Sidecar,
        _ => Role::Init,
    }
}

fn parse_policy(text: Option<&str>) -> Option<RestartPolicy> {
    match text? {
        "Always" => Some(RestartPolicy::Always),
        "OnFailure" => Some(RestartPolicy::OnFailure),
        "Never" => Some(RestartPolicy::Never),
        _ => None,
    }
}

/// A non-negative count of seconds.
pub(crate) fn seconds(n: i64) -> Duration {
    Duration::from_secs(u64::try_from(n).unwrap_or(0))
}
