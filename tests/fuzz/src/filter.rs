//! Profiles of system call filters, to programs: what is compiled must be what the kernel takes, and must end.

use kernelet_spec::{Seccomp, SeccompProfile};
use oci_spec::runtime::{LinuxBuilder, LinuxSeccomp, Process};

/// A profile as a bundle and Kubernetes' `localhostProfile` have it.
pub fn profile(data: &[u8]) {
    let Ok(profile) = serde_json::from_slice::<LinuxSeccomp>(data) else {
        return;
    };
    let Ok(linux) = LinuxBuilder::default().seccomp(profile).build() else {
        return;
    };
    if let Ok(plan) = kernelet_spec::process_of(&Process::default(), &linux)
        && let Seccomp::Profile(profile) = &plan.seccomp
    {
        check(profile);
    }
}

/// Compiles it, and holds the program to the rules of the kernel's checker (`seccomp_check_filter`,
/// `bpf_check_classic`): known instructions, words of `seccomp_data`, jumps forward inside, a return at the end.
pub fn check(profile: &SeccompProfile) {
    let Ok(filter) = kernelet_sys::seccomp::compile(profile) else {
        return;
    };
    let bytes = filter.to_bytes();
    let program: Vec<(u16, u8, u8, u32)> = bytes[bytes.len() % 8..]
        .chunks_exact(8)
        .map(|b| {
            let k = u32::from_ne_bytes([b[4], b[5], b[6], b[7]]);
            (u16::from_ne_bytes([b[0], b[1]]), b[2], b[3], k)
        })
        .collect();
    let length = program.len();
    assert!((1..=4096).contains(&length), "{length} instructions");
    for (at, &(code, jt, jf, k)) in program.iter().enumerate() {
        let inside = |offset: u64| {
            let to = at as u64 + 1 + offset;
            assert!(
                to < length as u64,
                "instruction {at} of {length} jumps to {to}"
            );
        };
        match code {
            0x20 => assert!(k < 64 && k % 4 == 0, "loads the word at {k}"),
            0x15 | 0x25 | 0x35 | 0x45 => {
                inside(jt.into());
                inside(jf.into());
            }
            0x05 => inside(k.into()),
            0x54 | 0x06 => {}
            other => panic!("instruction {other:#x} at {at}"),
        }
    }
    assert_eq!(program[length - 1].0, 0x06, "the last instruction returns");
    // Jumps only lead forward, so that it ends; what it answers is an action the kernel knows.
    for (arch, number, argument) in [
        (0xc000_003e_u32, 0_u32, 0_u64),
        (0xc000_003e, 59, u64::MAX),
        (0xc000_003e, 0x4000_0001, 1 << 32),
        (0x4000_0003, 11, 0x8000_0000),
        (0xc000_00b7, 221, 40),
        (0, u32::MAX, u64::MAX),
    ] {
        run(&program, arch, number, argument);
    }
    let again = kernelet_sys::seccomp::Filter::from_bytes(&bytes).expect("its own bytes");
    assert_eq!(again, filter);
}

fn run(program: &[(u16, u8, u8, u32)], arch: u32, number: u32, argument: u64) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_le_bytes());
    data.extend(arch.to_le_bytes());
    data.extend(0_u64.to_le_bytes());
    (0..6).for_each(|_| data.extend(argument.to_le_bytes()));
    let (mut word, mut at) = (0_u32, 0_usize);
    loop {
        let (code, jt, jf, k) = program[at];
        let jump = |taken: bool| usize::from(if taken { jt } else { jf });
        at += 1;
        match code {
            0x20 => {
                let k = k as usize;
                word = u32::from_le_bytes([data[k], data[k + 1], data[k + 2], data[k + 3]]);
            }
            0x15 => at += jump(word == k),
            0x25 => at += jump(word > k),
            0x35 => at += jump(word >= k),
            0x45 => at += jump(word & k != 0),
            0x05 => at += k as usize,
            0x54 => word &= k,
            _ => return k,
        }
    }
}
