//! The rules against the facts of the containers' common profile, for each machine. What the compiled program answers
//! is held against the same facts in `kernelet-sys`.

use super::*;
use crate::seccomp_facts::Facts;

/// What the rules answer: the first that matches, as the compiler reads them.
fn verdict(profile: &SeccompProfile, call: &str, arg: u64) -> SeccompAction {
    let holds = |test: &SeccompArg| {
        let value = if test.index == 0 { arg } else { 0 };
        match test.compare {
            ArgCompare::Equal => value == test.value,
            ArgCompare::NotEqual => value != test.value,
            ArgCompare::Less => value < test.value,
            ArgCompare::LessOrEqual => value <= test.value,
            ArgCompare::Greater => value > test.value,
            ArgCompare::GreaterOrEqual => value >= test.value,
            ArgCompare::MaskedEqual { mask } => value & mask == test.value,
        }
    };
    profile
        .rules
        .iter()
        .find(|rule| rule.names.iter().any(|name| name == call) && rule.args.iter().all(holds))
        .map_or(profile.default_action, |rule| rule.action)
}

fn action(
    facts: &Facts,
    call: &str,
    capabilities: CapSet,
    machine: &str,
    arg: u64,
) -> SeccompAction {
    match facts.answer(call, &|name| has(capabilities, name), machine, arg) {
        0 => SeccompAction::Allow,
        errno => SeccompAction::Errno(errno),
    }
}

fn has(capabilities: CapSet, name: &str) -> bool {
    capabilities.contains(name.parse::<Capability>().expect("a fact's capability"))
}

#[test]
fn every_call_gets_the_common_profiles_answer_on_each_machine() {
    let facts = Facts::read();
    let alone = facts
        .capabilities()
        .into_iter()
        .map(|name| CapSet::EMPTY.with(name.parse::<Capability>().expect("known")));
    let sets: Vec<CapSet> = [CapSet::EMPTY, CapSet::container_default(), CapSet::all()]
        .into_iter()
        .chain(alone)
        .collect();
    let mut asked = 0;
    for (machine, name) in [(Machine::X86_64, "amd64"), (Machine::Aarch64, "arm64")] {
        for capabilities in &sets {
            let profile = default_profile_of(machine, *capabilities);
            let named = profile.rules.iter().flat_map(|rule| &rule.names);
            let calls: std::collections::BTreeSet<&str> =
                facts.calls().chain(named.map(String::as_str)).collect();
            for call in calls {
                for arg in Facts::ARGUMENTS {
                    assert_eq!(
                        verdict(&profile, call, *arg),
                        action(&facts, call, *capabilities, name, *arg),
                        "{call}({arg:#x}) on {name} with {capabilities:?}"
                    );
                    asked += 1;
                }
            }
        }
    }
    assert!(asked > 100_000, "{asked}");
}

#[test]
fn what_breaks_out_needs_its_capability() {
    let allows = |capabilities, call| {
        verdict(&default_profile(capabilities), call, 0) == SeccompAction::Allow
    };
    let plain = CapSet::container_default();
    for call in [
        "mount",
        "unshare",
        "setns",
        "bpf",
        "keyctl",
        "add_key",
        "userfaultfd",
        "io_uring_setup",
        "kexec_load",
    ] {
        assert!(!allows(plain, call), "{call} is open to every container");
    }
    assert!(allows(plain, "openat"));
    assert!(allows(plain.with(Capability::SYS_ADMIN), "mount"));
    assert!(!allows(CapSet::all(), "kexec_load"));
    let socket = |family| verdict(&default_profile(CapSet::all()), "socket", family);
    assert_eq!(socket(38), SeccompAction::Errno(EPERM), "AF_ALG");
    assert_eq!(socket(40), SeccompAction::Errno(EPERM), "AF_VSOCK");
}
