//! The command line. Every long option is also a key of the configuration file (see `config`).

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use kernelet_node::Thresholds;

use crate::{pull::PullArgs, registry_options::ImageArgs};

/// Kubernetes pods straight on the Linux kernel.
#[derive(Parser)]
#[command(name = "kernelet", version, args_override_self = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// Where everything that must survive is kept
    #[arg(
        long,
        global = true,
        default_value = "/var/lib/kernelet",
        value_name = "DIR"
    )]
    pub data_dir: PathBuf,
    /// The configuration file; an absent default is no error
    #[arg(
        long,
        global = true,
        default_value = "/etc/kernelet/config.yaml",
        value_name = "FILE"
    )]
    pub config: PathBuf,
    /// What is logged: error, warn, info, debug, trace, or a tracing filter
    #[arg(long, global = true, default_value = "info", value_name = "FILTER")]
    pub log: String,
}

#[derive(Subcommand)]
pub enum Command {
    /// Start control plane and node on this machine
    Up(Box<UpOptions>),
    /// Stop it: containers run on unless told otherwise
    Down(DownOptions),
    /// Start a control plane without a node
    Server(Box<ServerOptions>),
    /// Start the scheduler alone
    Scheduler(PartOptions),
    /// Start the controllers alone
    Controllers(ControllersOptions),
    /// Say what runs, its versions and its health
    Status(OutputOptions),
    /// The node's image store
    #[command(subcommand)]
    Image(ImageCommand),
    /// What the data plane holds, does, and why
    #[command(subcommand)]
    Net(NetCommand),
    /// The store, offline and online
    #[command(subcommand)]
    Store(StoreCommand),
}

#[derive(Args, Clone, Debug)]
pub struct UpOptions {
    /// Return when the node is Ready, or with the error that prevents it
    #[arg(long)]
    pub detach: bool,
    #[command(flatten)]
    pub cluster: ClusterOptions,
    #[command(flatten)]
    pub node: NodeOptions,
}

#[derive(Args, Clone, Debug)]
pub struct ServerOptions {
    /// Parts that are not to be started here
    #[arg(long, value_delimiter = ',', value_name = "PART,…")]
    pub without: Vec<Part>,
    /// This machine's address, as other machines reach it [default: the default route's source address]
    #[arg(long, value_name = "ADDRESS")]
    pub node_ip: Option<IpAddr>,
    #[command(flatten)]
    pub cluster: ClusterOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    Scheduler,
    Controllers,
}

/// What the whole cluster agrees on.
#[derive(Args, Clone, Debug)]
pub struct ClusterOptions {
    /// Where objects are kept: `embedded`, `etcd://host:port,…`, or with TLS `etcds://host:port,…?ca=FILE&cert=FILE&key=FILE`
    #[arg(long, default_value = "embedded", value_name = "URL")]
    pub store: String,
    /// The API server's port
    #[arg(long, default_value_t = 6443, value_name = "PORT")]
    pub api_port: u16,
    /// Where pods' addresses come from
    #[arg(long, default_value = "10.244.0.0/16", value_name = "CIDR")]
    pub cluster_cidr: String,
    /// Where Services' addresses come from
    #[arg(long, default_value = "10.96.0.0/16", value_name = "CIDR")]
    pub service_cidr: String,
    /// The DNS domain of Services
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    pub cluster_domain: String,
    /// Where who asked for what is logged [default: audit.log in the log folder]
    #[arg(long, value_name = "FILE")]
    pub audit_log_path: Option<PathBuf>,
    /// How much of which request is logged (an audit.k8s.io/v1 Policy) [default: metadata of all that matters]
    #[arg(long, value_name = "FILE")]
    pub audit_policy_file: Option<PathBuf>,
    /// The size in MiB at which another audit log is begun
    #[arg(long, default_value_t = 100, value_name = "MIB")]
    pub audit_log_maxsize: u64,
    /// How many full audit logs are kept
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub audit_log_maxbackup: usize,
    /// What PodSecurity asks by default, and of whom nothing (an AdmissionConfiguration)
    #[arg(long, value_name = "FILE")]
    pub admission_control_config_file: Option<PathBuf>,
    /// What is encrypted in the store beside Secrets: configmaps, leases.coordination.k8s.io, …
    #[arg(long, value_delimiter = ',', value_name = "RESOURCE,…")]
    pub encrypt_resources: Vec<String>,
}

#[derive(Args, Clone, Debug)]
pub struct NodeOptions {
    /// The node's name [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// The node's address [default: the default route's source address]
    #[arg(long, value_name = "ADDRESS")]
    pub node_ip: Option<IpAddr>,
    /// The path, below each hierarchy's root, under which pods' cgroups live
    #[arg(long, default_value = "/kernelet", value_name = "PATH")]
    pub cgroup_root: String,
    /// The port of the node's own HTTPS API
    #[arg(long, default_value_t = 10250, value_name = "PORT")]
    pub kubelet_port: u16,
    /// How many pods the node takes
    #[arg(long, default_value_t = 500, value_name = "N")]
    pub max_pods: u32,
    /// What must be left for the node to take further pods: `<signal><<quantity or percent>`, by commas; an empty text
    /// is no threshold [default: memory.available<100Mi, and 5% of each disk's nodefs.available, nodefs.inodesFree,
    /// imagefs.available and imagefs.inodesFree, pid.available<10%]
    #[arg(long, value_name = "THRESHOLDS")]
    pub eviction_hard: Option<Thresholds>,
    #[command(flatten)]
    pub images: ImageArgs,
}

#[derive(Args, Clone, Debug)]
pub struct PartOptions {
    /// How to reach the API server, and as whom
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
}

#[derive(Args, Clone, Debug)]
pub struct ControllersOptions {
    #[command(flatten)]
    pub part: PartOptions,
    /// Where pods' addresses come from
    #[arg(long, default_value = "10.244.0.0/16", value_name = "CIDR")]
    pub cluster_cidr: String,
}

#[derive(Args, Clone, Debug)]
pub struct DownOptions {
    /// End the pods too, with their grace period
    #[arg(long)]
    pub pods: bool,
    /// End the pods and leave no trace: no process, mount, cgroup, link, pin or file of this instance
    #[arg(long)]
    pub purge: bool,
}

#[derive(Args, Clone, Debug)]
pub struct OutputOptions {
    /// How to print
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Text,
    Json,
}

#[derive(Subcommand)]
pub enum ImageCommand {
    /// Pull an image from its registry
    Pull(Box<PullArgs>),
    /// Load images from a `docker save` archive or an OCI layout
    Load {
        /// The archive or folder
        path: PathBuf,
    },
    /// List images
    Ls(OutputOptions),
    /// Write an image as an OCI layout
    Save {
        image: String,
        /// Where to
        #[arg(long, short)]
        output: PathBuf,
    },
    /// Remove images
    Rm {
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Remove what no image refers to any more
    Prune(OutputOptions),
}

#[derive(Subcommand)]
pub enum NetCommand {
    /// Services, as the kernel's maps hold them
    Services(OutputOptions),
    /// Backends, as the kernel's maps hold them
    Backends(OutputOptions),
    /// What the data plane decides, as it decides it: translations, drops and why
    Flows(FlowsOptions),
    /// What it would do with a connection: each look-up in the kernel's maps, and the verdict
    Trace(TraceOptions),
}

#[derive(Args, Clone, Debug)]
pub struct FlowsOptions {
    /// End after so many [default: at the interrupt]
    #[arg(long, value_name = "N")]
    pub count: Option<usize>,
    /// Only what was dropped or refused
    #[arg(long)]
    pub dropped: bool,
    #[command(flatten)]
    pub output: OutputOptions,
}

#[derive(Args, Clone, Debug)]
pub struct TraceOptions {
    /// Who connects: `node`, `pod/NAME`, `pod/NAMESPACE/NAME`, or a pod's address
    #[arg(long, default_value = "node", value_name = "WHO")]
    pub from: String,
    /// Where to: `svc/NAME:PORT`, `svc/NAMESPACE/NAME:PORT`, `pod/…:PORT`, or `ADDRESS:PORT`
    #[arg(long, value_name = "WHERE")]
    pub to: String,
    #[arg(long, value_enum, default_value_t = Protocol::Tcp)]
    pub protocol: Protocol,
    #[command(flatten)]
    pub output: OutputOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    Tcp,
    Udp,
}

#[derive(Subcommand)]
pub enum StoreCommand {
    /// Copy the store to a file; while it is not in use
    Backup {
        /// The new file
        file: PathBuf,
    },
    /// Make the store from a backup; while there is none
    Restore {
        /// What `backup` wrote
        file: PathBuf,
    },
    /// Drop history and give the space back; while it is not in use
    Compact,
    /// Check the store's integrity
    Check,
}
