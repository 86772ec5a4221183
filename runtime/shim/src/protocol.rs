//! What agent and shim say to each other: one message is one packet on a `SOCK_SEQPACKET` socket.
//!
//! ```text
//! header (8 bytes, little endian): magic u16 | version u16 | flags u32
//! body: postcard; with FLAG_MEMFD the body is in a sealed memfd, the packet's last descriptor
//! ```
//!
//! Postcard doesn't describe itself: any change to a type below is a new version, and
//! the shim of the previous release keeps speaking its own. Version 1 is the first; version 2 has every field of an OCI
//! bundle in its plans, version 3 user namespaces of pods.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use kernelet_spec::{ContainerId, ContainerPlan, ExecPlan, SandboxPlan};
use serde::{Deserialize, Serialize};

/// The version both sides of this build speak.
pub const VERSION: u16 = 3;

/// Agent to shim.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the agent, answered in [`Message::Reply`].
    pub id: u64,
    pub call: Call,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Call {
    /// The first call of every connection. Answered with [`Answer::Hello`] and the shim's pidfd.
    Hello {
        version: u16,
    },
    /// The pod's namespaces. Descriptors: the shared init's cgroup join, its program.
    CreateSandbox {
        plan: SandboxPlan,
        init: Option<JoinLayout>,
    },
    /// The sandbox's descriptors again, after an adoption.
    Sandbox,
    CreateVolume(VolumePlan),
    /// Descriptors: see [`ContainerDescriptors`].
    CreateContainer(Box<CreateContainer>),
    Start(ContainerId),
    /// To the container's first process.
    Signal {
        id: ContainerId,
        signal: i32,
    },
    /// Descriptors: the cgroup join, then stdin, stdout and stderr when `stdio` is `Passed`.
    Exec(Box<Exec>),
    /// SIGKILL for an exec's process.
    KillExec(u64),
    /// The exit record has reached its destination: it may be deleted from disk.
    Acknowledge(ContainerId),
    /// Forget an exited container, its record included.
    Remove(ContainerId),
    /// Ends the shim, if no container of it lives.
    Shutdown,
    /// Copies of a container's output from now on, and its stdin. Descriptors: the writing ends of pipes for stdout
    /// and stderr, as far as `true` here. With a terminal all output is stdout.
    Attach {
        id: ContainerId,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
    /// Nobody will write to the container's stdin any more.
    CloseStdin(ContainerId),
}

/// How many descriptors a cgroup join has: a v2 folder, and a `tasks` file per v1 hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct JoinLayout {
    pub v2: bool,
    pub v1: u16,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CreateContainer {
    pub plan: ContainerPlan,
    pub descriptors: ContainerDescriptors,
    /// The compiled filter, none when unconfined.
    pub filter: Option<Vec<u8>>,
    pub cgroup_view: WireCgroupView,
}

/// The host's hierarchies: controllers and name of each v1 one, and whether there is a v2 tree.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WireCgroupView {
    pub v1: Vec<(Vec<String>, Option<String>)>,
    pub v2: bool,
}

/// The order of the descriptors beside `CreateContainer`: the root's mount, the sources of the mounts
/// listed (by index in the plan), the join, the OOM counter, stdio.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ContainerDescriptors {
    pub sources: Vec<u16>,
    pub join: JoinLayout,
    /// `memory.oom_control` or `memory.events`, read when the container ends.
    pub oom_counter: bool,
    /// stdin, stdout, stderr.
    pub stdio: bool,
}

/// A tmpfs of the pod, for memory volumes and for secrets that never touch a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumePlan {
    pub name: String,
    /// `None`: the kernel's default.
    pub size_bytes: Option<u64>,
    pub mode: u32,
    pub gid: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exec {
    pub container: ContainerId,
    pub plan: ExecPlan,
    pub filter: Option<Vec<u8>>,
    pub join: JoinLayout,
    pub stdio: ExecStdio,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecStdio {
    /// Stdout and stderr are kept together, up to so many bytes; the rest is read and dropped.
    Capture { limit: u32 },
    /// Three descriptors come with the request and become the process's.
    Passed,
}

/// Shim to agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Message {
    Reply {
        id: u64,
        result: Result<Answer, Failure>,
    },
    /// A container's state has changed; the level, not the edge.
    Container(Box<ContainerState>),
    Removed(ContainerId),
    Sandbox(Box<SandboxState>),
    ExecExited(ExecExit),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    Hello(Box<Hello>),
    /// Descriptors: net, ipc, uts, as far as `true` here.
    Sandbox {
        net: bool,
        ipc: bool,
        uts: bool,
        init_pid: Option<i32>,
    },
    /// Descriptor: the volume's root folder.
    Volume,
    /// Descriptor: the pidfd; with a terminal, its controlling end after it.
    Created {
        pid: i32,
    },
    Started {
        at: SystemTime,
    },
    /// Descriptor: the pidfd; with a terminal, its controlling end after it.
    ExecStarted {
        exec: u64,
        pid: i32,
    },
    Done,
    /// Descriptor: with `terminal` its controlling end, to be written to when `stdin` is `true`, and never to be
    /// read; else with `stdin` the writing end of the container's stdin.
    Attached {
        stdin: bool,
        terminal: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    pub version: u16,
    pub pod: String,
    pub pid: i32,
    /// Clock ticks after boot, as in `/proc/<pid>/stat`: pid and start time name a process.
    pub start_time: u64,
    pub boot_id: String,
    pub state: PodState,
}

/// Everything the shim knows.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct PodState {
    pub sandbox: Option<SandboxState>,
    pub volumes: Vec<String>,
    pub containers: BTreeMap<ContainerId, ContainerState>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SandboxState {
    pub plan: SandboxPlan,
    pub init_pid: Option<i32>,
    /// The shared init has ended, and the pod's processes with it.
    pub init_exited: bool,
    pub created_at: SystemTime,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerState {
    pub id: ContainerId,
    pub annotations: BTreeMap<String, String>,
    pub cgroup: String,
    pub phase: Phase,
    /// Lines of output that could not be written, since the container was created.
    pub dropped_lines: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Phase {
    /// Waits to be started.
    Created {
        pid: i32,
    },
    Running {
        pid: i32,
        started_at: SystemTime,
    },
    Exited(ExitRecord),
}

/// How a container ended. On disk before anybody hears of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    pub id: ContainerId,
    pub pid: i32,
    /// `None`: it was never started.
    pub started_at: Option<SystemTime>,
    pub finished_at: SystemTime,
    /// What the process returned, or 128 + the signal.
    pub exit_code: i32,
    pub signal: Option<i32>,
    /// The kernel killed a process of the container for its memory limit.
    pub oom_killed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecExit {
    pub exec: u64,
    /// What the process returned, or 128 + the signal.
    pub exit_code: i32,
    pub timed_out: bool,
    /// What was captured.
    pub output: Vec<u8>,
    /// Bytes beyond the limit.
    pub dropped_bytes: u64,
}

/// Why a call could not be carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{what}")]
pub struct Failure {
    pub kind: FailureKind,
    /// What was attempted, and why it failed.
    pub what: String,
    pub errno: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The plan or the call is wrong; the same again fails the same.
    Invalid,
    /// No such container, volume or exec.
    NotFound,
    /// It exists already, or is in a state that doesn't allow this.
    Conflict,
    /// The command was not found in the image, or can't be executed.
    Command,
    /// Everything else: the kernel refused a step, which `what` names.
    Kernel,
    Version,
}

/// The longest time a shim may take to answer any call.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(30);
