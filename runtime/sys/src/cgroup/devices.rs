//! Which devices a group may use: v1's devices controller, v2's BPF program.

use std::{
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
};

use kernelet_spec::{DeviceRule, DeviceRuleKind};
use nix::{errno::Errno, fcntl::OFlag, sys::stat::Mode};

use super::write;
use crate::error::{Result, SysError};

/// First nothing, then rule by rule.
pub(super) fn apply_v1(dir: &Path, rules: &[DeviceRule]) -> Result<()> {
    #[cfg(feature = "weakened")]
    if kernelet_spec::weakened::is_out(kernelet_spec::weakened::Defence::DeviceRules) {
        return Ok(());
    }
    write(&dir.join("devices.deny"), "a")?;
    for rule in rules {
        let file = if rule.allow {
            "devices.allow"
        } else {
            "devices.deny"
        };
        for line in v1_lines(rule) {
            write(&dir.join(file), &line)?;
        }
    }
    Ok(())
}

fn v1_lines(rule: &DeviceRule) -> Vec<String> {
    let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
    let mut access = String::new();
    for (on, letter) in [
        (rule.access.read, 'r'),
        (rule.access.write, 'w'),
        (rule.access.mknod, 'm'),
    ] {
        if on {
            access.push(letter);
        }
    }
    let tail = format!("{}:{} {access}", number(rule.major), number(rule.minor));
    // The kernel's `a` ignores numbers and access: it is only right when all of them are meant.
    match rule.kind {
        DeviceRuleKind::All if rule.major.is_none() && rule.minor.is_none() && access == "rwm" => {
            vec!["a".to_owned()]
        }
        DeviceRuleKind::All => vec![format!("b {tail}"), format!("c {tail}")],
        DeviceRuleKind::Block => vec![format!("b {tail}")],
        DeviceRuleKind::Char => vec![format!("c {tail}")],
    }
}

/// One eBPF instruction.
#[repr(C)]
#[derive(Clone, Copy)]
struct Insn {
    code: u8,
    /// Destination register in the low half, source in the high one.
    regs: u8,
    off: i16,
    imm: i32,
}

const LDX_W: u8 = 0x61;
const MOV32_K: u8 = 0xb4;
const MOV32_X: u8 = 0xbc;
const AND32_K: u8 = 0x54;
const RSH32_K: u8 = 0x74;
const JNE_K: u8 = 0x55;
const JNE32_X: u8 = 0x5e;
const EXIT: u8 = 0x95;

/// Rules become tests from the last to the first, since the last match wins:
/// r2 = type, r3 = access, r4 = major, r5 = minor; r0 = the answer.
fn program(rules: &[DeviceRule]) -> Vec<Insn> {
    let insn = |code, dst: u8, src: u8, off, imm| Insn {
        code,
        regs: dst | (src << 4),
        off,
        imm,
    };
    let mut out = vec![
        insn(LDX_W, 2, 1, 0, 0),
        insn(MOV32_X, 3, 2, 0, 0),
        insn(AND32_K, 2, 0, 0, 0xffff),
        insn(RSH32_K, 3, 0, 0, 16),
        insn(LDX_W, 4, 1, 4, 0),
        insn(LDX_W, 5, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        // Each test that fails jumps behind the rule; the distances are filled in below.
        let mut body = Vec::new();
        match rule.kind {
            DeviceRuleKind::All => {}
            DeviceRuleKind::Block => body.push(insn(JNE_K, 2, 0, 0, 1)),
            DeviceRuleKind::Char => body.push(insn(JNE_K, 2, 0, 0, 2)),
        }
        let access = i32::from(rule.access.mknod)
            | i32::from(rule.access.read) << 1
            | i32::from(rule.access.write) << 2;
        if access != 7 {
            // What is asked for must be within the rule to allow, and touch it to deny.
            body.push(insn(MOV32_X, 1, 3, 0, 0));
            body.push(insn(AND32_K, 1, 0, 0, access));
            body.push(if rule.allow {
                insn(JNE32_X, 1, 3, 0, 0)
            } else {
                insn(0x15, 1, 0, 0, 0)
            });
        }
        if let Some(major) = rule.major {
            body.push(insn(JNE_K, 4, 0, 0, major as i32));
        }
        if let Some(minor) = rule.minor {
            body.push(insn(JNE_K, 5, 0, 0, minor as i32));
        }
        body.push(insn(MOV32_K, 0, 0, 0, i32::from(rule.allow)));
        body.push(insn(EXIT, 0, 0, 0, 0));
        let len = body.len();
        for (at, insn) in body.iter_mut().enumerate() {
            if matches!(insn.code, JNE_K | JNE32_X | 0x15) {
                insn.off = (len - at - 1) as i16;
            }
        }
        // A rule without conditions decides everything before it; the verifier refuses dead code.
        let always = len == 2;
        out.extend(body);
        if always {
            return out;
        }
    }
    out.push(insn(MOV32_K, 0, 0, 0, 0));
    out.push(insn(EXIT, 0, 0, 0, 0));
    out
}

/// Replaces the group's device program: the new one is attached before the old ones go, so that no
/// moment is without.
pub(super) fn apply_v2(dir: &Path, rules: &[DeviceRule]) -> Result<()> {
    #[cfg(feature = "weakened")]
    if kernelet_spec::weakened::is_out(kernelet_spec::weakened::Defence::DeviceRules) {
        return Ok(());
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let group = nix::fcntl::open(dir, flags, Mode::empty())
        .map_err(|e| SysError::new(format!("open {}", dir.display()), e))?;
    let old = query(&group)?;
    let program = load(&program(rules))?;
    let attach = ProgAttach {
        target_fd: group.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
        ..ProgAttach::default()
    };
    bpf(BPF_PROG_ATTACH, &attach, "attach the device program")?;
    for id in old {
        let get = GetId {
            id,
            ..GetId::default()
        };
        let fd = bpf(
            BPF_PROG_GET_FD_BY_ID,
            &get,
            "open the former device program",
        )?;
        // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let detach = ProgAttach {
            target_fd: group.as_raw_fd() as u32,
            attach_bpf_fd: fd.as_raw_fd() as u32,
            attach_type: BPF_CGROUP_DEVICE,
            ..ProgAttach::default()
        };
        bpf(BPF_PROG_DETACH, &detach, "detach the former device program")?;
    }
    Ok(())
}

const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_ATTACH: i32 = 8;
const BPF_PROG_DETACH: i32 = 9;
const BPF_PROG_GET_FD_BY_ID: i32 = 13;
const BPF_PROG_QUERY: i32 = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

// The parts of `union bpf_attr` that are used, from the kernel's uapi/linux/bpf.h.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct ProgAttach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct ProgQuery {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    pad: u32,
}

#[repr(C)]
#[derive(Default)]
struct GetId {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

fn bpf<T>(command: i32, attr: &T, what: &'static str) -> Result<i32> {
    // SAFETY: `attr` is a valid prefix of `union bpf_attr` of the size given; pointers in it refer to
    // memory that the caller keeps alive over this call. The kernel writes at most within `attr` and
    // within the buffers it names, which are as large as stated.
    let n = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attr),
            size_of::<T>(),
        )
    };
    if n < 0 {
        return Err(SysError::last(what));
    }
    Ok(n as i32)
}

fn load(insns: &[Insn]) -> Result<OwnedFd> {
    let license = c"GPL";
    let mut attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: insns.len() as u32,
        insns: insns.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..ProgLoad::default()
    };
    attr.prog_name[..15].copy_from_slice(b"kernelet_device");
    let fd = bpf(BPF_PROG_LOAD, &attr, "load the device program")?;
    // SAFETY: a new descriptor that only we know.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The ids of the device programs attached to the group itself.
fn query(group: &OwnedFd) -> Result<Vec<u32>> {
    let mut ids = vec![0_u32; 64];
    let mut attr = ProgQuery {
        target_fd: group.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: ids.len() as u32,
        ..ProgQuery::default()
    };
    // SAFETY: the attribute is writable, of the stated size; `ids` outlives the call and has
    // `prog_cnt` entries.
    let n = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_QUERY,
            std::ptr::from_mut(&mut attr),
            size_of::<ProgQuery>(),
        )
    };
    if n < 0 {
        // Kernels without cgroup BPF say EINVAL; loading will name the problem better.
        return match Errno::last() {
            Errno::EINVAL => Ok(Vec::new()),
            e => Err(SysError::new("ask for the group's device programs", e)),
        };
    }
    ids.truncate(attr.prog_cnt as usize);
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use kernelet_spec::{DeviceAccess, Resources};

    use super::*;

    #[test]
    fn v1_lines_say_what_the_rule_says() {
        let lines: Vec<String> = Resources::default_devices()
            .iter()
            .flat_map(v1_lines)
            .collect();
        assert!(lines.contains(&"c 1:3 rwm".to_owned()));
        assert!(lines.contains(&"c *:* m".to_owned()));
        assert!(lines.contains(&"c 136:* rwm".to_owned()));
    }

    /// A reading of the program by a tiny interpreter, so that it is checked without a v2 kernel.
    fn run(rules: &[DeviceRule], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let program = program(rules);
        let ctx = [access << 16 | kind, major, minor];
        let mut regs = [0_u32; 11];
        let mut pc = 0;
        loop {
            let i = program[pc];
            let (dst, src) = (usize::from(i.regs & 15), usize::from(i.regs >> 4));
            pc += 1;
            let jump = |taken: bool, pc: usize| if taken { pc + i.off as usize } else { pc };
            match i.code {
                LDX_W => regs[dst] = ctx[i.off as usize / 4],
                MOV32_K => regs[dst] = i.imm as u32,
                MOV32_X => regs[dst] = regs[src],
                AND32_K => regs[dst] &= i.imm as u32,
                RSH32_K => regs[dst] >>= i.imm as u32,
                JNE_K => pc = jump(regs[dst] != i.imm as u32, pc),
                JNE32_X => pc = jump(regs[dst] != regs[src], pc),
                0x15 => pc = jump(regs[dst] == i.imm as u32, pc),
                EXIT => return regs[0] == 1,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn the_program_decides_as_the_rules_say() {
        let mut rules = Resources::default_devices();
        assert!(run(&rules, 2, 6, 1, 3), "/dev/null for reading and writing");
        assert!(run(&rules, 1, 1, 8, 0), "mknod of a disk");
        assert!(!run(&rules, 1, 2, 8, 0), "reading a disk");
        assert!(!run(&rules, 1, 3, 8, 0), "mknod and reading a disk");
        rules.push(DeviceRule {
            allow: false,
            kind: DeviceRuleKind::Char,
            major: Some(1),
            minor: Some(3),
            access: DeviceAccess {
                read: false,
                write: true,
                mknod: false,
            },
        });
        assert!(
            !run(&rules, 2, 6, 1, 3),
            "writing /dev/null after it was denied"
        );
        assert!(run(&rules, 2, 2, 1, 3), "reading it still");
    }
}
