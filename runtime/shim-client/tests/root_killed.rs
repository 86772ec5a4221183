//! A shim that dies at any system call of a pod's creation leaves nothing that cannot be cleaned up.

mod common;
#[path = "common/killer.rs"]
mod killer;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{Pod, root_layout};
use kernelet_shim_client::{Liveness, Phase, Shim, VolumePlan};

/// The whole creation; errors are what the kill brings.
async fn creation(pod: &Pod, shim: &Shim) -> Result<(), Box<dyn std::error::Error>> {
    let mut sandbox = pod.sandbox();
    sandbox.share_process_namespace = true;
    let made = shim.create_sandbox(&sandbox).await?;
    // Who has the answer has seen the level.
    let level = shim.watch().borrow().state.sandbox.clone();
    assert_eq!(level.and_then(|s| s.init_pid), made.init_pid);
    shim.create_volume(&VolumePlan {
        name: "v".into(),
        size_bytes: Some(4096),
        mode: 0o755,
        gid: 0,
    })
    .await?;
    let plan = pod.container("one", "sleep 1000");
    shim.create(&plan).await?;
    shim.start(&plan.id).await?;
    let quick = pod.container("quick", "exit 3");
    shim.create(&quick).await?;
    shim.start(&quick.id).await?;
    let mut watch = shim.watch();
    let over = watch.wait_for(|o| {
        let phase = o.state.containers.get(&quick.id).map(|c| &c.phase);
        o.liveness == Liveness::Dead || matches!(phase, Some(Phase::Exited(_)))
    });
    over.await?;
    shim.remove(&quick.id).await?;
    shim.kill(&plan.id).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_killed_at_any_call_of_a_creation_leaves_nothing_behind() {
    let Some(layout) = root_layout("killed shim") else {
        return;
    };
    // Every call once would take minutes; a stride that shares no factor with any loop visits all
    // parts, and KERNELET_KILL_STRIDE=1 visits all.
    let stride = std::env::var("KERNELET_KILL_STRIDE")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(17_u32);
    let mut at = 1;
    let mut kills = 0;
    loop {
        let pod = Pod::new(layout.clone());
        let shim = Shim::spawn(pod.options()).await.unwrap();
        let pid = shim.pid();
        let done = Arc::new(AtomicBool::new(false));
        let stop = done.clone();
        let (attached, is_attached) = tokio::sync::oneshot::channel();
        let tracer = std::thread::spawn(move || {
            killer::kill_at_call(
                pid,
                at,
                || attached.send(()).unwrap_or_default(),
                || stop.load(Ordering::Acquire),
            )
        });
        is_attached.await.expect("the tracer attaches");
        let result =
            tokio::time::timeout(Duration::from_secs(20), creation_or_death(&pod, &shim)).await;
        assert!(result.is_ok(), "killed at call {at}, the creation hangs");
        done.store(true, Ordering::Release);
        let outcome = tokio::task::spawn_blocking(move || tracer.join().unwrap())
            .await
            .unwrap();
        match outcome {
            Some(killer::Outcome::Killed) => {
                kills += 1;
                let mut watch = shim.watch();
                let dead = watch.wait_for(|o| o.liveness == Liveness::Dead);
                tokio::time::timeout(Duration::from_secs(5), dead)
                    .await
                    .expect("its death is seen")
                    .unwrap();
                // Nothing hangs on a shim that isn't there, and cleaning up finds everything.
                pod.end(None).await;
            }
            other => {
                assert_ne!(
                    other,
                    Some(killer::Outcome::EndedBefore),
                    "the shim ended by itself at call {at}"
                );
                pod.end(Some(shim)).await;
                break;
            }
        }
        at += stride;
    }
    println!("killed at {kills} moments of {at} system call stops");
    assert!(kills > 10, "only {kills} moments: is the tracer working?");
}

/// Ends when the creation has, or its shim.
async fn creation_or_death(pod: &Pod, shim: &Shim) {
    let mut watch = shim.watch();
    tokio::select! {
        _ = creation(pod, shim) => {}
        _ = async {
            let _ = watch.wait_for(|o| o.liveness == Liveness::Dead).await;
            // Long enough for the calls under way to return their errors.
            std::future::pending::<()>().await
        } => {}
    }
}
