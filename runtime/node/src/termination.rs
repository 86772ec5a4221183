//! What a container says of its end: its termination log, or the end of its output.

use kernelet_pod_plan::{ContainerId, Observed, Run, Wanted};

use crate::{
    logs,
    pod::PodHome,
    volumes::{TERMINATION_LOG, read_own_file},
};

/// Upstream's bounds: 4 KiB of the termination log, 2 KiB or 80 lines of output instead.
const LOG_LIMIT: u64 = 4096;
const FALLBACK_BYTES: usize = 2048;
const FALLBACK_LINES: usize = 80;

pub(crate) async fn message(
    home: &PodHome,
    wanted: &Wanted,
    name: &str,
    id: &ContainerId,
    seen: &Observed,
    exit_code: i32,
) -> Option<String> {
    let own = read_own_file(home, &format!("{TERMINATION_LOG}{id}"), LOG_LIMIT)
        .await
        .unwrap_or_default();
    if !own.is_empty() {
        return Some(own);
    }
    let (_, container) = wanted.container(name)?;
    if container.termination_message_policy.as_deref() != Some("FallbackToLogsOnError")
        || exit_code == 0
    {
        return None;
    }
    let attempt = match &seen.containers.get(name)?.run {
        Run::Created { attempt, .. } | Run::Running { attempt, .. } => *attempt,
        _ => return None,
    };
    let file = home.log_dir().join(name).join(format!("{attempt}.log"));
    let text = logs::tail_text(&file, FALLBACK_LINES, FALLBACK_BYTES).ok()?;
    (!text.is_empty()).then_some(text)
}
