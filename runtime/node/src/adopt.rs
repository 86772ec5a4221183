//! What an earlier agent, or an earlier boot, has left of a pod.

use std::{collections::BTreeMap, fs, sync::Arc};

use jiff::Timestamp;
use kernelet_attach::Attached;
use kernelet_pod_plan::{
    ContainerId, Exit, ImageFound, ShimLeft, Survivor, SurvivorPhase, Survivors, Wanted,
    cgroup::PodCgroup,
};
use kernelet_shim_client::{AdoptError, ExitRecord, Phase, Shim};
use kernelet_spec::ContainerPlan;

use crate::{
    container::{ASKED, ATTEMPT, IMAGE, IMAGE_ID, NAME},
    errors::chain,
    pod::PodHome,
    steps::spawn_options,
    volumes::{TERMINATION_LOG, read_own_file},
};

/// Looks, and takes the shim over if it lives. A pod that never was here costs a look at one folder.
pub(crate) async fn survivors(
    home: &Arc<PodHome>,
    wanted: &Wanted,
    attached: Option<Attached>,
) -> Survivors {
    let folders = home.dir().is_dir();
    let Ok(options) = spawn_options(home) else {
        return Survivors::default();
    };
    let shim_dir = options.dir.clone();
    if !folders && !shim_dir.is_dir() {
        return Survivors::default();
    }
    let path = PodCgroup::of(&home.ctx.config.cgroup_root, wanted).path;
    let group = home.ctx.layout.group(&path);
    let (cgroup, populated) = (group.exists(), group.populated().unwrap_or(false));
    let ips = match attached {
        Some(attached) => attached.ips,
        None => told_ips(wanted),
    };
    let none = Survivors {
        folders,
        cgroup,
        ips: Vec::new(),
        ..Survivors::default()
    };
    if !shim_dir.is_dir() {
        // Processes without a shim: nobody will ever say how they ended.
        let shim = if populated {
            ShimLeft::Dead
        } else {
            ShimLeft::None
        };
        return Survivors { shim, ..none };
    }
    match Shim::adopt(options).await {
        Ok(shim) => {
            let sandbox = shim.sandbox().await.ok().flatten();
            let state = shim.watch().borrow().state.clone();
            home.set_shim(Some(shim));
            let has_sandbox = sandbox.is_some();
            home.set_sandbox(sandbox);
            let mut containers = Vec::new();
            for (id, container) in state.containers {
                let phase = match &container.phase {
                    Phase::Created { .. } => SurvivorPhase::Created,
                    Phase::Running { started_at, .. } => SurvivorPhase::Running {
                        started_at: time(*started_at),
                    },
                    Phase::Exited(record) => exited(home, record).await,
                };
                containers.extend(survivor(id.as_str(), &container.annotations, phase));
            }
            Survivors {
                shim: ShimLeft::Adopted,
                sandbox: has_sandbox,
                ips,
                cgroup,
                folders,
                containers,
            }
        }
        Err(error) => {
            match &error {
                AdoptError::Gone { .. } => {}
                other => {
                    tracing::warn!(pod = %home.id.name, error = %chain(other), "a shim can't be taken over")
                }
            }
            let mut containers = Vec::new();
            for (id, record) in Shim::records(&shim_dir).unwrap_or_default() {
                let phase = exited(home, &record).await;
                containers.extend(survivor(
                    id.as_str(),
                    &annotations(home, id.as_str()),
                    phase,
                ));
            }
            Survivors {
                shim: ShimLeft::Dead,
                containers,
                ..none
            }
        }
    }
}

/// The addresses that the API remembers; wanted again when the network has forgotten them.
fn told_ips(wanted: &Wanted) -> Vec<std::net::IpAddr> {
    let status = wanted.pod.status.iter();
    status
        .flat_map(|s| s.pod_ips.iter().flatten())
        .filter_map(|ip| ip.ip.parse().ok())
        .collect()
}

fn time(at: std::time::SystemTime) -> Timestamp {
    Timestamp::try_from(at).unwrap_or_else(|_| Timestamp::now())
}

async fn exited(home: &PodHome, record: &ExitRecord) -> SurvivorPhase {
    let exit = Exit {
        code: record.exit_code,
        oom_killed: record.oom_killed,
        at: time(record.finished_at),
    };
    let log = format!("{TERMINATION_LOG}{}", record.id);
    let message = read_own_file(home, &log, 4096)
        .await
        .filter(|m| !m.is_empty());
    SurvivorPhase::Exited {
        started_at: record.started_at.map(time),
        exit,
        message,
    }
}

/// A dead shim tells nothing but its records; what they were is in the plans that the agent kept.
fn annotations(home: &PodHome, id: &str) -> BTreeMap<String, String> {
    let file = home.dir().join("containers").join(id).join("plan.json");
    let plan = fs::read(file)
        .ok()
        .and_then(|text| serde_json::from_slice::<ContainerPlan>(&text).ok());
    plan.map(|p| p.annotations).unwrap_or_default()
}

fn survivor(
    id: &str,
    annotations: &BTreeMap<String, String>,
    phase: SurvivorPhase,
) -> Option<Survivor> {
    let get = |key: &str| annotations.get(key).cloned();
    let image = match (get(ASKED), get(IMAGE), get(IMAGE_ID)) {
        (Some(asked), Some(name), Some(id)) => Some(ImageFound { asked, name, id }),
        _ => None,
    };
    Some(Survivor {
        id: ContainerId(id.to_owned()),
        name: get(NAME)?,
        attempt: get(ATTEMPT)?.parse().ok()?,
        image,
        phase,
    })
}
