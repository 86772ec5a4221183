//! `process`, of a bundle and of exec's `--process`.

use oci_spec::runtime::{Capabilities, Linux, Process};

use super::{Result, attributes, id, refuse, seccomp};
use crate::{CapSet, CapabilitySets, NameOrId, ProcessPlan, Rlimit, Seccomp, UserPlan};

/// Also for exec's `--process`.
pub fn process_of(process: &Process, linux: &Linux) -> Result<ProcessPlan> {
    let user = process.user();
    let groups = user.additional_gids().iter().flatten();
    let capabilities = match process.capabilities() {
        None => CapabilitySets::default(),
        Some(sets) => CapabilitySets {
            bounding: cap_set(sets.bounding())?,
            effective: cap_set(sets.effective())?,
            permitted: cap_set(sets.permitted())?,
            inheritable: cap_set(sets.inheritable())?,
            ambient: cap_set(sets.ambient())?,
        },
    };
    let rlimits = process.rlimits().iter().flatten().map(|limit| Rlimit {
        name: rlimit_name(&format!("{:?}", limit.typ())),
        soft: limit.soft(),
        hard: limit.hard(),
    });
    Ok(ProcessPlan {
        args: process.args().clone().unwrap_or_default(),
        env: process.env().clone().unwrap_or_default(),
        cwd: process.cwd().clone(),
        user: UserPlan {
            user: NameOrId::Id(id("process.user.uid", user.uid())?),
            group: Some(NameOrId::Id(id("process.user.gid", user.gid())?)),
            additional_gids: groups
                .map(|gid| id("process.user.additionalGids", *gid))
                .collect::<Result<_>>()?,
            groups_of_image: false,
            umask: user.umask(),
        },
        capabilities,
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        seccomp: match linux.seccomp() {
            None => Seccomp::Unconfined,
            Some(profile) => Seccomp::Profile(Box::new(seccomp::profile(profile)?)),
        },
        rlimits: rlimits.collect(),
        oom_score_adj: process.oom_score_adj(),
        attributes: attributes::attributes(process, linux)?,
    })
}

fn cap_set(names: &Option<Capabilities>) -> Result<CapSet> {
    let mut set = CapSet::EMPTY;
    for name in names.iter().flatten() {
        match name.to_string().parse() {
            Ok(cap) => set = set.with(cap),
            Err(e) => return refuse("process.capabilities", format!("{e}")),
        }
    }
    Ok(set)
}

/// `RlimitNofile` to `RLIMIT_NOFILE`.
fn rlimit_name(variant: &str) -> String {
    format!(
        "RLIMIT_{}",
        variant.trim_start_matches("Rlimit").to_ascii_uppercase()
    )
}
