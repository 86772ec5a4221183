//! Fault points: a process killed exactly before or after a step. Only with the feature `fault-points`, which no
//! shipped program has; the scenarios build one of their own.
//!
//! The folder that `KERNELET_FAULTS` names holds a file for each pod that a fault waits for, named as the pod, in
//! it `<victim>:<when>:<step>`: `agent:before:CreateSandbox`, `shim:after:StartContainer`. A file, and not the
//! variable itself, because the program that is started after the kill has the same environment: a fault strikes
//! once, and renames its file to `<pod>.struck`, whose content says what it met.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use kernelet_pod_plan::StepKind;
use nix::{
    sys::signal::{Signal, kill, raise},
    unistd::Pid,
};

use crate::pod::PodHome;

#[derive(Clone, Copy)]
pub(crate) enum When {
    Before,
    After,
}

static FAULTS: LazyLock<Option<PathBuf>> =
    LazyLock::new(|| std::env::var_os("KERNELET_FAULTS").map(PathBuf::from));

/// Strikes if a fault waits for this pod at this point.
pub(crate) async fn point(home: &PodHome, when: When, step: StepKind) {
    if let Some(dir) = &*FAULTS {
        strike(dir, home, when, step).await;
    }
}

async fn strike(dir: &Path, home: &PodHome, when: When, step: StepKind) {
    let file = dir.join(&home.id.name);
    let Ok(text) = fs::read_to_string(&file) else {
        return;
    };
    let when = match when {
        When::Before => "before",
        When::After => "after",
    };
    let Some((victim, point)) = text.trim().split_once(':') else {
        return;
    };
    if point != format!("{when}:{}", step.name()) {
        return;
    }
    // Two steps of one kind (two volumes) run at once: only one of them gets the file.
    if fs::rename(&file, dir.join(format!("{}.taken", home.id.name))).is_err() {
        return;
    }
    let shim = match (victim, step) {
        // Planned while the shim is still being made: the fault is that it dies under them.
        ("shim", StepKind::MakeCgroup | StepKind::ResolveImage | StepKind::MountVolume) => {
            home.await_shim().await
        }
        _ => home.shim(),
    };
    let shim = shim.map(|shim| shim.pid());
    let told = match (victim, shim) {
        ("agent", _) => "agent".to_owned(),
        ("shim", Some(pid)) => match kill(Pid::from_raw(pid), Signal::SIGKILL) {
            Ok(()) => format!("shim {pid}"),
            Err(error) => format!("shim {pid}: {error}"),
        },
        ("shim", None) => "no shim".to_owned(),
        (other, _) => format!("unknown victim {other}"),
    };
    let struck = dir.join(format!("{}.struck", home.id.name));
    if let Err(error) = fs::write(struck, told) {
        tracing::error!(%error, "a fault can't say that it struck");
    }
    if victim == "agent" {
        let _ = raise(Signal::SIGKILL);
    }
}
