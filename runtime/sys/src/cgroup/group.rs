//! One group: made, joined, killed, frozen, emptied, removed.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use kernelet_spec::Resources;
use nix::{
    errno::Errno,
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::stat::Mode,
};

use super::{Layout, file_error, limits, read, stats, stats::Stats, write};
use crate::error::{Result, SysError};

/// A path below the root of every hierarchy.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    layout: &'a Layout,
    path: String,
}

/// What a process needs to enter a group by itself.
#[derive(Debug)]
pub struct Join {
    /// For `CLONE_INTO_CGROUP`.
    pub v2: Option<OwnedFd>,
    /// `tasks` of each v1 hierarchy: the new process writes `0` into each, before exec.
    pub v1: Vec<OwnedFd>,
}

impl Join {
    /// Enters the v1 groups with the calling thread, which must be its process's only one.
    pub fn enter_v1(&self) -> Result<()> {
        for tasks in &self.v1 {
            enter(tasks.as_fd())?;
        }
        Ok(())
    }
}

fn enter(tasks: BorrowedFd<'_>) -> Result<()> {
    nix::unistd::write(tasks, b"0")
        .map(drop)
        .map_err(|e| SysError::new("join a cgroup v1 group", e))
}

impl<'a> Group<'a> {
    pub(super) fn new(layout: &'a Layout, path: &str) -> Self {
        Group {
            layout,
            path: path.trim_matches('/').to_owned(),
        }
    }

    /// The path below the hierarchies' roots, without slashes around.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn layout(&self) -> &'a Layout {
        self.layout
    }

    /// The group's folder in the v2 tree.
    pub fn v2_dir(&self) -> Option<PathBuf> {
        self.layout.v2.as_ref().map(|mount| mount.join(&self.path))
    }

    /// The group's folder in the v1 hierarchy of a controller.
    pub fn v1_dir(&self, controller: &str) -> Option<PathBuf> {
        self.layout
            .v1_of(controller)
            .map(|h| h.mount.join(&self.path))
    }

    fn dirs(&self) -> impl Iterator<Item = PathBuf> + '_ {
        let v1 = self.layout.v1.iter().map(|h| h.mount.join(&self.path));
        v1.chain(self.v2_dir())
    }

    /// Makes the group in every hierarchy (parents too) and limits it. Existing ones are kept, so that
    /// a repetition after a crash ends the same.
    pub fn create(&self, resources: &Resources) -> Result<()> {
        for hierarchy in &self.layout.v1 {
            let cpuset = hierarchy.controllers.iter().any(|c| c == "cpuset");
            self.make_dirs(&hierarchy.mount, |dir, parent| match cpuset {
                true => fill_cpuset(dir, parent),
                false => Ok(()),
            })?;
        }
        if let Some(mount) = &self.layout.v2 {
            let wanted = limits::v2_controllers(self.layout, resources);
            // A controller is enabled from the parent, and before any task is in the child: later it
            // would have to migrate charges, or be refused as a domain with processes.
            self.make_dirs(mount, |_, parent| limits::enable(parent, &wanted))?;
            self.enable_all(mount, &wanted)?;
        }
        self.set(resources)
    }

    /// Parents that existed before may lack a controller that this group wants.
    fn enable_all(&self, mount: &Path, wanted: &[String]) -> Result<()> {
        let mut dir = mount.to_path_buf();
        for part in self.path.split('/') {
            limits::enable(&dir, wanted)?;
            dir.push(part);
        }
        Ok(())
    }

    fn make_dirs(
        &self,
        mount: &Path,
        mut made: impl FnMut(&Path, &Path) -> Result<()>,
    ) -> Result<()> {
        let full = mount.join(&self.path);
        match std::fs::create_dir(&full) {
            Ok(()) => return made(&full, full.parent().unwrap_or(mount)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(file_error("make the cgroup", &full, &e)),
        }
        let mut dir = mount.to_path_buf();
        for part in self.path.split('/') {
            let parent = dir.clone();
            dir.push(part);
            match std::fs::create_dir(&dir) {
                Ok(()) => made(&dir, &parent)?,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(file_error("make the cgroup", &dir, &e)),
            }
        }
        Ok(())
    }

    /// Limits an existing group (also while processes run in it).
    pub fn set(&self, resources: &Resources) -> Result<()> {
        limits::apply(self, resources)
    }

    pub fn exists(&self) -> bool {
        self.dirs().any(|dir| dir.is_dir())
    }

    /// Opens what a new process needs to enter.
    pub fn join(&self) -> Result<Join> {
        let mut v1 = Vec::with_capacity(self.layout.v1.len());
        for hierarchy in &self.layout.v1 {
            let path = hierarchy.mount.join(&self.path).join("tasks");
            let file = File::options().write(true).open(&path);
            v1.push(OwnedFd::from(
                file.map_err(|e| file_error("open", &path, &e))?,
            ));
        }
        let v2 = match self.v2_dir() {
            None => None,
            Some(dir) => {
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                let fd = nix::fcntl::open(&dir, flags, Mode::empty());
                Some(fd.map_err(|e| SysError::new(format!("open {}", dir.display()), e))?)
            }
        };
        Ok(Join { v2, v1 })
    }

    /// The file that counts OOM kills, for [`Group::oom_kills_in`]. `None` without a memory controller.
    pub fn oom_counter(&self) -> Option<OwnedFd> {
        let path = match self.v1_dir("memory") {
            Some(dir) => dir.join("memory.oom_control"),
            None => self.v2_dir()?.join("memory.events"),
        };
        File::open(path).ok().map(OwnedFd::from)
    }

    /// How many processes of the group the kernel has killed for want of memory.
    pub fn oom_kills_in(counter: BorrowedFd<'_>) -> Result<u64> {
        let mut text = [0_u8; 512];
        let n = nix::sys::uio::pread(counter, &mut text, 0)
            .map_err(|e| SysError::new("read the OOM counter", e))?;
        let text = String::from_utf8_lossy(&text[..n]);
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        Ok(line.and_then(|n| n.trim().parse().ok()).unwrap_or(0))
    }

    /// Kills every process in the group and below it. Killing an empty or missing group is no error.
    pub fn kill(&self) -> Result<()> {
        if let Some(dir) = self.v2_dir() {
            match write(&dir.join("cgroup.kill"), "1") {
                // Who is frozen in v1's hierarchy dies only when it goes on.
                Ok(()) => return self.thaw_v1(),
                // ENODEV: the group has just been removed. ENOENT: it, or (before 5.14) the file.
                Err(e) if matches!(e.errno, Errno::ENOENT | Errno::ENODEV) && !dir.is_dir() => {}
                Err(e) if e.errno == Errno::ENOENT => {}
                Err(e) => return Err(e),
            }
        }
        self.kill_by_pid()
    }

    /// Without `cgroup.kill`: freeze, so that nothing forks away, signal each, thaw.
    fn kill_by_pid(&self) -> Result<()> {
        if !self.exists() {
            return Ok(());
        }
        let frozen = self.freeze(true).is_ok();
        for pid in self.pids_of_tree()? {
            match nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            ) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(e) => {
                    return Err(SysError::new(
                        format!("kill process {pid} of {}", self.path),
                        e,
                    ));
                }
            }
        }
        if frozen { self.freeze(false) } else { Ok(()) }
    }

    /// Stops or continues every process of the group. Returns when the kernel has accepted it;
    /// [`Group::frozen`] says when all have stopped.
    pub fn freeze(&self, on: bool) -> Result<()> {
        if let Some(dir) = self.v2_dir() {
            if !on {
                self.thaw_v1()?;
            }
            return write(&dir.join("cgroup.freeze"), if on { "1" } else { "0" });
        }
        match self.v1_dir("freezer") {
            Some(dir) => write(
                &dir.join("freezer.state"),
                if on { "FROZEN" } else { "THAWED" },
            ),
            None => Err(super::missing("freezer", "a pause")),
        }
    }

    /// Beside a v2 tree, what somebody else has frozen in v1's hierarchy.
    fn frozen_v1(&self) -> Option<PathBuf> {
        let state = self.v1_dir("freezer")?.join("freezer.state");
        (read(&state).ok()?.trim() != "THAWED").then_some(state)
    }

    fn thaw_v1(&self) -> Result<()> {
        match self.frozen_v1() {
            Some(state) => write(&state, "THAWED"),
            None => Ok(()),
        }
    }

    pub fn frozen(&self) -> Result<bool> {
        if self.layout.v2.is_some() && self.frozen_v1().is_some() {
            return Ok(true);
        }
        if let Some(dir) = self.v2_dir() {
            return Ok(read(&dir.join("cgroup.events"))?
                .lines()
                .any(|line| line == "frozen 1"));
        }
        match self.v1_dir("freezer") {
            Some(dir) => Ok(read(&dir.join("freezer.state"))?.trim() == "FROZEN"),
            None => Ok(false),
        }
    }

    /// The processes in the group itself.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let dir = self.dirs().find(|dir| dir.is_dir());
        dir.map_or(Ok(Vec::new()), |dir| pids_in(&dir))
    }

    /// The processes in the group and all groups below it.
    pub fn pids_of_tree(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        if let Some(dir) = self.dirs().find(|dir| dir.is_dir()) {
            for dir in tree(&dir)? {
                pids.extend(pids_in(&dir)?);
            }
        }
        Ok(pids)
    }

    /// Whether a living process is in the group or below it.
    pub fn populated(&self) -> Result<bool> {
        match self.v2_dir() {
            Some(dir) => match read(&dir.join("cgroup.events")) {
                Ok(text) => Ok(text.lines().any(|line| line == "populated 1")),
                Err(e) if matches!(e.errno, Errno::ENOENT | Errno::ENODEV) => Ok(false),
                Err(e) => Err(e),
            },
            None => Ok(!self.pids_of_tree()?.is_empty()),
        }
    }

    /// Blocks until no process is left, or the deadline is over; says whether the group is empty.
    pub fn wait_empty(&self, within: Duration) -> Result<bool> {
        let deadline = Instant::now() + within;
        let events = match self
            .v2_dir()
            .map(|dir| File::open(dir.join("cgroup.events")))
        {
            Some(Ok(file)) => Some(file),
            Some(Err(e)) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
            Some(Err(e)) => return Err(SysError::io("open cgroup.events", &e)),
            None => None,
        };
        loop {
            if !self.populated()? {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            match &events {
                Some(file) => {
                    // kernfs wakes pollers of a file it has changed, for all who read it before.
                    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
                    let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
                    match poll(&mut fds, timeout) {
                        Ok(_) | Err(Errno::EINTR) => {}
                        Err(e) => return Err(SysError::new("wait for cgroup.events", e)),
                    }
                    let mut buffer = [0_u8; 256];
                    let _ = nix::sys::uio::pread(file, &mut buffer, 0);
                }
                // v1 alone tells nobody; a look every few milliseconds is all there is.
                None => std::thread::sleep(left.min(Duration::from_millis(5))),
            }
        }
    }

    /// Removes the group and every group below it, in every hierarchy. What isn't there is no error;
    /// what is busy is tried again until the deadline. Continues past errors and returns the first.
    pub fn remove(&self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        let mut first = None;
        for dir in self.dirs() {
            if let Err(e) = remove_tree(&dir, deadline) {
                first.get_or_insert(e);
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// The paths (below the root) of the groups directly in this one.
    pub fn children(&self) -> Result<Vec<String>> {
        let mut names = std::collections::BTreeSet::new();
        for dir in self.dirs() {
            let entries = match std::fs::read_dir(&dir) {
                Ok(entries) => entries,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(file_error("list", &dir, &e)),
            };
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|t| t.is_dir())
                    && let Ok(name) = entry.file_name().into_string()
                {
                    names.insert(format!("{}/{name}", self.path));
                }
            }
        }
        Ok(names.into_iter().collect())
    }

    pub fn stats(&self) -> Result<Stats> {
        stats::read_stats(self)
    }
}

/// A new v1 cpuset has no CPU and no memory node, and nothing can join it: the parent's are taken
/// over, and children made from here on copy them by themselves.
fn fill_cpuset(dir: &Path, parent: &Path) -> Result<()> {
    if !read(&dir.join("cpuset.mems"))?.trim().is_empty() {
        return Ok(());
    }
    for file in ["cpuset.cpus", "cpuset.mems"] {
        write(&dir.join(file), read(&parent.join(file))?.trim())?;
    }
    write(&dir.join("cgroup.clone_children"), "1")
}

fn pids_in(dir: &Path) -> Result<Vec<i32>> {
    match read(&dir.join("cgroup.procs")) {
        Ok(text) => Ok(text
            .lines()
            .filter_map(|line| line.trim().parse().ok())
            .collect()),
        Err(e) if matches!(e.errno, Errno::ENOENT | Errno::ENODEV | Errno::EOPNOTSUPP) => {
            Ok(Vec::new())
        }
        Err(e) => Err(e),
    }
}

/// The folder and all below it, parents first.
fn tree(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut all = vec![dir.to_path_buf()];
    let mut next = 0;
    while next < all.len() {
        let entries = match std::fs::read_dir(&all[next]) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                next += 1;
                continue;
            }
            Err(e) => return Err(file_error("list", &all[next], &e)),
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                all.push(entry.path());
            }
        }
        next += 1;
    }
    Ok(all)
}

fn remove_tree(dir: &Path, deadline: Instant) -> Result<()> {
    match std::fs::remove_dir(dir) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(_) => {}
    }
    for dir in tree(dir)?.iter().rev() {
        loop {
            match std::fs::remove_dir(dir) {
                Ok(()) => break,
                Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                // A process that has just ended keeps its group busy for a moment, and no event says
                // when the last reference is gone.
                Err(e)
                    if e.raw_os_error() == Some(Errno::EBUSY as i32)
                        && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(e) => return Err(file_error("remove the cgroup", dir, &e)),
            }
        }
    }
    Ok(())
}
