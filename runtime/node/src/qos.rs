//! The weight of the Burstable class against the others: the sum of what its pods request, as the kubelet keeps it.

use std::{sync::Arc, time::Duration};

use kernelet_pod_plan::{
    cgroup::qos_path,
    resources::{CgroupLimits, QosClass},
};
use kernelet_spec::Resources;
use tokio::sync::Notify;

use crate::{context::Context, errors::chain, pods::Pods};

/// Pods come in crowds; one change of the group serves them all.
const GATHER: Duration = Duration::from_millis(100);

pub(crate) async fn keep(ctx: Arc<Context>, pods: std::sync::Weak<Pods>, changed: Arc<Notify>) {
    let mut set = None;
    loop {
        tokio::select! {
            () = ctx.shutdown.cancelled() => return,
            () = changed.notified() => {}
        }
        tokio::time::sleep(GATHER).await;
        let Some(views) = pods.upgrade().map(|p| p.views()) else {
            return;
        };
        let specs = views.iter().filter_map(|v| v.pod.spec.as_ref());
        let burstable = specs.filter(|spec| QosClass::of(spec) == QosClass::Burstable);
        // A pod without a request of CPU counts with the least there is.
        let shares = burstable
            .map(|spec| CgroupLimits::of_pod(spec, None).cpu_shares)
            .sum::<u64>()
            .clamp(2, 262_144);
        if set == Some(shares) {
            continue;
        }
        let (layout, path) = (
            ctx.layout.clone(),
            qos_path(&ctx.config.cgroup_root, QosClass::Burstable),
        );
        let resources = Resources {
            cpu_shares: Some(shares),
            ..Resources::default()
        };
        match tokio::task::spawn_blocking(move || layout.group(&path).set(&resources)).await {
            Ok(Ok(())) => set = Some(shares),
            Ok(Err(error)) => tracing::warn!(error = %chain(&error), "weigh the Burstable pods"),
            Err(error) => tracing::warn!(%error, "weigh the Burstable pods"),
        }
    }
}
