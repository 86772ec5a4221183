//! What an image is, once it is in the store.

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Access, Reference};

/// A SHA-256 digest; other algorithms are refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Without the algorithm's name.
    #[must_use]
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.0
            .iter()
            .fold(String::with_capacity(64), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x}");
                hex
            })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Digest, &'static str> {
        let hex = text
            .strip_prefix("sha256:")
            .ok_or("only sha256 digests are supported")?;
        if hex.len() != 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err("a sha256 digest has 64 lower-case hexadecimal digits");
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).expect("hexadecimal digits");
            *byte = u8::from_str_radix(pair, 16).expect("hexadecimal digits");
        }
        Ok(Digest(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Digest, &'static str> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

/// An image's identity: the digest of its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageId(pub Digest);

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An image in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The digest of its configuration.
    pub id: ImageId,
    /// The digest of its manifest, where it came with one.
    pub digest: Option<Digest>,
    /// Its names.
    pub references: Vec<Reference>,
    /// What registries know it as: `registry/repository@digest`.
    pub repo_digests: Vec<String>,
    /// Who may use it.
    pub access: Access,
    /// What a container of it starts as.
    pub config: ImageConfig,
    /// Its layers as folders in overlayfs' form and order: the topmost first, as `lowerdir` wants them.
    pub layers: Vec<PathBuf>,
    /// Bytes of the unpacked layers' files.
    pub size: u64,
}

/// The parts of an image's configuration that a container takes over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Arguments, or the whole command without an entry point.
    pub cmd: Vec<String>,
    /// The command.
    pub entrypoint: Vec<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`; empty is root. See [`Image::user`].
    pub user: String,
    /// Empty is `/`.
    pub working_dir: String,
    /// Ports that it says it serves.
    pub exposed_ports: Vec<Port>,
    /// Folders that want a volume.
    pub volumes: Vec<String>,
    /// Name or number of the signal that ends it; none is SIGTERM.
    pub stop_signal: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A port of [`ImageConfig::exposed_ports`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Its number.
    pub number: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}
