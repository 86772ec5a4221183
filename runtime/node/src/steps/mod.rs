//! Steps carried out: one match, no policy. What comes next is decided by the plan alone.

mod api;
mod containers;
mod ground;
mod grpc;
mod hooks;
mod images;
mod resize;

use std::{net::IpAddr, sync::Arc};

use kernelet_pod_plan::{Outcome, Step, Wanted};

pub(crate) use crate::container::spec_id;
pub(crate) use containers::field_path;
pub(crate) use ground::{POD_FILE, remove_cgroups, remove_dir, spawn_options};
pub(crate) use grpc::grpc_health;
pub(crate) use hooks::{
    HandlerError, exec_capture, http_get, pod_ip, port as handler_port, tcp_connect,
};

use crate::{pod::PodHome, volumes};

/// What a step may need to know of the pod, as it was when the step was planned.
#[derive(Clone)]
pub(crate) struct Scene {
    pub wanted: Wanted,
    pub ips: Vec<IpAddr>,
    /// What the API has of the status.
    pub reported: Option<Arc<k8s_openapi::api::core::v1::PodStatus>>,
}

pub(crate) async fn execute(home: &Arc<PodHome>, scene: &Scene, step: &Step) -> Outcome {
    #[cfg(feature = "fault-points")]
    crate::fault::point(home, crate::fault::When::Before, step.kind()).await;
    let outcome = carry_out(home, scene, step).await;
    #[cfg(feature = "fault-points")]
    crate::fault::point(home, crate::fault::When::After, step.kind()).await;
    outcome
}

async fn carry_out(home: &Arc<PodHome>, scene: &Scene, step: &Step) -> Outcome {
    match step {
        Step::MakeFolders => ground::make_folders(home, scene),
        Step::MakeCgroup { cgroup } => ground::make_cgroup(home, cgroup).await,
        Step::SpawnShim => ground::spawn_shim(home).await,
        Step::CreateSandbox => ground::create_sandbox(home, scene).await,
        Step::AttachNetwork => ground::attach_network(home, scene).await,
        Step::MountVolume { volume } | Step::RefreshVolume { volume } => {
            volumes::mount(home, &scene.wanted, volume).await
        }
        Step::ResolveImage {
            container,
            image,
            policy,
        } => images::resolve_image(home, &scene.wanted, container, image, *policy).await,
        Step::CreateContainer {
            container,
            attempt,
            target,
            resources,
        } => {
            let given = containers::Given {
                attempt: *attempt,
                target: target.as_ref(),
                resources,
            };
            containers::create(home, scene, container, given).await
        }
        Step::StartContainer { container: _, id } => containers::start(home, id).await,
        Step::ResizePod { cgroup, containers } => {
            resize::resize(home, scene, cgroup, containers).await
        }
        Step::RunPostStart { container, id } => hooks::post_start(home, scene, container, id).await,
        Step::RunPreStop {
            container,
            id,
            limit,
            ..
        } => hooks::pre_stop(home, scene, container, id, *limit).await,
        Step::SignalContainer { container, id, .. } => {
            containers::signal(home, scene, container, id).await
        }
        Step::KillContainer {
            container: _, id, ..
        } => containers::kill(home, id).await,
        Step::RemoveContainer { container: _, id } => containers::remove(home, id).await,
        Step::KillPod => ground::kill_pod(home, scene).await,
        Step::DetachNetwork => ground::detach_network(home).await,
        Step::UnmountVolumes => ground::unmount_volumes(home).await,
        Step::EndShim => ground::end_shim(home).await,
        Step::RemoveCgroup => ground::remove_cgroup(home, scene).await,
        Step::RemoveFolders => ground::remove_folders(home).await,
        Step::ReportStatus { status } => api::report_status(home, scene, status).await,
        Step::DeleteFromApi => api::delete(home).await,
    }
}
