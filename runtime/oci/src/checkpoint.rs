//! checkpoint and restore: runc's flags, and one line. They would need CRIU, which this runtime doesn't drive;
//! `features` says so.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::{
    cli::Global,
    container::named,
    flags::{Flag, Given},
};

macro_rules! common_flags {
    ($($more:expr),* $(,)?) => {
        &[
            Flag::text("image-path", "path for saving criu image files"),
            Flag::text("work-path", "path for saving work files and logs"),
            Flag::switch("tcp-established", "allow open tcp connections"),
            Flag::switch("ext-unix-sk", "allow external unix sockets"),
            Flag::switch("shell-job", "allow shell jobs"),
            Flag::switch("lazy-pages", "use userfaultfd to lazily restore memory pages"),
            Flag::switch("file-locks", "handle file locks, for safety"),
            Flag::text("manage-cgroups-mode", "cgroups mode: soft|full|strict|ignore (default: soft)"),
            Flag::list("empty-ns", "create a namespace, but don't restore its properties"),
            Flag::switch("auto-dedup", "enable auto deduplication of memory images"),
            $($more),*
        ]
    };
}

pub const CHECKPOINT: &[Flag] = common_flags!(
    Flag::text(
        "parent-path",
        "path for previous criu image files in pre-dump"
    ),
    Flag::switch(
        "leave-running",
        "leave the process running after checkpointing"
    ),
    Flag::switch("tcp-skip-in-flight", "skip in-flight tcp connections"),
    Flag::switch(
        "link-remap",
        "allow one to link unlinked files back when possible"
    ),
    Flag::number(
        "status-fd",
        "criu writes \\0 to this FD once lazy-pages is ready"
    ),
    Flag::text("page-server", "ADDRESS:PORT of the page server"),
    Flag::switch(
        "pre-dump",
        "dump container's memory information only, leave the container running after this"
    ),
);

pub const RESTORE: &[Flag] = common_flags!(
    Flag::text(
        "console-socket",
        "path to an AF_UNIX socket which will receive a file descriptor referencing the master end of the console's pseudoterminal",
    ),
    Flag::text("bundle", "path to the root of the bundle directory").or("b"),
    Flag::switch("detach", "detach from the container's process").or("d"),
    Flag::text("pid-file", "specify the file to write the process id to"),
    Flag::switch(
        "no-subreaper",
        "disable the use of the subreaper used to reap reparented processes"
    ),
    Flag::switch(
        "no-pivot",
        "do not use pivot root to jail process inside rootfs.  This should be used whenever the rootfs is on top of a ramdisk",
    ),
    Flag::text(
        "lsm-profile",
        "Specify an LSM profile to be used during restore in the form of TYPE:NAME."
    ),
    Flag::text(
        "lsm-mount-context",
        "Specify an LSM mount context to be used during restore."
    ),
);

pub fn checkpoint(global: &Global, given: &Given) -> Result<ExitCode> {
    named(global, given)?;
    bail!("checkpoint is not supported: it needs CRIU, which kernelet-oci doesn't drive")
}

pub fn restore(_: &Global, _: &Given) -> Result<ExitCode> {
    bail!("restore is not supported: it needs CRIU, which kernelet-oci doesn't drive")
}
