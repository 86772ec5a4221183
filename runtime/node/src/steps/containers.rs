//! Containers: image, root, process; signalled, killed, removed.

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Container, ResourceRequirements, Secret, VolumeMount};
use kernelet_client::EventType;
use kernelet_pod_plan::{
    ContainerId, Done, FailureReason, Outcome, Role, StepError, Wanted,
    cgroup::PodCgroup,
    env::{self, Sources},
    fields::RuntimeFields,
    network_files,
};
use kernelet_shim_client::{FailureKind, Shim, ShimError};
use kernelet_spec::{IdMappings, MountPlan, MountSource, Rootfs};
use kernelet_sys::root::{Symlinks, folder, open_in};

use super::Scene;
use crate::{
    container::{Inputs, config_error, container_plan, mount, spec_id},
    errors::chain,
    images::{LocalImage, blocking},
    pod::{Follower, PodHome},
    seccomp_file::localhost_profile,
    volumes::{self, Mounted, OWN_FILES, TERMINATION_LOG},
};

/// The field path of a container, as events name it.
pub(crate) fn field_path(role: Role, name: &str) -> String {
    match role {
        Role::Main => format!("spec.containers{{{name}}}"),
        Role::Init | Role::Sidecar => format!("spec.initContainers{{{name}}}"),
        Role::Ephemeral => format!("spec.ephemeralContainers{{{name}}}"),
    }
}

/// What the plan has decided about a container that is to be made.
pub(super) struct Given<'a> {
    pub attempt: u32,
    /// Whose processes it shall see.
    pub target: Option<&'a ContainerId>,
    pub resources: &'a ResourceRequirements,
}

pub(super) async fn create(
    home: &Arc<PodHome>,
    scene: &Scene,
    name: &str,
    given: Given<'_>,
) -> Outcome {
    let Given {
        attempt,
        target,
        resources,
    } = given;
    let wanted = &scene.wanted;
    if let (Some(named), None) = (wanted.target(name), target) {
        return Err(config_error(format!(
            "unable to find target container {named}"
        )));
    }
    let (role, container) = wanted
        .container(name)
        .ok_or_else(|| config_error(format!("no container {name}")))?;
    let container = &Container {
        resources: Some(resources.clone()),
        ..container.clone()
    };
    let local = match home.image(name) {
        Some(local) => local,
        // Known from before a restart of the agent, by name only.
        None => {
            let asked = container.image.clone().unwrap_or_default();
            let policy = kernelet_pod_plan::pull_policy(container);
            super::images::ensure(home, wanted, name, &asked, policy).await?
        }
    };
    let shim = home.need_shim(FailureReason::CreateContainerError)?;
    let id = new_id();
    let hostname = network_files::hostname(wanted, &home.ctx.config.node_name);
    let ids = super::ground::user_ids(home, wanted).await?;
    let (env, files, rootfs) = tokio::join!(
        environment(home, scene, container),
        write_own_files(home, scene, &hostname, &id),
        make_root(home, &id, &local, ids.clone()),
    );
    let made = match (env, files, rootfs) {
        (Ok(env), Ok(()), Ok(rootfs)) => match mounts(home, wanted, container, &id, &env).await {
            Ok(mounts) => Ok((env, rootfs, mounts)),
            Err(error) => Err(error),
        },
        (Err(error), ..) | (_, Err(error), _) | (_, _, Err(error)) => Err(error),
    };
    let (env, rootfs, mounts) = match made {
        Ok(made) => made,
        Err(error) => {
            discard_root(home, &id).await;
            return Err(error);
        }
    };
    let cgroup = PodCgroup::of(&home.ctx.config.cgroup_root, wanted);
    let seccomp_dir = home.ctx.config.data_dir.join("seccomp");
    let plan = container_plan(Inputs {
        wanted,
        container,
        id: &id,
        attempt,
        image: &local.config,
        found: &local.found,
        rootfs,
        ids,
        hostname: &hostname,
        env,
        mounts,
        cgroup: cgroup.container(&id),
        target,
        seccomp_localhost: &|name| localhost_profile(&seccomp_dir, name),
    });
    let created = match plan {
        Ok(plan) => match home.set_plan(&plan) {
            Ok(()) => shim
                .create(&plan)
                .await
                .map(drop)
                .map_err(|e| create_error(home, &e)),
            Err(error) => Err(config_error(format!("write the container's plan: {error}"))),
        },
        Err(error) => Err(error),
    };
    if let Err(error) = created {
        discard_root(home, &id).await;
        return Err(error);
    }
    home.container_event(
        &field_path(role, name),
        EventType::Normal,
        "Created",
        format!("Created container: {name}"),
    );
    Ok(Done::Created { id })
}

/// 64 hex digits, as everybody's container ids.
fn new_id() -> ContainerId {
    let bytes: [u8; 32] = rand::random();
    ContainerId(
        bytes
            .iter()
            .fold(String::with_capacity(64), |mut id, byte| {
                use std::fmt::Write;
                let _ = write!(id, "{byte:02x}");
                id
            }),
    )
}

fn create_error(home: &PodHome, error: &ShimError) -> StepError {
    let reason = match error {
        // The command isn't in the image: the container was made and its process could not be.
        ShimError::Refused(failure) if failure.kind == FailureKind::Command => {
            FailureReason::RunContainerError
        }
        _ => FailureReason::CreateContainerError,
    };
    StepError {
        reason,
        message: home.shim_error(error),
    }
}

struct Fetched {
    config_maps: Vec<(String, Arc<ConfigMap>)>,
    secrets: Vec<(String, Arc<Secret>)>,
}

impl Sources for Fetched {
    fn config_map(&self, name: &str) -> Option<&ConfigMap> {
        self.config_maps
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, m)| &**m)
    }

    fn secret(&self, name: &str) -> Option<&Secret> {
        self.secrets
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, s)| &**s)
    }
}

async fn environment(
    home: &Arc<PodHome>,
    scene: &Scene,
    container: &Container,
) -> Result<Vec<(String, String)>, StepError> {
    let (maps, secrets) = env::needed(container);
    let mut fetched = Fetched {
        config_maps: Vec::new(),
        secrets: Vec::new(),
    };
    for name in maps {
        let map = home.config_map(&Follower::Configuration, &name).await;
        fetched.config_maps.extend(
            map.map_err(|e| config_error(e.to_string()))?
                .map(|m| (name, m)),
        );
    }
    for name in secrets {
        let secret = home.secret(&Follower::Configuration, &name).await;
        fetched.secrets.extend(
            secret
                .map_err(|e| config_error(e.to_string()))?
                .map(|s| (name, s)),
        );
    }
    let services = home.ctx.services.list();
    let services = env::service_variables(&scene.wanted, services.iter().map(|s| &**s));
    let text = |ips: &[std::net::IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>();
    let host_ips = text(&home.ctx.host_ips());
    let pod_ips = if scene.wanted.host_network() {
        host_ips.clone()
    } else {
        text(&scene.ips)
    };
    let fields = RuntimeFields {
        pod_ips: &pod_ips,
        host_ips: &host_ips,
        node_name: &home.ctx.config.node_name,
    };
    env::environment(&scene.wanted, container, &services, &fetched, &fields)
        .map_err(|e| config_error(e.to_string()))
}

async fn write_own_files(
    home: &PodHome,
    scene: &Scene,
    hostname: &str,
    id: &ContainerId,
) -> Result<(), StepError> {
    let mut files = vec![(format!("{TERMINATION_LOG}{id}"), String::new())];
    let (wanted, config) = (&scene.wanted, &home.ctx.config);
    if !home.files_ready() {
        let host_file = if wanted.host_network() {
            fs::read_to_string("/etc/hosts").unwrap_or_default()
        } else {
            String::new()
        };
        let hosts = network_files::hosts(
            wanted,
            &scene.ips,
            hostname,
            &config.cluster_domain,
            &host_file,
        );
        let resolv = network_files::resolv_conf(
            wanted,
            &config.cluster_dns,
            &config.cluster_domain,
            &home.ctx.resolver,
        );
        files.push(("hosts".to_owned(), hosts));
        files.push(("resolv.conf".to_owned(), resolv));
        files.push(("hostname".to_owned(), format!("{hostname}\n")));
    }
    volumes::own_files(home, files).await?;
    home.set_files_ready();
    Ok(())
}

async fn mounts(
    home: &Arc<PodHome>,
    wanted: &Wanted,
    container: &Container,
    id: &ContainerId,
    env: &[(String, String)],
) -> Result<Vec<MountPlan>, StepError> {
    let mut mounts = Vec::new();
    for wished in container.volume_mounts.iter().flatten() {
        mounts.push(volume_mount(home, wanted, wished, env).await?);
    }
    let own = |path: &str, file: String, mounts: &mut Vec<MountPlan>| {
        // The pod's own volume at the same place wins.
        if mounts.iter().all(|m| m.destination != Path::new(path)) {
            let source = MountSource::Volume {
                name: OWN_FILES.to_owned(),
                sub_path: Some(PathBuf::from(file)),
            };
            mounts.push(mount(path, source, false, None, None));
        }
    };
    for name in ["hosts", "resolv.conf", "hostname"] {
        own(&format!("/etc/{name}"), name.to_owned(), &mut mounts);
    }
    let log = container
        .termination_message_path
        .as_deref()
        .unwrap_or("/dev/termination-log");
    own(log, format!("{TERMINATION_LOG}{id}"), &mut mounts);
    Ok(mounts)
}

async fn volume_mount(
    home: &Arc<PodHome>,
    wanted: &Wanted,
    wished: &VolumeMount,
    env: &[(String, String)],
) -> Result<MountPlan, StepError> {
    // Adopted pods have their volumes in the shim; the agent's own handle is made again by need.
    if home.volume(&wished.name).is_none() {
        volumes::mount(home, wanted, &wished.name).await?;
    }
    let volume = home
        .volume(&wished.name)
        .ok_or_else(|| config_error(format!("volume {} is not mounted", wished.name)))?;
    let sub_path = sub_path(wished, env)?;
    let (source, content) = match volume {
        Mounted::Host(path) => {
            if let Some(sub) = sub_path.clone() {
                let root = fs::File::open(&path)
                    .map_err(|e| config_error(format!("open volume {}: {e}", wished.name)))?;
                make_sub_path(root.into(), sub).await?;
            }
            (
                MountSource::Host {
                    path,
                    sub_path,
                    recursive: true,
                },
                false,
            )
        }
        Mounted::Tmpfs { plan, content } => {
            if let (Some(sub), false) = (sub_path.clone(), content) {
                let shim = home.need_shim(FailureReason::CreateContainerConfigError)?;
                let root = shim.create_volume(&plan).await;
                let root = root.map_err(|e| config_error(home.shim_error(&e)))?;
                make_sub_path(root, sub).await?;
            }
            (
                MountSource::Volume {
                    name: plan.name,
                    sub_path,
                },
                content,
            )
        }
    };
    Ok(mount(
        &wished.mount_path,
        source,
        content || wished.read_only == Some(true),
        wished.mount_propagation.as_deref(),
        wished.recursive_read_only.as_deref(),
    ))
}

fn sub_path(wished: &VolumeMount, env: &[(String, String)]) -> Result<Option<PathBuf>, StepError> {
    let text = match (wished.sub_path.as_deref(), wished.sub_path_expr.as_deref()) {
        (Some(path), _) if !path.is_empty() => path.to_owned(),
        (_, Some(expression)) if !expression.is_empty() => {
            let scope = env.iter().cloned().collect();
            let text = env::expand(expression, &scope);
            // What isn't known stays as it is written; a folder of that name helps nobody.
            if text.contains("$(") {
                return Err(config_error(format!(
                    "missing value for {expression} in subPathExpr"
                )));
            }
            text
        }
        _ => return Ok(None),
    };
    let path = PathBuf::from(&text);
    let plain = path.components().all(|c| {
        matches!(
            c,
            std::path::Component::Normal(_) | std::path::Component::CurDir
        )
    });
    if !plain {
        return Err(config_error(format!(
            "subPath {text:?} leads out of the volume"
        )));
    }
    Ok(Some(path))
}

/// What of a subPath isn't there becomes folders, as open as the volume itself, as upstream has it. The walk never
/// leaves the volume.
async fn make_sub_path(volume: OwnedFd, sub_path: PathBuf) -> Result<(), StepError> {
    let made = blocking(move || make_folders(&volume, &sub_path).map_err(|e| chain(&*e)));
    made.await?
        .map_err(|e| config_error(format!("failed to prepare subPath for volumeMount: {e}")))
}

fn make_folders(volume: &OwnedFd, sub_path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    use std::os::fd::AsRawFd;
    let by_descriptor = |fd: &OwnedFd| PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let permissions = fs::metadata(by_descriptor(volume))?.permissions();
    let mut path = PathBuf::new();
    for part in sub_path {
        path.push(part);
        let flags = nix::fcntl::OFlag::O_PATH;
        if open_in(volume.as_fd(), &path, flags, 0, Symlinks::Inside).is_ok() {
            continue;
        }
        let made = folder(volume.as_fd(), &path, Symlinks::Inside)?;
        fs::set_permissions(by_descriptor(&made), permissions.clone())?;
    }
    Ok(())
}

async fn make_root(
    home: &PodHome,
    id: &ContainerId,
    image: &LocalImage,
    ids: Option<IdMappings>,
) -> Result<Rootfs, StepError> {
    let dir = home.dir().join("containers").join(&id.0);
    let (images, image_id, layers, id) = (
        home.ctx.images.clone(),
        image.id,
        image.layers.clone(),
        id.clone(),
    );
    let made = blocking(move || {
        let (upper, work) = (dir.join("upper"), dir.join("work"));
        for part in [&upper, &work] {
            // The upper folder's mode becomes the root's.
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(part)
                .map_err(|e| e.to_string())?;
        }
        images.hold(image_id, &id).map_err(|e| chain(&e))?;
        Ok::<_, String>(Rootfs::Overlay {
            lower: layers,
            upper,
            work,
            ids,
        })
    });
    made.await?.map_err(|e| StepError {
        reason: FailureReason::CreateContainerError,
        message: format!("make the container's root: {e}"),
    })
}

async fn discard_root(home: &PodHome, id: &ContainerId) {
    let (dir, images, id) = (
        home.dir().join("containers").join(&id.0),
        home.ctx.images.clone(),
        id.clone(),
    );
    let removed = blocking(move || {
        images.release(&id.0).map_err(|e| chain(&e))?;
        super::ground::remove_dir(&dir).map_err(|e| e.to_string())
    });
    if let Ok(Err(error)) = removed.await {
        tracing::warn!(
            error,
            "remove the root of a container that could not be made"
        );
    }
}

pub(super) async fn start(home: &PodHome, id: &ContainerId) -> Outcome {
    let shim = home.need_shim(FailureReason::RunContainerError)?;
    let at = shim.start(&spec_id(id)?).await;
    let at = at.map_err(|e| StepError {
        reason: FailureReason::RunContainerError,
        message: home.shim_error(&e),
    })?;
    Ok(Done::Started {
        at: Timestamp::try_from(at).unwrap_or_else(|_| Timestamp::now()),
    })
}

fn kill_error(home: &PodHome, error: &ShimError) -> StepError {
    StepError {
        reason: FailureReason::FailedKillPod,
        message: home.shim_error(error),
    }
}

/// A gone shim or container needs no signal: its end is on its way to us by itself.
fn gone_is_done(home: &PodHome, result: Result<(), ShimError>) -> Outcome {
    match result {
        Ok(()) | Err(ShimError::Gone) => Ok(Done::Nothing),
        Err(ShimError::Refused(failure)) if failure.kind == FailureKind::NotFound => {
            Ok(Done::Nothing)
        }
        Err(error) => Err(kill_error(home, &error)),
    }
}

pub(super) async fn signal(home: &PodHome, scene: &Scene, name: &str, id: &ContainerId) -> Outcome {
    let own = scene
        .wanted
        .container(name)
        .and_then(|(_, c)| c.lifecycle.as_ref()?.stop_signal.clone());
    let of_image = || home.image(name).and_then(|i| i.config.stop_signal);
    let signal = own
        .or_else(of_image)
        .and_then(|text| signal_number(&text))
        .unwrap_or(15);
    let Some(shim) = home.shim() else {
        return Ok(Done::Nothing);
    };
    gone_is_done(home, shim.signal(&spec_id(id)?, signal).await)
}

/// `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`.
fn signal_number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    if let Some(offset) = full.strip_prefix("SIGRTMIN") {
        let offset = if offset.is_empty() {
            0
        } else {
            offset.strip_prefix('+')?.parse::<i32>().ok()?
        };
        return (0..=30).contains(&offset).then_some(34 + offset);
    }
    full.parse::<nix::sys::signal::Signal>()
        .ok()
        .map(|s| s as i32)
}

pub(super) async fn kill(home: &PodHome, id: &ContainerId) -> Outcome {
    let Some(shim) = home.shim() else {
        return Ok(Done::Nothing);
    };
    gone_is_done(home, shim.kill(&spec_id(id)?).await)
}

pub(super) async fn remove(home: &PodHome, id: &ContainerId) -> Outcome {
    if let Some(shim) = home.shim() {
        forget(home, &shim, id).await?;
    }
    home.forget_plan(&id.0);
    let (dir, images, id) = (
        home.dir().join("containers").join(&id.0),
        home.ctx.images.clone(),
        id.clone(),
    );
    let removed = blocking(move || {
        images.release(&id.0).map_err(|e| chain(&e))?;
        super::ground::remove_dir(&dir).map_err(|e| e.to_string())
    });
    removed.await?.map_err(|e| StepError {
        reason: FailureReason::FailedKillPod,
        message: format!("remove the container's root: {e}"),
    })?;
    Ok(Done::Nothing)
}

async fn forget(home: &PodHome, shim: &Shim, id: &ContainerId) -> Outcome {
    gone_is_done(home, shim.remove(&spec_id(id)?).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_as_images_write_them() {
        for (text, number) in [
            ("SIGTERM", Some(15)),
            ("quit", Some(3)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMIN", Some(34)),
            ("0", None),
            ("65", None),
            ("SIGNONE", None),
        ] {
            assert_eq!(signal_number(text), number, "{text}");
        }
    }

    #[test]
    fn a_sub_path_stays_in_its_volume() {
        let wished = |path: Option<&str>, expression: Option<&str>| VolumeMount {
            sub_path: path.map(str::to_owned),
            sub_path_expr: expression.map(str::to_owned),
            ..VolumeMount::default()
        };
        let env = [
            ("A".to_owned(), "x".to_owned()),
            ("UP".to_owned(), "..".to_owned()),
        ];
        assert_eq!(
            sub_path(&wished(Some("a/b"), None), &env),
            Ok(Some(PathBuf::from("a/b")))
        );
        assert_eq!(
            sub_path(&wished(None, Some("$(A)/y")), &env),
            Ok(Some(PathBuf::from("x/y")))
        );
        assert_eq!(sub_path(&wished(None, None), &env), Ok(None));
        for bad in [
            wished(Some("../x"), None),
            wished(Some("/etc"), None),
            wished(None, Some("$(UP)/x")),
            wished(None, Some("$(NO)")),
        ] {
            assert!(sub_path(&bad, &env).is_err(), "{bad:?}");
        }
    }
}
