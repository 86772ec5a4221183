//! What the data plane tells about a decision.

use crate::Address;

const _: () = assert!(size_of::<Flow>() == 112);

/// One decision, as it stands in ring `FLOWS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// `bpf_ktime_get_ns`.
    pub at_ns: u64,
    /// The socket's namespace; 0 in packet programs.
    pub netns: u64,
    pub source: Address,
    pub destination: Address,
    /// What the destination (or, on the way back, the source) became.
    pub translated: Address,
    pub source_port: u16,
    pub destination_port: u16,
    pub translated_port: u16,
    pub protocol: u8,
    /// A [`Reason`].
    pub reason: u8,
    pub service: u32,
    /// The process, at socket hooks.
    pub pid: u32,
    /// The link, in packet programs.
    pub ifindex: u32,
    /// A [`Hook`].
    pub hook: u8,
    pub pad: [u8; 3],
    pub command: [u8; 16],
    pub pad2: [u32; 2],
}

/// Why it was decided so. The number is also the index into the array `COUNTERS`.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    Translated = 1,
    /// Refused: the service has no ready backend.
    NoBackend = 2,
    /// To a pod on this node, past the node's stack.
    ToLocalPod = 3,
    /// To the node itself, by its loopback.
    ToNode = 4,
    /// Dropped: a pod sent from an address that isn't its own.
    ForeignSource = 5,
    /// The packet could not be parsed or changed.
    Malformed = 6,
    /// The map that remembers the way back is full.
    NoMemory = 7,
    /// To the outside, by the node's stack.
    ToStack = 8,
    /// To the outside, under the node's address, past the node's stack.
    ToOutside = 9,
    /// From the outside, to a pod of this node.
    FromOutside = 10,
    /// Dropped: no source port is left towards that destination.
    NoPort = 11,
}

impl Reason {
    pub const COUNT: u32 = 16;

    pub const ALL: [Self; 11] = [
        Self::Translated,
        Self::NoBackend,
        Self::ToLocalPod,
        Self::ToNode,
        Self::ForeignSource,
        Self::Malformed,
        Self::NoMemory,
        Self::ToStack,
        Self::ToOutside,
        Self::FromOutside,
        Self::NoPort,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Translated => "translated",
            Self::NoBackend => "no-backend",
            Self::ToLocalPod => "to-local-pod",
            Self::ToNode => "to-node",
            Self::ForeignSource => "foreign-source",
            Self::Malformed => "malformed",
            Self::NoMemory => "no-memory",
            Self::ToStack => "to-stack",
            Self::ToOutside => "to-outside",
            Self::FromOutside => "from-outside",
            Self::NoPort => "no-port",
        }
    }

    /// Whether the packet or connection ended here.
    pub const fn is_drop(self) -> bool {
        matches!(
            self,
            Self::NoBackend | Self::ForeignSource | Self::Malformed | Self::NoPort
        )
    }
}

#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Connect = 1,
    Send = 2,
    FromPod = 3,
    FromOutside = 4,
}
