//! From nothing to a shim's process.

use std::{
    fs,
    io::ErrorKind,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::OnceLock,
};

use kernelet_spec::Resources;
use kernelet_sys::{
    SysError, fd, mount,
    process::{self, Process, Spawn},
    socket,
};
use nix::fcntl::OFlag;

use crate::{SpawnError, SpawnOptions};

/// The folders of the small root that every shim starts in.
const FOLDERS: &[&str] = &["root", "volumes", "dev"];

pub(crate) fn socket_path(dir: &Path) -> PathBuf {
    dir.join("shim.sock")
}

/// Where records lie: a folder of its own, so that nothing else is taken for one.
pub(crate) fn records_path(dir: &Path) -> PathBuf {
    dir.join("records")
}

/// Something every spawn needs, made once per agent.
fn shared(
    cell: &'static OnceLock<OwnedFd>,
    make: impl FnOnce() -> Result<OwnedFd, SysError>,
) -> Result<&'static OwnedFd, SysError> {
    if let Some(made) = cell.get() {
        return Ok(made);
    }
    // Two at once make two, and one is kept: cheaper than a lock over system calls.
    let made = make()?;
    Ok(cell.get_or_init(|| made))
}

fn program() -> Result<&'static OwnedFd, SysError> {
    static CELL: OnceLock<OwnedFd> = OnceLock::new();
    shared(&CELL, || {
        fd::sealed_memfd(c"kernelet-shim", &kernelet_programs::shim())
    })
}

/// The program of the shared init.
pub(crate) fn init_program() -> Result<&'static OwnedFd, SysError> {
    static CELL: OnceLock<OwnedFd> = OnceLock::new();
    shared(&CELL, || {
        fd::sealed_memfd(c"kernelet-init", &kernelet_programs::init())
    })
}

fn small_namespace() -> Result<&'static OwnedFd, SysError> {
    static CELL: OnceLock<OwnedFd> = OnceLock::new();
    shared(&CELL, || mount::small_namespace(FOLDERS))
}

/// A folder of root's own.
fn folder(path: &Path) -> Result<OwnedFd, SpawnError> {
    let wrap = |source| SpawnError::Folder {
        path: path.to_owned(),
        source,
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(wrap)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(wrap)?;
    fd::open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0).map_err(|source| SpawnError::Sys {
        step: "open a folder of the shim's",
        source,
    })
}

/// The new process, and this side of its first connection.
pub(crate) fn spawn(options: &SpawnOptions) -> Result<(Process, OwnedFd), SpawnError> {
    let step = |step| move |source| SpawnError::Sys { step, source };
    let dir = folder(&options.dir)?;
    let records = folder(&records_path(&options.dir))?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&options.log_dir)
        .map_err(|source| SpawnError::Folder {
            path: options.log_dir.clone(),
            source,
        })?;
    let logs = fd::open(&options.log_dir, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)
        .map_err(step("open the pod's log folder"))?;
    let own_log = fd::open_at(
        dir.as_fd(),
        "shim.log",
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_APPEND,
        0o600,
    )
    .map_err(step("open the shim's own log"))?;

    let path = socket_path(&options.dir);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            return Err(SpawnError::Folder { path, source: e });
        }
        _ => {}
    }
    let listener = socket::bind(&path).map_err(step("make the shim's socket"))?;
    let (ours, theirs) = socket::pair().map_err(step("make the shim's first connection"))?;
    let null = fd::dev_null().map_err(step("open /dev/null"))?;
    let proc = mount::private_proc().map_err(step("mount a private procfs"))?;

    let group = options.layout.group(&options.cgroup);
    group
        .create(&Resources::default())
        .map_err(step("make the shim's cgroup"))?;
    let started = (|| {
        let join = group.join()?;
        let argv = process::c_strings(&["kernelet-shim", options.uid.as_str()])?;
        Spawn {
            program: program()?.as_fd(),
            argv: &argv,
            env: &[],
            descriptors: &[
                null.as_fd(),
                null.as_fd(),
                own_log.as_fd(),
                listener.as_fd(),
                theirs.as_fd(),
                records.as_fd(),
                logs.as_fd(),
                proc.as_fd(),
            ],
            join: &join,
            mount_namespace: Some(small_namespace()?.as_fd()),
        }
        .start()
    })();
    let process = started.map_err(step("start the shim"))?;
    Ok((process, ours))
}
