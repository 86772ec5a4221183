//! Which check stands in which version of which level.

use super::{Finding, Level, LevelVersion, Subject, Version, baseline, host, restricted};

type Check = fn(&Subject<'_>) -> Option<Finding>;

/// A check from a version on; a later row of the same name takes its place.
struct Row {
    name: &'static str,
    since: u32,
    check: Check,
    /// The baseline check that this one replaces at the level `restricted`.
    instead_of: &'static str,
}

const fn row(name: &'static str, since: u32, check: Check) -> Row {
    Row {
        name,
        since,
        check,
        instead_of: "",
    }
}

const fn replacing(name: &'static str, since: u32, check: Check, instead_of: &'static str) -> Row {
    Row {
        name,
        since,
        check,
        instead_of,
    }
}

/// In the order of their names, which is the order of the findings.
const BASELINE: &[Row] = &[
    row("appArmorProfile", 0, baseline::app_armor),
    row("capabilities_baseline", 0, baseline::capabilities),
    row("hostNamespaces", 0, host::namespaces),
    row("hostPathVolumes", 0, host::paths),
    row("hostPorts", 0, host::ports),
    row("hostProbesAndHostLifecycle", 34, host::probes),
    row("privileged", 0, baseline::privileged),
    row("procMount", 0, baseline::proc_mount),
    row("procMount", 35, baseline::proc_mount_unless_own_users),
    row("seLinuxOptions", 0, baseline::selinux),
    row("seLinuxOptions", 31, baseline::selinux_with_engine),
    row("seccompProfile_baseline", 0, baseline::seccomp_annotations),
    row("seccompProfile_baseline", 19, baseline::seccomp),
    row("sysctls", 0, |pod| baseline::sysctls(pod, 0)),
    row("sysctls", 27, |pod| baseline::sysctls(pod, 27)),
    row("sysctls", 29, |pod| baseline::sysctls(pod, 29)),
    row("sysctls", 32, |pod| baseline::sysctls(pod, 32)),
    row("windowsHostProcess", 0, host::windows_process),
];

const RESTRICTED: &[Row] = &[
    row("allowPrivilegeEscalation", 8, restricted::escalation),
    row("allowPrivilegeEscalation", 25, |pod| {
        unless_windows(pod, restricted::escalation)
    }),
    replacing(
        "capabilities_restricted",
        22,
        restricted::capabilities,
        "capabilities_baseline",
    ),
    replacing(
        "capabilities_restricted",
        25,
        |pod| unless_windows(pod, restricted::capabilities),
        "capabilities_baseline",
    ),
    replacing(
        "procMount_restricted",
        35,
        baseline::proc_mount,
        "procMount",
    ),
    replacing(
        "restrictedVolumes",
        0,
        restricted::volumes,
        "hostPathVolumes",
    ),
    row("runAsNonRoot", 0, restricted::non_root),
    row("runAsNonRoot", 35, |pod| {
        unless_own_users(pod, restricted::non_root)
    }),
    row("runAsUser", 23, restricted::user),
    row("runAsUser", 35, |pod| {
        unless_own_users(pod, restricted::user)
    }),
    replacing(
        "seccompProfile_restricted",
        19,
        restricted::seccomp,
        "seccompProfile_baseline",
    ),
    replacing(
        "seccompProfile_restricted",
        25,
        |pod| unless_windows(pod, restricted::seccomp),
        "seccompProfile_baseline",
    ),
];

fn unless_windows(pod: &Subject<'_>, check: Check) -> Option<Finding> {
    check(pod).filter(|_| !pod.is_windows())
}

fn unless_own_users(pod: &Subject<'_>, check: Check) -> Option<Finding> {
    check(pod).filter(|_| !pod.has_own_users())
}

/// The rows that stand in a version, the newest of each name.
fn standing(rows: &'static [Row], minor: u32) -> Vec<&'static Row> {
    let mut standing: Vec<&Row> = Vec::new();
    for row in rows.iter().filter(|row| row.since <= minor) {
        match standing.last_mut() {
            Some(last) if last.name == row.name => *last = row,
            _ => standing.push(row),
        }
    }
    standing
}

/// What a pod (or a template) does that the level forbids.
pub fn evaluate(policy: LevelVersion, pod: &Subject<'_>) -> Vec<Finding> {
    let minor = match policy.version {
        Version::Latest => u32::MAX,
        Version::Minor(minor) => minor,
    };
    let checks: Vec<&Row> = match policy.level {
        Level::Privileged => return vec![],
        Level::Baseline => standing(BASELINE, minor),
        Level::Restricted => {
            let stricter = standing(RESTRICTED, minor);
            let replaced = |row: &&Row| stricter.iter().any(|r| r.instead_of == row.name);
            let mut checks = standing(BASELINE, minor);
            checks.retain(|row| !replaced(row));
            checks.extend(stricter);
            checks
        }
    };
    checks.iter().filter_map(|row| (row.check)(pod)).collect()
}
