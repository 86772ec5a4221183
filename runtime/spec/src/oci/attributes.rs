//! `process`' rarer fields, and those of `linux` that are a process's: scheduler, priorities, affinity,
//! labels, personality, memory policy. Limits and wordings are runc's.

use oci_spec::runtime::{
    IOPriorityClass, Linux, LinuxMemoryPolicy, LinuxPersonalityDomain, LinuxSchedulerFlag,
    LinuxSchedulerPolicy, MemoryPolicyFlagType, MemoryPolicyModeType, Process,
};

use super::{Result, refuse};
use crate::{CpuAffinity, MemoryPolicy, NumberSet, ProcessAttributes, Scheduler};

pub(super) fn attributes(process: &Process, linux: &Linux) -> Result<ProcessAttributes> {
    let text = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
    let console = process
        .console_size()
        .filter(|size| size.height() != 0 && size.width() != 0);
    let cells = |n: u64| {
        u16::try_from(n).or_else(|_| refuse("process.consoleSize", format!("{n} is beyond 65535")))
    };
    Ok(ProcessAttributes {
        apparmor_profile: text(process.apparmor_profile()),
        selinux_label: text(process.selinux_label()),
        scheduler: process.scheduler().as_ref().map(scheduler).transpose()?,
        io_priority: match process.io_priority() {
            None => None,
            Some(io) => Some(io_priority(io.class(), io.priority())?),
        },
        exec_cpu_affinity: match process.exec_cpu_affinity() {
            None => None,
            Some(affinity) => cpu_affinity(
                affinity.initial().as_deref(),
                affinity.cpu_affinity_final().as_deref(),
            )?,
        },
        console_size: match console {
            None => None,
            Some(size) => Some((cells(size.height())?, cells(size.width())?)),
        },
        personality: linux.personality().as_ref().map(|p| match p.domain() {
            LinuxPersonalityDomain::PerLinux => 0,
            LinuxPersonalityDomain::PerLinux32 => 8,
        }),
        memory_policy: linux
            .memory_policy()
            .as_ref()
            .map(memory_policy)
            .transpose()?,
    })
}

fn scheduler(wish: &oci_spec::runtime::Scheduler) -> Result<Scheduler> {
    const FIELD: &str = "process.scheduler";
    use LinuxSchedulerPolicy as Policy;
    let policy = *wish.policy();
    let nice = wish.nice().unwrap_or(0);
    let priority = wish.priority().unwrap_or(0);
    let times = [wish.runtime(), wish.deadline(), wish.period()].map(|time| time.unwrap_or(0));
    if matches!(policy, Policy::SchedOther | Policy::SchedBatch) && !(-20..=19).contains(&nice) {
        let what = format!("invalid scheduler.nice: {nice} when scheduler.policy is {policy}");
        return refuse(FIELD, what);
    }
    if priority != 0 && !matches!(policy, Policy::SchedFifo | Policy::SchedRr) {
        let what = "scheduler.priority can only be specified for SchedFIFO or SchedRR policy";
        return refuse(FIELD, what);
    }
    if times != [0; 3] && policy != Policy::SchedDeadline {
        let what =
            "scheduler runtime/deadline/period can only be specified for SchedDeadline policy";
        return refuse(FIELD, what);
    }
    let flag = |flag: &LinuxSchedulerFlag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    };
    Ok(Scheduler {
        policy: match policy {
            Policy::SchedOther => 0,
            Policy::SchedFifo => 1,
            Policy::SchedRr => 2,
            Policy::SchedBatch => 3,
            Policy::SchedIso => 4,
            Policy::SchedIdle => 5,
            Policy::SchedDeadline => 6,
        },
        flags: wish
            .flags()
            .iter()
            .flatten()
            .map(flag)
            .fold(0, |all, bit| all | bit),
        nice,
        priority: u32::try_from(priority)
            .or_else(|_| refuse(FIELD, format!("invalid scheduler.priority: {priority}")))?,
        runtime: times[0],
        deadline: times[1],
        period: times[2],
    })
}

fn io_priority(class: IOPriorityClass, priority: i64) -> Result<u16> {
    let class = match class {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u16::try_from(priority) {
        Ok(level @ 0..=7) => Ok(class << 13 | level),
        _ => refuse(
            "process.ioPriority",
            format!("invalid ioPriority.Priority: {priority}"),
        ),
    }
}

fn cpu_affinity(initial: Option<&str>, after: Option<&str>) -> Result<Option<CpuAffinity>> {
    let set = |name: &str, text: Option<&str>| match text.filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => match NumberSet::parse(text) {
            Ok(set) => Ok(Some(set)),
            Err(e) => refuse(
                "process.execCPUAffinity",
                format!("bad CPUAffinity.{name}: {e}"),
            ),
        },
    };
    let affinity = CpuAffinity {
        initial: set("Initial", initial)?,
        after: set("Final", after)?,
    };
    Ok((affinity != CpuAffinity::default()).then_some(affinity))
}

fn memory_policy(wish: &LinuxMemoryPolicy) -> Result<MemoryPolicy> {
    const FIELD: &str = "linux.memoryPolicy";
    use MemoryPolicyModeType as Mode;
    let text = wish.nodes().as_deref().unwrap_or_default();
    let nodes = match text {
        "" => NumberSet::default(),
        text => NumberSet::parse(text)
            .or_else(|e| refuse(FIELD, format!("invalid memory policy nodes {text:?}: {e}")))?,
    };
    let (mode, least, most) = match wish.mode() {
        Mode::MpolDefault => (0, 0, 0),
        Mode::MpolPreferred => (1, 0, u32::MAX),
        Mode::MpolBind => (2, 1, u32::MAX),
        Mode::MpolInterleave => (3, 1, u32::MAX),
        Mode::MpolLocal => (4, 0, 0),
        Mode::MpolPreferredMany => (5, 1, u32::MAX),
        Mode::MpolWeightedInterleave => (6, 1, u32::MAX),
    };
    let count = nodes.count();
    if count > most {
        return refuse(
            FIELD,
            format!("memory policy mode requires 0 nodes but got {count}"),
        );
    }
    if count < least {
        return refuse(
            FIELD,
            "memory policy mode requires at least one node but got 0",
        );
    }
    let flag = |flag: &MemoryPolicyFlagType| match flag {
        MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
        MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
        MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
    };
    let flags = wish.flags().iter().flatten().map(flag);
    Ok(MemoryPolicy {
        mode: flags.fold(mode, |all, bit| all | bit),
        nodes,
    })
}
