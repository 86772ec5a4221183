//! What the root tests share: a pod on a tiny root made of busybox, and the proof that nothing of it
//! is left.
#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use kernelet_shim_client::{
    ContainerState, ExecExit, ExecIo, ExitRecord, Leftovers, Liveness, Phase, Shim, ShimError,
    SpawnOptions, cleanup,
};
use kernelet_spec::{
    CapSet, CapabilitySets, ContainerId, ContainerPlan, ExecPlan, LogPlan, Namespaces, PodUid,
    ProcessPlan, Resources, Rootfs, SandboxPlan, Seccomp, UserPlan,
};
use kernelet_sys::cgroup::Layout;

/// Loudly says why a test doesn't run; `None` then.
pub fn root_layout(test: &str) -> Option<Arc<Layout>> {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP {test}: needs root");
        return None;
    }
    if !Path::new("/bin/busybox").exists() {
        println!("SKIP {test}: needs /bin/busybox (package busybox-static)");
        return None;
    }
    match Layout::detect() {
        Ok(layout) => Some(Arc::new(layout)),
        Err(e) => {
            println!("SKIP {test}: {e}");
            None
        }
    }
}

/// One pod's folders, names and cgroups.
pub struct Pod {
    pub layout: Arc<Layout>,
    pub base: PathBuf,
    pub uid: PodUid,
    pub root: String,
}

impl Pod {
    pub fn new(layout: Arc<Layout>) -> Pod {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let base = std::env::temp_dir().join(format!("kernelet-pod-{name}"));
        let _ = fs::remove_dir_all(&base);
        let lower = base.join("lower");
        for folder in ["bin", "etc", "proc", "tmp", "root", "usr/bin"] {
            fs::create_dir_all(lower.join(folder)).unwrap();
        }
        fs::copy("/bin/busybox", lower.join("bin/busybox")).unwrap();
        for applet in [
            "sh", "cat", "echo", "sleep", "true", "false", "id", "ls", "ps", "mount", "touch",
            "head", "tail", "env", "hostname", "kill", "pwd", "stat", "readlink", "grep", "dd",
            "tty", "mkdir", "ip", "seq", "ipcs", "unshare", "mknod", "ln", "wc", "chmod", "test",
            "stty", "umask", "date", "yes", "rm",
        ] {
            std::os::unix::fs::symlink("busybox", lower.join("bin").join(applet)).unwrap();
        }
        fs::write(
            lower.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102:web:/srv/web:/bin/sh\n",
        )
        .unwrap();
        fs::write(
            lower.join("etc/group"),
            "root:x:0:\nweb:x:102:\nlogs:x:7:web\n",
        )
        .unwrap();
        Pod {
            layout,
            uid: PodUid::new(format!("test-{name}")).unwrap(),
            root: format!("/kernelet-test-{name}"),
            base,
        }
    }

    pub fn lower(&self) -> PathBuf {
        self.base.join("lower")
    }

    pub fn dir(&self) -> PathBuf {
        self.base.join("shim")
    }

    pub fn options(&self) -> SpawnOptions {
        SpawnOptions {
            uid: self.uid.clone(),
            dir: self.dir(),
            log_dir: self.base.join("logs"),
            cgroup: format!("{}/shims/{}", self.root, self.uid),
            layout: self.layout.clone(),
        }
    }

    pub fn pod_cgroup(&self) -> String {
        format!("{}/kubepods/pod{}", self.root, self.uid)
    }

    pub fn sandbox(&self) -> SandboxPlan {
        SandboxPlan {
            hostname: "tiny".into(),
            shm_bytes: 1 << 20,
            init_cgroup: format!("{}/init", self.pod_cgroup()),
            ..SandboxPlan::default()
        }
    }

    /// A container that runs a shell script, with everything a pod's has by default.
    pub fn container(&self, name: &str, script: &str) -> ContainerPlan {
        let id = ContainerId::new(name).unwrap();
        let layers = self.base.join("layers").join(name);
        for folder in ["upper", "work"] {
            fs::create_dir_all(layers.join(folder)).unwrap();
        }
        ContainerPlan {
            process: ProcessPlan {
                args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
                env: vec!["PATH=/bin:/usr/bin".into()],
                cwd: "/".into(),
                user: UserPlan::default(),
                capabilities: CapabilitySets::of_container(CapSet::container_default()),
                no_new_privileges: false,
                seccomp: Seccomp::RuntimeDefault,
                rlimits: vec![],
                oom_score_adj: None,
                attributes: kernelet_spec::ProcessAttributes::default(),
            },
            rootfs: Rootfs::Overlay {
                lower: vec![self.lower()],
                upper: layers.join("upper"),
                work: layers.join("work"),
                ids: None,
            },
            read_only_rootfs: false,
            root: kernelet_spec::RootOptions::default(),
            mounts: kernelet_spec::kubernetes_mounts(false),
            devices: vec![],
            masked_paths: kernelet_spec::MASKED_PATHS
                .iter()
                .map(PathBuf::from)
                .collect(),
            readonly_paths: kernelet_spec::READONLY_PATHS
                .iter()
                .map(PathBuf::from)
                .collect(),
            namespaces: Namespaces::of_pod(),
            net_devices: vec![],
            cgroup: format!("{}/{name}", self.pod_cgroup()),
            resources: Resources {
                devices: Some(Resources::default_devices()),
                ..Resources::default()
            },
            hostname: None,
            domainname: None,
            sysctls: BTreeMap::new(),
            log: Some(LogPlan {
                path: format!("{name}/0.log").into(),
                max_bytes: 10 << 20,
                max_files: 5,
            }),
            stdin: false,
            terminal: false,
            annotations: BTreeMap::from([("name".into(), name.into())]),
            id,
        }
    }

    pub async fn shim(&self) -> Shim {
        let shim = Shim::spawn(self.options())
            .await
            .unwrap_or_else(|e| panic!("{}", chain(&e)));
        shim.create_sandbox(&self.sandbox())
            .await
            .unwrap_or_else(|e| panic!("{}", chain(&e)));
        shim
    }

    /// The log's content without times and tags, a line each.
    pub fn log(&self, name: &str) -> String {
        let text =
            fs::read_to_string(self.base.join("logs").join(name).join("0.log")).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.splitn(4, ' ').nth(3))
            .map(|line| format!("{line}\n"))
            .collect()
    }

    pub fn leftovers(&self) -> Leftovers {
        Leftovers {
            pod: self.uid.to_string(),
            dir: self.dir(),
            cgroups: vec![self.pod_cgroup(), self.root.clone()],
            layout: self.layout.clone(),
            deadline: Duration::from_secs(10),
        }
    }

    /// Ends everything and proves that nothing of the pod is left.
    pub async fn end(&self, shim: Option<Shim>) {
        let mut pid = None;
        if let Some(shim) = shim {
            pid = Some(shim.pid());
            let (layout, path) = (self.layout.clone(), self.pod_cgroup());
            layout.group(&path).kill().unwrap();
            let mut watch = shim.watch();
            let over = watch.wait_for(|o| {
                o.liveness == Liveness::Dead
                    || o.state
                        .containers
                        .values()
                        .all(|c| !matches!(c.phase, Phase::Running { .. }))
                        && o.state
                            .sandbox
                            .as_ref()
                            .is_none_or(|s| s.init_pid.is_none() || s.init_exited)
            });
            let _ = tokio::time::timeout(Duration::from_secs(10), over)
                .await
                .expect("the pod's processes end");
            shim.shutdown(Duration::from_secs(5))
                .await
                .unwrap_or_else(|e| panic!("{}", chain(&e)));
        }
        cleanup(self.leftovers()).await.unwrap();
        self.assert_nothing_left();
        if let Some(pid) = pid {
            // An adopted shim is reaped by whoever its agent's death made its parent, in its own time.
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let gone = stat.is_empty() || stat.contains(") Z ");
            assert!(gone, "the shim {pid} is still there: {stat}");
        }
        fs::remove_dir_all(&self.base).unwrap();
    }

    pub fn assert_nothing_left(&self) {
        assert!(!self.layout.group(&self.root).exists(), "cgroups are left");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let base = self.base.to_str().unwrap();
        assert!(
            !mounts.lines().any(|line| line.contains(base)),
            "mounts are left:\n{mounts}"
        );
        assert!(!self.dir().exists(), "the shim's folder is left");
    }
}

/// A test that panics must leave nothing either; `end` has done all of this before.
impl Drop for Pod {
    fn drop(&mut self) {
        let group = self.layout.group(&self.root);
        let _ = group.kill();
        let _ = group.wait_empty(Duration::from_secs(5));
        let _ = group.remove(Duration::from_secs(2));
        let _ = fs::remove_dir_all(&self.base);
    }
}

pub fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

/// Waits until the container has ended.
pub async fn exit_of(shim: &Shim, id: &ContainerId) -> ExitRecord {
    let mut watch = shim.watch();
    let ended = watch.wait_for(|o| {
        o.liveness == Liveness::Dead
            || matches!(
                o.state.containers.get(id),
                Some(ContainerState {
                    phase: Phase::Exited(_),
                    ..
                })
            )
    });
    let observed = tokio::time::timeout(Duration::from_secs(20), ended)
        .await
        .expect("the container ends")
        .unwrap()
        .clone();
    match observed.state.containers.get(id).map(|c| c.phase.clone()) {
        Some(Phase::Exited(record)) => record,
        other => panic!(
            "the shim is {:?}, the container {other:?}",
            observed.liveness
        ),
    }
}

/// Creates, starts, waits.
pub async fn run(shim: &Shim, plan: &ContainerPlan) -> ExitRecord {
    shim.create(plan)
        .await
        .unwrap_or_else(|e| panic!("{}", chain(&e)));
    shim.start(&plan.id)
        .await
        .unwrap_or_else(|e| panic!("{}", chain(&e)));
    exit_of(shim, &plan.id).await
}

/// Runs a script to its end and returns its output.
pub async fn output(pod: &Pod, shim: &Shim, plan: &ContainerPlan) -> String {
    let exit = run(shim, plan).await;
    let log = pod.log(plan.id.as_str());
    assert_eq!(exit.exit_code, 0, "{log}");
    shim.remove(&plan.id).await.unwrap();
    log
}

pub fn exec_plan(plan: &ContainerPlan, script: &str, timeout: Option<Duration>) -> ExecPlan {
    let mut process = plan.process.clone();
    process.args = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    ExecPlan {
        process,
        terminal: false,
        timeout,
    }
}

pub async fn exec(shim: &Shim, plan: &ContainerPlan, script: &str) -> Result<ExecExit, ShimError> {
    let exec = shim
        .exec(
            &plan.id,
            &exec_plan(plan, script, None),
            ExecIo::Capture { limit: 10 << 10 },
        )
        .await?;
    exec.wait().await
}
