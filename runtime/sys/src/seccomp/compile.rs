//! Rules to classic BPF.
//!
//! ```text
//! arch? ─ native ─► binary search over ranges of call numbers ─► action, or tests of arguments ─► action
//!       ├ 32-bit ─► the same with that table
//!       └ other ──► kill
//! ```
//! A search instead of a chain: half a dozen comparisons for any call, where a list of 400 rules would
//! cost hundreds. Calls whose answer is constant are also remembered by the kernel itself (5.11).

use kernelet_spec::{
    ArgCompare, SeccompAction, SeccompArch, SeccompArg, SeccompFlags, SeccompProfile,
};

use super::table;

/// `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Insn {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

/// A compiled filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    pub(super) insns: Vec<Insn>,
    pub(super) flags: SeccompFlags,
    /// Whether another process decides on some calls.
    pub(super) listens: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    #[error("the seccomp profile tests argument {0}; there are 0 to 5")]
    ArgIndex(u8),
    #[error("the seccomp profile compiles to {0} instructions; the kernel takes 4096")]
    TooLong(usize),
    #[error("the bytes are no seccomp filter")]
    Malformed,
}

impl Filter {
    /// For the way to the shim.
    pub fn to_bytes(&self) -> Vec<u8> {
        let flags = [
            self.flags.log,
            self.flags.spec_allow,
            self.flags.wait_killable,
            self.listens,
        ];
        let bits = flags
            .iter()
            .rev()
            .fold(0, |all, on| all << 1 | u8::from(*on));
        let mut bytes = vec![bits];
        for insn in &self.insns {
            bytes.extend(insn.code.to_ne_bytes());
            bytes.extend([insn.jt, insn.jf]);
            bytes.extend(insn.k.to_ne_bytes());
        }
        bytes
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Filter, CompileError> {
        let (bits, insns) = bytes.split_first().ok_or(CompileError::Malformed)?;
        if insns.is_empty() || insns.len() % 8 != 0 || insns.len() / 8 > 4096 {
            return Err(CompileError::Malformed);
        }
        let insn = |b: &[u8]| Insn {
            code: u16::from_ne_bytes([b[0], b[1]]),
            jt: b[2],
            jf: b[3],
            k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        };
        Ok(Filter {
            insns: insns.chunks_exact(8).map(insn).collect(),
            flags: SeccompFlags {
                log: bits & 1 != 0,
                spec_allow: bits & 2 != 0,
                wait_killable: bits & 4 != 0,
            },
            listens: bits & 8 != 0,
        })
    }

    /// Whether installing it makes a notification descriptor, for who decides on calls.
    pub fn listens(&self) -> bool {
        self.listens
    }
}

const LD_ABS: u16 = 0x20;
const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const JA: u16 = 0x05;
const AND: u16 = 0x54;
const RET: u16 = 0x06;

const OFFSET_NR: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;

/// An architecture's calls.
struct Table {
    /// `AUDIT_ARCH_…`.
    audit: u32,
    names: &'static [(&'static str, u32)],
    /// `None`: the native one.
    arch: Option<SeccompArch>,
}

#[cfg(target_arch = "x86_64")]
const TABLES: &[Table] = &[
    Table {
        audit: 0xc000_003e,
        names: table::NATIVE,
        arch: None,
    },
    Table {
        audit: 0x4000_0003,
        names: table::COMPAT,
        arch: Some(SeccompArch::Compat),
    },
];
#[cfg(target_arch = "aarch64")]
const TABLES: &[Table] = &[
    Table {
        audit: 0xc000_00b7,
        names: table::NATIVE,
        arch: None,
    },
    Table {
        audit: 0x4000_0028,
        names: table::COMPAT,
        arch: Some(SeccompArch::Compat),
    },
];

/// x32's calls say x86-64's architecture and have this bit in their number.
const X32: u32 = 0x4000_0000;
const ENOSYS: u16 = 38;

fn insn(code: u16, jt: u8, jf: u8, k: u32) -> Insn {
    Insn { code, jt, jf, k }
}

fn action_value(action: SeccompAction) -> u32 {
    match action {
        SeccompAction::KillProcess => 0x8000_0000,
        SeccompAction::KillThread => 0,
        SeccompAction::Trap => 0x0003_0000,
        SeccompAction::Errno(errno) => 0x0005_0000 | u32::from(errno),
        SeccompAction::Trace(value) => 0x7ff0_0000 | u32::from(value),
        SeccompAction::Log => 0x7ffc_0000,
        SeccompAction::Allow => 0x7fff_0000,
        SeccompAction::Notify => 0x7fc0_0000,
    }
}

/// What is done for one call: the first whose tests hold, else the last, unconditional one.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
struct Decision {
    conditional: Vec<(Vec<SeccompArg>, SeccompAction)>,
    otherwise: Option<SeccompAction>,
}

impl Decision {
    fn always(action: SeccompAction) -> Self {
        Decision {
            conditional: Vec::new(),
            otherwise: Some(action),
        }
    }
}

/// Compiles a profile. Of the rules for one call, the first whose arguments match wins.
pub fn compile(profile: &SeccompProfile) -> Result<Filter, CompileError> {
    for rule in &profile.rules {
        if let Some(arg) = rule.args.iter().find(|arg| arg.index > 5) {
            return Err(CompileError::ArgIndex(arg.index));
        }
    }
    let mut insns = vec![insn(LD_ABS, 0, 0, OFFSET_ARCH)];
    for table in TABLES {
        if table
            .arch
            .is_some_and(|arch| !profile.archs.contains(&arch))
        {
            continue;
        }
        let mut body = vec![insn(LD_ABS, 0, 0, OFFSET_NR)];
        search(&segments(profile, table), &mut body);
        // Not this architecture: over the body. A long jump, since a conditional one has 8 bits.
        insns.push(insn(JEQ, 1, 0, table.audit));
        insns.push(insn(JA, 0, 0, body.len() as u32));
        insns.extend(body);
    }
    insns.push(insn(RET, 0, 0, action_value(SeccompAction::KillProcess)));
    if insns.len() > 4096 {
        return Err(CompileError::TooLong(insns.len()));
    }
    Ok(Filter {
        insns,
        flags: profile.flags,
        listens: profile.notifies(),
    })
}

/// Ranges of call numbers with the same decision; each starts at its number and ends at the next.
fn segments(profile: &SeccompProfile, table: &Table) -> Vec<(u32, Decision)> {
    let native = table.arch.is_none() && cfg!(target_arch = "x86_64");
    let mut out = Vec::new();
    region(profile, table.names, 0, &mut out);
    if native {
        match profile.archs.contains(&SeccompArch::X32) {
            true => region(profile, &x32(table.names), X32, &mut out),
            false => {
                // Another architecture; but -1, by which a tracer skips a call, is none.
                let kill = Decision::always(SeccompAction::KillProcess);
                out.push((X32, kill));
                out.push((u32::MAX, Decision::always(profile.default_action)));
            }
        }
    }
    out.dedup_by(|next, before| next.1 == before.1);
    out
}

/// x32 has x86-64's numbers, but for calls whose structures differ.
fn x32(names: &'static [(&'static str, u32)]) -> Vec<(&'static str, u32)> {
    let number = |(name, number): &(&'static str, u32)| {
        let own = table::X32.iter().find(|(own, _)| own == name);
        (*name, own.map_or(*number, |(_, own)| *own) | X32)
    };
    names.iter().map(number).collect()
}

/// The segments of numbers from `base` on.
fn region(
    profile: &SeccompProfile,
    names: &[(&'static str, u32)],
    base: u32,
    out: &mut Vec<(u32, Decision)>,
) {
    let by_name: std::collections::HashMap<&str, u32> = names.iter().copied().collect();
    let mut decisions = std::collections::BTreeMap::<u32, Decision>::new();
    for rule in &profile.rules {
        for number in rule
            .names
            .iter()
            .filter_map(|name| by_name.get(name.as_str()))
        {
            let decision = decisions.entry(*number).or_default();
            if decision.otherwise.is_some() {
                continue;
            }
            match rule.args.is_empty() {
                true => decision.otherwise = Some(rule.action),
                false => decision.conditional.push((rule.args.clone(), rule.action)),
            }
        }
    }
    let default = Decision::always(profile.default_action);
    let last = decisions.keys().next_back().copied();
    let mut push = |start: u32, decision: Decision| match out.last_mut() {
        Some((at, last)) if *at == start => *last = decision,
        _ => out.push((start, decision)),
    };
    push(base, default.clone());
    for (number, mut decision) in decisions {
        decision.otherwise.get_or_insert(profile.default_action);
        push(number, decision);
        push(number + 1, default.clone());
    }
    if let Some(last) = last
        && profile.unknown_is_enosys
    {
        push(last + 1, Decision::always(SeccompAction::Errno(ENOSYS)));
    }
}

fn search(segments: &[(u32, Decision)], out: &mut Vec<Insn>) {
    if let [(_, only)] = segments {
        return decide(only, out);
    }
    let (left, right) = segments.split_at(segments.len() / 2);
    let mut below = Vec::new();
    search(left, &mut below);
    match u8::try_from(below.len()) {
        Ok(over) => out.push(insn(JGE, over, 0, right[0].0)),
        Err(_) => {
            out.push(insn(JGE, 0, 1, right[0].0));
            out.push(insn(JA, 0, 0, below.len() as u32));
        }
    }
    out.extend(below);
    search(right, out);
}

fn decide(decision: &Decision, out: &mut Vec<Insn>) {
    for (args, action) in &decision.conditional {
        let mut tests: Vec<Insn> = Vec::new();
        // Jumps to the next rule are marked with FAIL and resolved when the length is known.
        for arg in args {
            test(arg, &mut tests);
        }
        tests.push(insn(RET, 0, 0, action_value(*action)));
        let len = tests.len();
        for (at, insn) in tests.iter_mut().enumerate() {
            let to_next = (len - at - 1) as u8;
            if insn.jt == FAIL {
                insn.jt = to_next;
            }
            if insn.jf == FAIL {
                insn.jf = to_next;
            }
        }
        out.extend(tests);
    }
    let otherwise = decision
        .otherwise
        .expect("segments() gives every decision an end");
    out.push(insn(RET, 0, 0, action_value(otherwise)));
}

/// No test is so long that a real jump could have this length.
const FAIL: u8 = 0xff;

/// Falls through when the test holds. Arguments have 64 bits, BPF's words 32: high half first.
fn test(arg: &SeccompArg, out: &mut Vec<Insn>) {
    let low = OFFSET_ARGS + u32::from(arg.index) * 8;
    let high = low + 4;
    let (value_high, value_low) = ((arg.value >> 32) as u32, arg.value as u32);
    let load = |offset| insn(LD_ABS, 0, 0, offset);
    match arg.compare {
        ArgCompare::Equal => out.extend([
            load(high),
            insn(JEQ, 0, FAIL, value_high),
            load(low),
            insn(JEQ, 0, FAIL, value_low),
        ]),
        ArgCompare::NotEqual => out.extend([
            load(high),
            insn(JEQ, 0, 2, value_high),
            load(low),
            insn(JEQ, FAIL, 0, value_low),
        ]),
        ArgCompare::MaskedEqual { mask } => out.extend([
            load(high),
            insn(AND, 0, 0, (mask >> 32) as u32),
            insn(JEQ, 0, FAIL, value_high),
            load(low),
            insn(AND, 0, 0, mask as u32),
            insn(JEQ, 0, FAIL, value_low),
        ]),
        // Greater by the high half decides; equal high halves leave it to the low one.
        ArgCompare::Greater => out.extend([
            load(high),
            insn(JGT, 3, 0, value_high),
            insn(JEQ, 0, FAIL, value_high),
            load(low),
            insn(JGT, 0, FAIL, value_low),
        ]),
        ArgCompare::GreaterOrEqual => out.extend([
            load(high),
            insn(JGT, 3, 0, value_high),
            insn(JEQ, 0, FAIL, value_high),
            load(low),
            insn(JGE, 0, FAIL, value_low),
        ]),
        ArgCompare::Less => out.extend([
            load(high),
            insn(JGT, FAIL, 0, value_high),
            insn(JEQ, 0, 2, value_high),
            load(low),
            insn(JGE, FAIL, 0, value_low),
        ]),
        ArgCompare::LessOrEqual => out.extend([
            load(high),
            insn(JGT, FAIL, 0, value_high),
            insn(JEQ, 0, 2, value_high),
            load(low),
            insn(JGT, FAIL, 0, value_low),
        ]),
    }
}

#[cfg(test)]
mod tests {
    use kernelet_spec::{CapSet, SeccompRule, default_profile};

    use super::*;

    /// A reading of the filter, so that every branch is checked without a process.
    fn run(filter: &Filter, arch: u32, number: u32, args: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(number.to_le_bytes());
        data.extend(arch.to_le_bytes());
        data.extend(0_u64.to_le_bytes());
        args.iter().for_each(|arg| data.extend(arg.to_le_bytes()));
        let word = |at: u32| {
            let at = at as usize;
            u32::from_le_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]])
        };
        let (mut a, mut pc) = (0_u32, 0_usize);
        loop {
            let i = filter.insns[pc];
            pc += 1;
            let jump = |taken: bool| usize::from(if taken { i.jt } else { i.jf });
            match i.code {
                LD_ABS => a = word(i.k),
                JEQ => pc += jump(a == i.k),
                JGT => pc += jump(a > i.k),
                JGE => pc += jump(a >= i.k),
                JA => pc += i.k as usize,
                AND => a &= i.k,
                RET => return i.k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    const ALLOW: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x0005_0001;

    fn number(name: &str) -> u32 {
        table::NATIVE
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, number)| *number)
            .expect(name)
    }

    #[test]
    fn every_call_of_the_table_gets_what_the_default_profile_says() {
        let profile = default_profile(CapSet::container_default());
        let filter = compile(&profile).unwrap();
        for Table {
            audit: arch, names, ..
        } in TABLES
        {
            for (name, number) in *names {
                let plain = profile
                    .rules
                    .iter()
                    .find(|r| r.names.iter().any(|n| n == name));
                let expected = match plain {
                    // By its number EPERM, or ENOSYS: `default_effect` knows.
                    None => continue,
                    Some(rule) if rule.args.is_empty() => action_value(rule.action),
                    Some(_) => continue,
                };
                assert_eq!(
                    run(&filter, *arch, *number, [0; 6]),
                    expected,
                    "{name} on {arch:#x}"
                );
            }
        }
        let native = TABLES[0].audit;
        assert_eq!(
            run(&filter, native, 100_000, [0; 6]),
            0x0005_0026,
            "a call of the future is none"
        );
        assert_eq!(
            run(&filter, 0x1234, 0, [0; 6]),
            0x8000_0000,
            "another architecture"
        );
        let clone = number("clone");
        assert_eq!(run(&filter, native, clone, [0x11, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(
            run(&filter, native, clone, [0x1000_0000, 0, 0, 0, 0, 0]),
            EPERM,
            "a new user namespace"
        );
        let socket = number("socket");
        assert_eq!(run(&filter, native, socket, [2, 1, 0, 0, 0, 0]), ALLOW);
        assert_eq!(
            run(&filter, native, socket, [40, 1, 0, 0, 0, 0]),
            EPERM,
            "vsock"
        );
        assert_eq!(
            run(
                &filter,
                native,
                number("personality"),
                [0xffff_ffff, 0, 0, 0, 0, 0]
            ),
            ALLOW
        );
        assert_eq!(
            run(
                &filter,
                native,
                number("personality"),
                [0x40_0000, 0, 0, 0, 0, 0]
            ),
            EPERM
        );
        assert!(
            filter.insns.len() < 800,
            "{} instructions",
            filter.insns.len()
        );
    }

    #[test]
    fn comparisons_are_those_of_64_bits() {
        let big = 0x1_0000_0005_u64;
        let cases: [(ArgCompare, &[(u64, bool)]); 7] = [
            (
                ArgCompare::Equal,
                &[(big, true), (5, false), (big + 1, false)],
            ),
            (
                ArgCompare::NotEqual,
                &[(big, false), (5, true), (big + 1, true)],
            ),
            (
                ArgCompare::Less,
                &[
                    (big, false),
                    (5, true),
                    (big - 1, true),
                    (big + 1, false),
                    (2 << 32, false),
                ],
            ),
            (
                ArgCompare::LessOrEqual,
                &[(big, true), (6, true), (big + 1, false), (2 << 32, false)],
            ),
            (
                ArgCompare::Greater,
                &[(big, false), (6, false), (big + 1, true), (2 << 32, true)],
            ),
            (
                ArgCompare::GreaterOrEqual,
                &[(big, true), (6, false), (big - 1, false), (2 << 32, true)],
            ),
            (
                ArgCompare::MaskedEqual {
                    mask: 0x1_0000_000f,
                },
                &[(big, true), (big | 0xf0, true), (5, false)],
            ),
        ];
        for (compare, values) in cases {
            let profile = SeccompProfile {
                default_action: SeccompAction::Errno(1),
                rules: vec![SeccompRule {
                    names: vec!["read".into()],
                    action: SeccompAction::Allow,
                    args: vec![SeccompArg {
                        index: 3,
                        compare,
                        value: big,
                    }],
                }],
                flags: kernelet_spec::SeccompFlags::default(),
                archs: Vec::new(),
                unknown_is_enosys: false,
                listener: None,
            };
            let filter = compile(&profile).unwrap();
            for (value, holds) in values {
                let got = run(
                    &filter,
                    TABLES[0].audit,
                    number("read"),
                    [0, 0, 0, *value, 0, 0],
                );
                assert_eq!(got == ALLOW, *holds, "{compare:?} {value:#x}");
            }
        }
    }

    #[test]
    fn a_filter_survives_the_way_to_the_shim() {
        let filter = compile(&default_profile(CapSet::EMPTY)).unwrap();
        assert_eq!(Filter::from_bytes(&filter.to_bytes()), Ok(filter));
        assert_eq!(
            Filter::from_bytes(&[0]),
            Err(CompileError::Malformed),
            "an empty filter"
        );
    }
}
