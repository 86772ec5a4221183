//! What the compiled default filter answers, call by call, held against the facts of the containers' common profile
//! (`runtime/spec/facts/seccomp_default.txt`): each call of each table × first argument × capability.

use kernelet_spec::{CapSet, Capability, default_profile, seccomp_facts::Facts};

use super::{compile, table};

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const ENOSYS: u16 = 38;

#[cfg(target_arch = "x86_64")]
const MACHINE: &str = "amd64";
#[cfg(target_arch = "aarch64")]
const MACHINE: &str = "arm64";

/// An architecture's mark, and the numbers that its programs call by.
type Table = (u32, Vec<(&'static str, u32)>);

#[cfg(target_arch = "x86_64")]
fn tables() -> Vec<Table> {
    // x32: the same mark, a bit in the number, and some numbers of its own.
    let x32 = table::NATIVE.iter().map(|(name, number)| {
        let own = table::X32.iter().find(|(own, _)| own == name);
        (*name, own.map_or(*number, |(_, own)| *own) | 0x4000_0000)
    });
    vec![
        (0xc000_003e, table::NATIVE.to_vec()),
        (0x4000_0003, table::COMPAT.to_vec()),
        (0xc000_003e, x32.collect()),
    ]
}

#[cfg(target_arch = "aarch64")]
fn tables() -> Vec<Table> {
    vec![(0xc000_00b7, table::NATIVE.to_vec())]
}

/// Reads a program as the kernel does.
struct Machine(Vec<(u16, u8, u8, u32)>);

impl Machine {
    fn of(filter: &super::Filter) -> Machine {
        let bytes = filter.to_bytes();
        // Whole instructions stand at the end; what stands before them is shorter than one.
        let insns = bytes[bytes.len() % 8..].chunks_exact(8);
        let insn = |b: &[u8]| {
            let k = u32::from_ne_bytes([b[4], b[5], b[6], b[7]]);
            (u16::from_ne_bytes([b[0], b[1]]), b[2], b[3], k)
        };
        Machine(insns.map(insn).collect())
    }

    fn run(&self, arch: u32, number: u32, argument: u64) -> u32 {
        let word = |at: u32| match at {
            0 => number,
            4 => arch,
            16 => argument as u32,
            20 => (argument >> 32) as u32,
            _ => 0,
        };
        let (mut a, mut pc) = (0_u32, 0_usize);
        loop {
            let (code, jt, jf, k) = self.0[pc];
            let jump = |taken: bool| usize::from(if taken { jt } else { jf });
            pc += 1;
            match code {
                0x20 => a = word(k),
                0x15 => pc += jump(a == k),
                0x25 => pc += jump(a > k),
                0x35 => pc += jump(a >= k),
                0x45 => pc += jump(a & k != 0),
                0x05 => pc += k as usize,
                0x54 => a &= k,
                0x06 => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }
}

#[test]
fn the_default_filter_answers_as_the_common_profile() {
    let facts = Facts::read();
    let alone = facts
        .capabilities()
        .into_iter()
        .map(|name| CapSet::EMPTY.with(name.parse::<Capability>().expect("known")));
    let sets = [CapSet::EMPTY, CapSet::container_default(), CapSet::all()]
        .into_iter()
        .chain(alone);
    let (mut asked, mut unlike) = (0, Vec::new());
    for capabilities in sets {
        let machine = Machine::of(&compile(&default_profile(capabilities)).unwrap());
        let has = |name: &str| capabilities.contains(name.parse().expect("a capability"));
        for (arch, names) in &tables() {
            // Above the last call that the profile names, a kernel is newer than it, and programs are told so.
            let named: Vec<&str> = facts.calls().collect();
            let last = names
                .iter()
                .filter(|(name, _)| named.contains(name))
                .map(|(_, number)| *number)
                .max()
                .expect("a table with calls");
            for (name, number) in names {
                for argument in Facts::ARGUMENTS {
                    let expected = match facts.answer(name, &has, MACHINE, *argument) {
                        0 => ALLOW,
                        _ if *number > last => ERRNO | u32::from(ENOSYS),
                        errno => ERRNO | u32::from(errno),
                    };
                    let got = machine.run(*arch, *number, *argument);
                    asked += 1;
                    if got != expected {
                        unlike.push(format!(
                            "{name}({argument:#x}) ({number:#x} on {arch:#x}) with {capabilities:?}: {got:#x}, not {expected:#x}"
                        ));
                    }
                }
            }
            let future = machine.run(*arch, last + 1000, 0);
            assert_eq!(future, ERRNO | u32::from(ENOSYS), "a call of the future");
        }
        assert_eq!(
            machine.run(0x1234, 0, 0),
            0x8000_0000,
            "another architecture"
        );
    }
    unlike.truncate(20);
    assert!(unlike.is_empty(), "{}", unlike.join("\n"));
    assert!(asked > 100_000, "{asked}");
}

/// A fact without a number in any table of ours would be tested by nobody, and its rule be without effect.
#[test]
fn every_call_of_the_common_profile_has_a_number() {
    // Of machines that we don't run on, and calls that never had a number on the ones we do.
    const ELSEWHERE: [&str; 13] = [
        "arm_fadvise64_64",
        "arm_sync_file_range",
        "breakpoint",
        "cacheflush",
        "set_tls",
        "sync_file_range2",
        "riscv_hwprobe",
        "fstatat64",
        "recv",
        "send",
        "accept",
        "semop",
        "semtimedop",
    ];
    let (facts, tables) = (Facts::read(), tables());
    let missing: Vec<&str> = facts
        .calls()
        .filter(|call| {
            !tables
                .iter()
                .any(|(_, names)| names.iter().any(|(name, _)| name == call))
        })
        .filter(|call| !ELSEWHERE.contains(call))
        .collect();
    if cfg!(target_arch = "x86_64") {
        assert!(missing.is_empty(), "{missing:?}");
    }
}
