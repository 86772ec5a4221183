//! A pod's ground: folders, cgroup, shim, namespaces, network; made in that order, unmade in the other.

use std::{fs, os::unix::fs::DirBuilderExt, path::Path, time::Duration};

use kernelet_attach::{AttachRequest, HostPort, Protocol};
use kernelet_pod_plan::{
    Done, FailureReason, Outcome, StepError, Wanted,
    cgroup::{PodCgroup, shim_path},
    network_files,
};
use kernelet_shim_client::{Leftovers, Shim, ShimError, SpawnOptions, cleanup};
use kernelet_spec::{IdMappings, PodUid, SandboxPlan};
use kernelet_sys::cgroup::Layout;

use super::Scene;
use crate::{container::limited, errors::chain, images::blocking, pod::PodHome};

const SHM_BYTES: u64 = 64 << 20;
/// How long the end of killed processes is waited for.
const DYING: Duration = Duration::from_secs(5);

fn sandbox_error(message: impl Into<String>) -> StepError {
    StepError {
        reason: FailureReason::FailedCreatePodSandBox,
        message: message.into(),
    }
}

fn teardown_error(message: impl Into<String>) -> StepError {
    StepError {
        reason: FailureReason::FailedKillPod,
        message: message.into(),
    }
}

/// The object as it was: what a restarted agent knows of a pod that the API has forgotten.
pub(crate) const POD_FILE: &str = "pod.json";

pub(super) fn make_folders(home: &PodHome, scene: &Scene) -> Outcome {
    let dir = home.dir();
    let make = |dir: &Path| {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
    };
    let made = make(&dir)
        .and_then(|()| make(&home.log_dir()))
        .and_then(|()| {
            let text = serde_json::to_vec(&*scene.wanted.pod).map_err(std::io::Error::other)?;
            let temporary = dir.join("pod.json.new");
            fs::write(&temporary, text)?;
            fs::rename(&temporary, dir.join(POD_FILE))
        });
    made.map_err(|e| sandbox_error(format!("make the pod's folders: {e}")))?;
    Ok(Done::Nothing)
}

pub(super) async fn make_cgroup(home: &PodHome, cgroup: &PodCgroup) -> Outcome {
    let (layout, cgroup) = (home.ctx.layout.clone(), cgroup.clone());
    let made =
        blocking(move || layout.group(&cgroup.path).create(&limited(&cgroup.limits))).await?;
    made.map_err(|e| sandbox_error(format!("make the pod's cgroup: {}", chain(&e))))?;
    Ok(Done::Nothing)
}

/// Where the pod's shim lives.
pub(crate) fn spawn_options(home: &PodHome) -> Result<SpawnOptions, StepError> {
    let uid = PodUid::new(home.id.uid.clone()).map_err(|e| sandbox_error(e.to_string()))?;
    Ok(SpawnOptions {
        uid,
        dir: home.ctx.shim_dir(&home.id.uid),
        log_dir: home.log_dir(),
        cgroup: shim_path(&home.ctx.config.cgroup_root, &home.id.uid),
        layout: home.ctx.layout.clone(),
    })
}

pub(super) async fn spawn_shim(home: &PodHome) -> Outcome {
    let options = spawn_options(home)?;
    match Shim::spawn(options).await {
        Ok(shim) => {
            home.set_shim(Some(shim));
            Ok(Done::Nothing)
        }
        Err(error) => {
            home.set_shim(None);
            Err(sandbox_error(format!(
                "start the pod's shim: {}",
                chain(&error)
            )))
        }
    }
}

pub(super) async fn create_sandbox(home: &PodHome, scene: &Scene) -> Outcome {
    let wanted = &scene.wanted;
    let spec = wanted.spec();
    let hostname = network_files::hostname(wanted, &home.ctx.config.node_name);
    let fqdn = network_files::fqdn(wanted, &hostname, &home.ctx.config.cluster_domain);
    let cgroup = PodCgroup::of(&home.ctx.config.cgroup_root, wanted);
    let sysctls = spec
        .security_context
        .iter()
        .flat_map(|c| c.sysctls.iter().flatten());
    let ids = user_ids(home, wanted).await?;
    let plan = SandboxPlan {
        ids,
        hostname: match fqdn {
            Some(fqdn) if spec.set_hostname_as_fqdn == Some(true) => fqdn,
            _ => hostname,
        },
        domainname: None,
        sysctls: sysctls.map(|s| (s.name.clone(), s.value.clone())).collect(),
        host_network: wanted.host_network(),
        host_ipc: spec.host_ipc == Some(true),
        share_process_namespace: spec.share_process_namespace == Some(true),
        shm_bytes: SHM_BYTES,
        init_cgroup: format!("{}/init", cgroup.path),
    };
    let shim = home.need_shim(FailureReason::FailedCreatePodSandBox)?;
    let sandbox = shim.create_sandbox(&plan).await;
    let sandbox = sandbox.map_err(|e| {
        sandbox_error(format!(
            "make the pod's namespaces: {}",
            home.shim_error(&e)
        ))
    })?;
    home.set_sandbox(Some(sandbox));
    Ok(Done::Nothing)
}

/// The ids of a pod that has a user namespace of its own.
pub(super) async fn user_ids(
    home: &PodHome,
    wanted: &Wanted,
) -> Result<Option<IdMappings>, StepError> {
    if wanted.spec().host_users != Some(false) {
        return Ok(None);
    }
    let (ctx, uid) = (home.ctx.clone(), home.id.uid.clone());
    let taken = blocking(move || ctx.id_ranges.take(&uid)).await?;
    taken
        .map(Some)
        .map_err(|e| sandbox_error(format!("find ids for the pod's user namespace: {e}")))
}

pub(super) async fn attach_network(home: &PodHome, scene: &Scene) -> Outcome {
    let netns = home.sandbox().and_then(|s| s.net);
    let netns = netns.ok_or_else(|| sandbox_error("the pod has no network namespace to attach"))?;
    let request = AttachRequest {
        pod: home.id.clone(),
        netns,
        host_ports: host_ports(&scene.wanted),
        wanted_ips: scene.ips.clone(),
    };
    let attached = home.ctx.config.network.attach(request).await;
    let attached =
        attached.map_err(|e| sandbox_error(format!("set up the pod's network: {}", chain(&e))))?;
    Ok(Done::Attached { ips: attached.ips })
}

fn host_ports(wanted: &Wanted) -> Vec<HostPort> {
    let ports = wanted
        .containers()
        .flat_map(|(_, c)| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let host_port = u16::try_from(port.host_port?).ok().filter(|p| *p != 0)?;
            Some(HostPort {
                protocol: match port.protocol.as_deref() {
                    Some("UDP") => Protocol::Udp,
                    Some("SCTP") => Protocol::Sctp,
                    _ => Protocol::Tcp,
                },
                host_ip: port.host_ip.as_deref().and_then(|ip| ip.parse().ok()),
                host_port,
                container_port: u16::try_from(port.container_port).ok()?,
            })
        })
        .collect()
}

pub(super) async fn kill_pod(home: &PodHome, scene: &Scene) -> Outcome {
    let path = PodCgroup::of(&home.ctx.config.cgroup_root, &scene.wanted).path;
    let layout = home.ctx.layout.clone();
    blocking(move || kill(&layout, &path))
        .await?
        .map_err(teardown_error)?;
    Ok(Done::Nothing)
}

/// SIGKILL to all that is in the cgroup, until nothing is.
fn kill(layout: &Layout, path: &str) -> Result<(), String> {
    let group = layout.group(path);
    let error = |e| format!("kill the pod's processes: {}", chain(&e));
    group.kill().map_err(error)?;
    match group.wait_empty(DYING).map_err(error)? {
        true => Ok(()),
        false => Err(format!(
            "processes of cgroup {path} are still there {} s after SIGKILL",
            DYING.as_secs()
        )),
    }
}

pub(super) async fn detach_network(home: &PodHome) -> Outcome {
    let detached = home.ctx.config.network.detach(&home.id).await;
    detached.map_err(|e| teardown_error(format!("take down the pod's network: {}", chain(&e))))?;
    Ok(Done::Nothing)
}

/// tmpfs volumes end with the shim; what was on disk is removed here. Logs stay as long as the object does.
pub(super) async fn unmount_volumes(home: &PodHome) -> Outcome {
    home.forget_volumes();
    let dir = home.dir();
    let images = home.ctx.images.clone();
    let removed = blocking(move || {
        for container in list(&dir.join("containers")) {
            images.release(&container).map_err(std::io::Error::other)?;
        }
        for part in ["volumes", "containers"] {
            remove_dir(&dir.join(part))?;
        }
        Ok::<_, std::io::Error>(())
    });
    removed
        .await?
        .map_err(|e| teardown_error(format!("remove the pod's volumes: {e}")))?;
    Ok(Done::Nothing)
}

fn list(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|e| e.file_name().into_string().ok())
        .collect()
}

/// A folder that isn't there is no error.
pub(crate) fn remove_dir(dir: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

pub(super) async fn end_shim(home: &PodHome) -> Outcome {
    if let Some(shim) = home.shim() {
        match shim.shutdown(DYING).await {
            Ok(()) | Err(ShimError::Gone) => {}
            Err(error) => {
                tracing::warn!(pod = %home.id.name, error = %chain(&error), "the shim didn't leave politely")
            }
        }
    }
    home.set_shim(None);
    let leftovers = Leftovers {
        pod: home.id.uid.clone(),
        dir: home.ctx.shim_dir(&home.id.uid),
        cgroups: vec![shim_path(&home.ctx.config.cgroup_root, &home.id.uid)],
        layout: home.ctx.layout.clone(),
        deadline: DYING,
    };
    cleanup(leftovers)
        .await
        .map_err(|e| teardown_error(chain(&e)))?;
    Ok(Done::Nothing)
}

pub(super) async fn remove_cgroup(home: &PodHome, scene: &Scene) -> Outcome {
    let path = PodCgroup::of(&home.ctx.config.cgroup_root, &scene.wanted).path;
    let layout = home.ctx.layout.clone();
    let removed = blocking(move || layout.group(&path).remove(DYING)).await?;
    removed.map_err(|e| teardown_error(format!("remove the pod's cgroup: {}", chain(&e))))?;
    Ok(Done::Nothing)
}

/// Kills and removes cgroups of pods that nobody knows any more; blocks.
pub(crate) fn remove_cgroups(layout: &Layout, paths: &[String]) -> Vec<String> {
    let mut problems = Vec::new();
    for path in paths {
        if let Err(error) = kill(layout, path) {
            problems.push(error);
        }
        if let Err(error) = layout.group(path).remove(DYING) {
            problems.push(chain(&error));
        }
    }
    problems
}

pub(super) async fn remove_folders(home: &PodHome) -> Outcome {
    let (dir, logs) = (home.dir(), home.log_dir());
    let (ctx, uid) = (home.ctx.clone(), home.id.uid.clone());
    // The pod's folder after the logs: as long as it is there, a restarted agent knows that something is left. Its ids
    // last: with the folder they are free.
    let removed = blocking(move || {
        remove_dir(&logs)?;
        remove_dir(&dir)?;
        ctx.id_ranges.give_back(&uid)
    })
    .await?;
    removed.map_err(|e| teardown_error(format!("remove the pod's folders: {e}")))?;
    Ok(Done::Nothing)
}
