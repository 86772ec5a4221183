//! From a pod's container to the fully resolved plan that the shim carries out. Pure.

use std::{collections::BTreeMap, path::PathBuf};

use k8s_openapi::api::core::v1::{Container, PodSecurityContext, SecurityContext};
use kernelet_image::ImageConfig;
use kernelet_pod_plan::{
    ContainerId, FailureReason, ImageFound, StepError, Wanted, env,
    resources::{CgroupLimits, oom_score_adj},
};
use kernelet_spec::{
    CapSet, CapabilitySets, ContainerPlan, IdMap, IdMapSource, IdMappings, LogPlan, MASKED_PATHS,
    MountExtra, MountFlags, MountPlan, MountSource, NameOrId, NamespaceOf, Namespaces,
    ProcessAttributes, ProcessPlan, Propagation, READONLY_PATHS, Resources, RootOptions, Rootfs,
    Seccomp, UserPlan, kubernetes_mounts,
};

/// Everything that a container's plan follows from.
pub(crate) struct Inputs<'a> {
    pub wanted: &'a Wanted,
    pub container: &'a Container,
    pub id: &'a ContainerId,
    pub attempt: u32,
    pub image: &'a ImageConfig,
    pub found: &'a ImageFound,
    pub rootfs: Rootfs,
    /// Of the pod's user namespace, if it has one.
    pub ids: Option<IdMappings>,
    pub hostname: &'a str,
    pub env: Vec<(String, String)>,
    /// Volumes and the pod's own files, below what every container has.
    pub mounts: Vec<MountPlan>,
    pub cgroup: String,
    /// The container whose processes this one shall see.
    pub target: Option<&'a ContainerId>,
    pub seccomp_localhost: &'a dyn Fn(&str) -> Result<Seccomp, String>,
}

/// Keys of the annotations that come back with an adopted container.
pub(crate) const NAME: &str = "kernelet.dev/container";
pub(crate) const ATTEMPT: &str = "kernelet.dev/attempt";
pub(crate) const ASKED: &str = "kernelet.dev/image-asked";
pub(crate) const IMAGE: &str = "kernelet.dev/image";
pub(crate) const IMAGE_ID: &str = "kernelet.dev/image-id";

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const LOG_BYTES: u64 = 10 << 20;
const LOG_FILES: u32 = 5;

pub(crate) fn config_error(message: impl Into<String>) -> StepError {
    StepError {
        reason: FailureReason::CreateContainerConfigError,
        message: message.into(),
    }
}

pub(crate) fn container_plan(inputs: Inputs<'_>) -> Result<ContainerPlan, StepError> {
    let Inputs {
        wanted,
        container,
        id,
        attempt,
        image,
        found,
        ..
    } = inputs;
    let own = container.security_context.clone().unwrap_or_default();
    let pod = wanted.spec().security_context.clone().unwrap_or_default();
    let privileged = own.privileged == Some(true);
    let scope: BTreeMap<String, String> = inputs.env.iter().cloned().collect();
    let process = ProcessPlan {
        args: command(container, image, &scope)?,
        env: environment(container, image, inputs.hostname, &inputs.env),
        cwd: working_dir(container, image, &scope),
        user: user(wanted, container, image, &own, &pod)?,
        capabilities: capabilities(&own, privileged)?,
        no_new_privileges: own.allow_privilege_escalation == Some(false),
        seccomp: seccomp(&own, &pod, privileged, inputs.seccomp_localhost)?,
        rlimits: Vec::new(),
        oom_score_adj: Some(oom_score_adj(wanted.spec(), container, &wanted.node)),
        attributes: ProcessAttributes::default(),
    };
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |list: &[&str]| {
        if unmasked {
            Vec::new()
        } else {
            list.iter().map(PathBuf::from).collect()
        }
    };
    let mut mounts = kubernetes_mounts(privileged);
    if wanted.spec().host_ipc == Some(true) {
        mounts.retain(|m| m.source != MountSource::PodShm);
        mounts.push(MountPlan::bind("/dev/shm", "/dev/shm", false));
    }
    let mut own_mounts = inputs.mounts;
    // A mount below another comes after it, in whatever order the pod lists them.
    own_mounts.sort_by_key(|m| m.destination.components().count());
    // A volume over one of the usual places takes its place.
    mounts.retain(|m| own_mounts.iter().all(|o| o.destination != m.destination));
    mounts.extend(own_mounts);
    if let Some(ids) = &inputs.ids {
        // Files belong to whom the pod sees as their owner, whatever its ids are on the host.
        let held = |m: &&mut MountPlan| {
            matches!(
                m.source,
                MountSource::Host { .. } | MountSource::Volume { .. } | MountSource::PodShm
            )
        };
        for mount in mounts.iter_mut().filter(held) {
            mount.extra.id_map = Some(IdMap {
                ids: IdMapSource::of(ids),
                recursive: false,
            });
        }
    }
    let annotations = [
        (NAME, container.name.clone()),
        (ATTEMPT, attempt.to_string()),
        (ASKED, found.asked.clone()),
        (IMAGE, found.name.clone()),
        (IMAGE_ID, found.id.clone()),
    ];
    let plan = ContainerPlan {
        id: spec_id(id)?,
        process,
        rootfs: inputs.rootfs,
        read_only_rootfs: own.read_only_root_filesystem == Some(true),
        root: RootOptions::default(),
        mounts,
        devices: Vec::new(),
        masked_paths: paths(MASKED_PATHS),
        readonly_paths: paths(READONLY_PATHS),
        namespaces: Namespaces {
            user: match inputs.ids {
                Some(_) => NamespaceOf::Pod,
                None => NamespaceOf::Host,
            },
            mappings: inputs.ids,
            ..namespaces(wanted, inputs.target)?
        },
        net_devices: Vec::new(),
        cgroup: inputs.cgroup,
        resources: resources(container, privileged),
        hostname: None,
        domainname: None,
        sysctls: BTreeMap::new(),
        log: Some(LogPlan {
            path: PathBuf::from(format!("{}/{attempt}.log", container.name)),
            max_bytes: LOG_BYTES,
            max_files: LOG_FILES,
        }),
        stdin: container.stdin == Some(true),
        terminal: container.tty == Some(true),
        annotations: annotations.map(|(k, v)| (k.to_owned(), v)).into(),
    };
    kernelet_spec::validate(&plan).map_err(|e| config_error(crate::errors::chain(&e)))?;
    Ok(plan)
}

/// The id in the runtime's vocabulary.
pub(crate) fn spec_id(id: &ContainerId) -> Result<kernelet_spec::ContainerId, StepError> {
    kernelet_spec::ContainerId::new(id.0.clone()).map_err(|e| config_error(e.to_string()))
}

/// `command` replaces the image's entry point and its arguments; `args` only the arguments.
fn command(
    container: &Container,
    image: &ImageConfig,
    scope: &BTreeMap<String, String>,
) -> Result<Vec<String>, StepError> {
    let expand = |list: &[String]| {
        list.iter()
            .map(|text| env::expand(text, scope))
            .collect::<Vec<_>>()
    };
    let command = container.command.as_deref().unwrap_or_default();
    let args = container.args.as_deref().unwrap_or_default();
    let full = match (command, args) {
        ([], []) => [image.entrypoint.as_slice(), image.cmd.as_slice()].concat(),
        ([], args) => [image.entrypoint.clone(), expand(args)].concat(),
        (command, args) => [expand(command), expand(args)].concat(),
    };
    if full.is_empty() {
        let message = "no command specified: neither the container nor its image has one";
        return Err(StepError {
            reason: FailureReason::CreateContainerError,
            message: message.to_owned(),
        });
    }
    Ok(full)
}

/// The image's variables, overridden by the pod's; HOSTNAME and PATH as every runtime sets them.
fn environment(
    container: &Container,
    image: &ImageConfig,
    hostname: &str,
    pod: &[(String, String)],
) -> Vec<String> {
    let mut all: Vec<String> = Vec::with_capacity(image.env.len() + pod.len() + 3);
    let mut set = |entry: String| {
        let name = entry.split('=').next().unwrap_or_default().len();
        match all
            .iter_mut()
            .find(|e| e.split('=').next().unwrap_or_default() == &entry[..name])
        {
            Some(old) => *old = entry,
            None => all.push(entry),
        }
    };
    set(DEFAULT_PATH.to_owned());
    if container.tty == Some(true) {
        set("TERM=xterm".to_owned());
    }
    set(format!("HOSTNAME={hostname}"));
    image
        .env
        .iter()
        .filter(|e| e.contains('='))
        .for_each(|e| set(e.clone()));
    pod.iter()
        .for_each(|(name, value)| set(format!("{name}={value}")));
    all
}

fn working_dir(
    container: &Container,
    image: &ImageConfig,
    scope: &BTreeMap<String, String>,
) -> PathBuf {
    let own = container
        .working_dir
        .as_deref()
        .filter(|d| !d.is_empty())
        .map(|d| env::expand(d, scope));
    let dir = own.unwrap_or_else(|| image.working_dir.clone());
    if dir.starts_with('/') {
        PathBuf::from(dir)
    } else {
        PathBuf::from("/").join(dir)
    }
}

fn user(
    wanted: &Wanted,
    container: &Container,
    image: &ImageConfig,
    own: &SecurityContext,
    pod: &PodSecurityContext,
) -> Result<UserPlan, StepError> {
    let id = |n: i64, field: &str| {
        u32::try_from(n)
            .ok()
            .filter(|n| i32::try_from(*n).is_ok())
            .ok_or_else(|| {
                config_error(format!("{field}: {n} is no id between 0 and {}", i32::MAX))
            })
    };
    let parse = |text: &str| {
        NameOrId::parse(text)
            .map_err(|e| config_error(format!("the image's user {text:?} is not usable: {e}")))
    };
    let (image_user, image_group) = match image.user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (image.user.as_str(), None),
    };
    let wanted_user = own.run_as_user.or(pod.run_as_user);
    let user = match wanted_user {
        Some(n) => NameOrId::Id(id(n, "runAsUser")?),
        None if image_user.is_empty() => NameOrId::Id(0),
        None => parse(image_user)?,
    };
    let non_root = own.run_as_non_root.or(pod.run_as_non_root) == Some(true);
    let who = || {
        format!(
            "(pod: \"{}\", container: {})",
            wanted.full_name(),
            container.name
        )
    };
    match &user {
        NameOrId::Id(0) if non_root && wanted_user.is_some() => {
            let message = format!("container's runAsUser breaks non-root policy {}", who());
            return Err(config_error(message));
        }
        NameOrId::Id(0) if non_root => {
            let message = format!(
                "container has runAsNonRoot and image will run as root {}",
                who()
            );
            return Err(config_error(message));
        }
        NameOrId::Name(name) if non_root => {
            let message = format!(
                "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {}",
                who()
            );
            return Err(config_error(message));
        }
        NameOrId::Id(_) | NameOrId::Name(_) => {}
    }
    let group = match own.run_as_group.or(pod.run_as_group) {
        Some(n) => Some(NameOrId::Id(id(n, "runAsGroup")?)),
        // With a user of the pod's own, the image's group is another user's.
        None if wanted_user.is_some() => None,
        None => image_group
            .filter(|g| !g.is_empty())
            .map(parse)
            .transpose()?,
    };
    let mut additional_gids = Vec::new();
    for n in pod
        .supplemental_groups
        .iter()
        .flatten()
        .chain(&pod.fs_group)
    {
        let gid = id(*n, "supplementalGroups")?;
        if !additional_gids.contains(&gid) {
            additional_gids.push(gid);
        }
    }
    Ok(UserPlan {
        user,
        group,
        additional_gids,
        groups_of_image: pod.supplemental_groups_policy.as_deref() != Some("Strict"),
        umask: None,
    })
}

fn capabilities(own: &SecurityContext, privileged: bool) -> Result<CapabilitySets, StepError> {
    if privileged {
        return Ok(CapabilitySets::of_container(CapSet::all()));
    }
    let wanted = own.capabilities.clone().unwrap_or_default();
    let (add, drop) = (
        wanted.add.unwrap_or_default(),
        wanted.drop.unwrap_or_default(),
    );
    CapabilitySets::from_add_drop(&add, &drop).map_err(|e| config_error(e.to_string()))
}

fn seccomp(
    own: &SecurityContext,
    pod: &PodSecurityContext,
    privileged: bool,
    localhost: &dyn Fn(&str) -> Result<Seccomp, String>,
) -> Result<Seccomp, StepError> {
    if privileged {
        return Ok(Seccomp::Unconfined);
    }
    // Unset is the default profile, not "unconfined" as upstream has it: secure by default.
    let Some(profile) = own
        .seccomp_profile
        .as_ref()
        .or(pod.seccomp_profile.as_ref())
    else {
        return Ok(Seccomp::RuntimeDefault);
    };
    match profile.type_.as_str() {
        "Unconfined" => Ok(Seccomp::Unconfined),
        "RuntimeDefault" => Ok(Seccomp::RuntimeDefault),
        "Localhost" => {
            let name = profile.localhost_profile.as_deref().unwrap_or_default();
            localhost(name).map_err(|message| StepError {
                reason: FailureReason::CreateContainerError,
                message,
            })
        }
        other => Err(config_error(format!(
            "seccomp profile type {other} is not known"
        ))),
    }
}

fn namespaces(wanted: &Wanted, target: Option<&ContainerId>) -> Result<Namespaces, StepError> {
    let spec = wanted.spec();
    let of = |host: Option<bool>| {
        if host == Some(true) {
            NamespaceOf::Host
        } else {
            NamespaceOf::Pod
        }
    };
    Ok(Namespaces {
        pid: match (spec.host_pid, spec.share_process_namespace, target) {
            (Some(true), ..) => NamespaceOf::Host,
            (_, Some(true), _) => NamespaceOf::Pod,
            (_, _, Some(target)) => NamespaceOf::Container(spec_id(target)?),
            _ => NamespaceOf::New,
        },
        net: of(spec.host_network),
        ipc: of(spec.host_ipc),
        // On the host's network a pod has the host's name too.
        uts: of(spec.host_network),
        ..Namespaces::of_pod()
    })
}

fn resources(container: &Container, privileged: bool) -> Resources {
    let limits = CgroupLimits::of_container(container);
    let mut resources = limited(&limits);
    resources.oom_group = true;
    resources.devices = (!privileged).then(Resources::default_devices);
    resources
}

/// A cgroup's numbers in the vocabulary of the spec. Without swap accounting the limit holds memory alone.
pub(crate) fn limited(limits: &CgroupLimits) -> Resources {
    Resources {
        cpu_shares: Some(limits.cpu_shares),
        cpu_quota_us: limits.cpu_quota_us,
        cpu_period_us: limits.cpu_quota_us.map(|_| limits.cpu_period_us),
        memory_limit: limits.memory_bytes,
        pids_limit: limits.pids.and_then(|n| i64::try_from(n).ok()),
        ..Resources::default()
    }
}

/// One `volumeMounts` entry, its source resolved.
pub(crate) fn mount(
    destination: &str,
    source: MountSource,
    read_only: bool,
    propagation: Option<&str>,
    recursive_read_only: Option<&str>,
) -> MountPlan {
    MountPlan {
        destination: PathBuf::from("/").join(destination),
        source,
        flags: MountFlags {
            read_only,
            recursive_read_only: read_only
                && matches!(recursive_read_only, Some("Enabled" | "IfPossible")),
            ..MountFlags::default()
        },
        propagation: match propagation {
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") => Propagation::Bidirectional,
            _ => Propagation::Private,
        },
        extra: MountExtra::default(),
    }
}

#[cfg(test)]
mod tests;
