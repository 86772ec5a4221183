//! The default system call filter: what ordinary programs need is allowed, the rest is EPERM.
//!
//! An allow list, so that a call of tomorrow's kernel is refused until somebody has looked at it. Its effect is that of
//! the profile which Docker, containerd, CRI-O and Podman share (`facts/seccomp_default.txt`), so that an image which
//! runs there runs here: some calls open only with the capability they belong to, some exist on one machine only. What
//! that profile ties to a kernel's version (ptrace from 4.8 on, where it can't change a call after the filter has seen
//! it) holds for every kernel we run on.

use crate::{
    ArgCompare, CapSet, Capability, SeccompAction, SeccompArch, SeccompArg, SeccompFlags,
    SeccompProfile, SeccompRule,
};

const EPERM: u16 = 1;
const ENOSYS: u16 = 38;

#[rustfmt::skip]
const ALLOWED: &[&str] = &[
    "accept", "accept4", "access", "adjtimex", "alarm", "bind", "brk", "cachestat", "capget", "capset", "chdir",
    "chmod", "chown", "chown32", "clock_adjtime", "clock_adjtime64", "clock_getres", "clock_getres_time64",
    "clock_gettime", "clock_gettime64", "clock_nanosleep", "clock_nanosleep_time64", "close", "close_range",
    "connect", "copy_file_range", "creat", "dup", "dup2", "dup3", "epoll_create", "epoll_create1", "epoll_ctl",
    "epoll_ctl_old", "epoll_pwait", "epoll_pwait2", "epoll_wait", "epoll_wait_old", "eventfd", "eventfd2",
    "execve", "execveat", "exit", "exit_group", "faccessat", "faccessat2", "fadvise64", "fadvise64_64",
    "fallocate", "fanotify_mark", "fchdir", "fchmod", "fchmodat", "fchmodat2", "fchown", "fchown32", "fchownat",
    "fcntl", "fcntl64", "fdatasync", "fgetxattr", "flistxattr", "flock", "fork", "fremovexattr", "fsetxattr",
    "fstat", "fstat64", "fstatat64", "fstatfs", "fstatfs64", "fsync", "ftruncate", "ftruncate64", "futex",
    "futex_requeue", "futex_time64", "futex_wait", "futex_waitv", "futex_wake", "futimesat", "getcpu", "getcwd",
    "getdents", "getdents64", "getegid", "getegid32", "geteuid", "geteuid32", "getgid", "getgid32", "getgroups",
    "getgroups32", "getitimer", "getpeername", "getpgid", "getpgrp", "getpid", "getppid", "getpriority",
    "getrandom", "getresgid", "getresgid32", "getresuid", "getresuid32", "getrlimit", "get_robust_list",
    "getrusage", "getsid", "getsockname", "getsockopt", "get_thread_area", "gettid", "gettimeofday", "getuid",
    "getuid32", "getxattr", "getxattrat", "inotify_add_watch", "inotify_init", "inotify_init1",
    "inotify_rm_watch", "io_cancel", "ioctl", "io_destroy", "io_getevents", "io_pgetevents",
    "io_pgetevents_time64", "ioprio_get", "ioprio_set", "io_setup", "io_submit", "ipc", "kill",
    "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "lchown", "lchown32", "lgetxattr",
    "link", "linkat", "listen", "listmount", "listxattr", "listxattrat", "llistxattr", "_llseek",
    "lremovexattr", "lseek", "lsetxattr", "lstat", "lstat64", "madvise", "map_shadow_stack", "membarrier",
    "memfd_create", "memfd_secret", "mincore", "mkdir", "mkdirat", "mknod", "mknodat", "mlock", "mlock2",
    "mlockall", "mmap", "mmap2", "mprotect", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive",
    "mq_timedreceive_time64", "mq_timedsend", "mq_timedsend_time64", "mq_unlink", "mremap", "mseal", "msgctl",
    "msgget", "msgrcv", "msgsnd", "msync", "munlock", "munlockall", "munmap", "name_to_handle_at", "nanosleep",
    "newfstatat", "_newselect", "open", "openat", "openat2", "pause", "pidfd_open", "pidfd_send_signal", "pipe",
    "pipe2", "pkey_alloc", "pkey_free", "pkey_mprotect", "poll", "ppoll", "ppoll_time64", "prctl", "pread64",
    "preadv", "preadv2", "prlimit64", "process_mrelease", "pselect6", "pselect6_time64", "pwrite64", "pwritev",
    "pwritev2", "read", "readahead", "readlink", "readlinkat", "readv", "recv", "recvfrom", "recvmmsg",
    "recvmmsg_time64", "recvmsg", "remap_file_pages", "removexattr", "removexattrat", "rename", "renameat",
    "renameat2", "restart_syscall", "riscv_hwprobe", "rmdir", "rseq", "rt_sigaction", "rt_sigpending",
    "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait",
    "rt_sigtimedwait_time64", "rt_tgsigqueueinfo", "sched_getaffinity", "sched_getattr", "sched_getparam",
    "sched_get_priority_max", "sched_get_priority_min", "sched_getscheduler", "sched_rr_get_interval",
    "sched_rr_get_interval_time64", "sched_setaffinity", "sched_setattr", "sched_setparam",
    "sched_setscheduler", "sched_yield", "seccomp", "select", "semctl", "semget", "semop", "semtimedop",
    "semtimedop_time64", "send", "sendfile", "sendfile64", "sendmmsg", "sendmsg", "sendto", "setfsgid",
    "setfsgid32", "setfsuid", "setfsuid32", "setgid", "setgid32", "setgroups", "setgroups32", "setitimer",
    "setpgid", "setpriority", "setregid", "setregid32", "setresgid", "setresgid32", "setresuid", "setresuid32",
    "setreuid", "setreuid32", "setrlimit", "set_robust_list", "setsid", "setsockopt", "set_thread_area",
    "set_tid_address", "setuid", "setuid32", "setxattr", "setxattrat", "shmat", "shmctl", "shmdt", "shmget",
    "shutdown", "sigaltstack", "signalfd", "signalfd4", "sigprocmask", "sigreturn", "socketcall", "socketpair",
    "splice", "stat", "stat64", "statfs", "statfs64", "statmount", "statx", "symlink", "symlinkat", "sync",
    "sync_file_range", "syncfs", "sysinfo", "tee", "tgkill", "time", "timer_create", "timer_delete",
    "timer_getoverrun", "timer_gettime", "timer_gettime64", "timer_settime", "timer_settime64",
    "timerfd_create", "timerfd_gettime", "timerfd_gettime64", "timerfd_settime", "timerfd_settime64", "times",
    "tkill", "truncate", "truncate64", "ugetrlimit", "umask", "uname", "unlink", "unlinkat", "uretprobe",
    "utime", "utimensat", "utimensat_time64", "utimes", "vfork", "vmsplice", "wait4", "waitid", "waitpid",
    "write", "writev",
    // Kernel 4.8 made ptrace safe against seccomp; our floor is above it.
    "ptrace", "process_vm_readv", "process_vm_writev",
];

/// What a machine alone has.
fn of_machine(machine: Machine) -> &'static [&'static str] {
    match machine {
        Machine::X86_64 => &["arch_prctl", "modify_ldt"],
        Machine::Aarch64 => &[
            "arm_fadvise64_64",
            "arm_sync_file_range",
            "breakpoint",
            "cacheflush",
            "set_tls",
            "sync_file_range2",
        ],
    }
}

/// Machines that there is a filter for, each with the smaller ones whose programs it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// With i386 and x32.
    X86_64,
    /// With 32-bit ARM.
    Aarch64,
}

impl Machine {
    /// What this program was built for.
    pub const NATIVE: Machine = match cfg!(target_arch = "aarch64") {
        true => Machine::Aarch64,
        false => Machine::X86_64,
    };
}

/// With this capability, these too.
#[rustfmt::skip]
const BY_CAPABILITY: &[(&str, &[&str])] = &[
    ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
    ("CAP_SYS_ADMIN", &[
        "bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "lookup_dcookie",
        "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr", "mount", "mount_setattr", "move_mount", "open_tree", "perf_event_open", "quotactl", "quotactl_fd",
        "setdomainname", "sethostname", "setns", "syslog", "umount", "umount2", "unshare",
    ]),
    ("CAP_SYS_BOOT", &["reboot"]),
    ("CAP_SYS_CHROOT", &["chroot"]),
    ("CAP_SYS_MODULE", &["delete_module", "init_module", "finit_module"]),
    ("CAP_SYS_PACCT", &["acct"]),
    ("CAP_SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise"]),
    ("CAP_SYS_RAWIO", &["iopl", "ioperm"]),
    ("CAP_SYS_TIME", &["settimeofday", "stime", "clock_settime", "clock_settime64"]),
    ("CAP_SYS_TTY_CONFIG", &["vhangup"]),
    ("CAP_SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    ("CAP_SYSLOG", &["syslog"]),
    ("CAP_BPF", &["bpf"]),
    ("CAP_PERFMON", &["perf_event_open"]),
];

fn rule(names: &[&str], action: SeccompAction, args: Vec<SeccompArg>) -> SeccompRule {
    SeccompRule {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        action,
        args,
    }
}

/// The default profile for a process that can have these capabilities (its bounding set), on this machine.
pub fn default_profile(capabilities: CapSet) -> SeccompProfile {
    default_profile_of(Machine::NATIVE, capabilities)
}

/// The same for any machine.
pub fn default_profile_of(machine: Machine, capabilities: CapSet) -> SeccompProfile {
    let allow = SeccompAction::Allow;
    let mut rules = vec![
        rule(ALLOWED, allow, vec![]),
        rule(of_machine(machine), allow, vec![]),
    ];
    // personality: Linux, Linux32, no ASLR change, and asking.
    for value in [0x0, 0x8, 0x20000, 0x20008, 0xffff_ffff] {
        let arg = SeccompArg {
            index: 0,
            compare: ArgCompare::Equal,
            value,
        };
        rules.push(rule(&["personality"], allow, vec![arg]));
    }
    // Address families. AF_VSOCK (40) reaches the hypervisor past the network namespace; AF_ALG (38) opens the kernel's
    // own cryptography to every program, which needs it for nothing, and has been a way into the kernel.
    for (compare, value) in [
        (ArgCompare::Less, 38),
        (ArgCompare::Equal, 39),
        (ArgCompare::Greater, 40),
    ] {
        let arg = SeccompArg {
            index: 0,
            compare,
            value,
        };
        rules.push(rule(&["socket"], allow, vec![arg]));
    }
    for (name, calls) in BY_CAPABILITY {
        let cap: Capability = name.parse().expect("a name of our own table");
        if capabilities.contains(cap) {
            rules.push(rule(calls, allow, vec![]));
        }
    }
    if !capabilities.contains(Capability::SYS_ADMIN) {
        // New namespaces (CLONE_NEW*) only with CAP_SYS_ADMIN. clone3's flags are in memory, where no
        // filter can see them: ENOSYS makes libc fall back to clone.
        const NEW_NAMESPACES: u64 = 0x7e02_0000;
        let arg = SeccompArg {
            index: 0,
            compare: ArgCompare::MaskedEqual {
                mask: NEW_NAMESPACES,
            },
            value: 0,
        };
        rules.push(rule(&["clone"], allow, vec![arg]));
        rules.push(rule(&["clone3"], SeccompAction::Errno(ENOSYS), vec![]));
    }
    SeccompProfile {
        default_action: SeccompAction::Errno(EPERM),
        rules,
        flags: SeccompFlags {
            spec_allow: true,
            ..SeccompFlags::default()
        },
        archs: match machine {
            Machine::X86_64 => vec![SeccompArch::Compat, SeccompArch::X32],
            Machine::Aarch64 => vec![SeccompArch::Compat],
        },
        unknown_is_enosys: true,
        listener: None,
    }
}

#[cfg(test)]
#[path = "seccomp_default_tests.rs"]
mod tests;
