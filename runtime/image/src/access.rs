//! Whose an image is that somebody's credentials opened: with a pull secret it came for those pods only that hold the
//! same one, as upstream's kubelet has it since 1.35. What was loaded from a file, or pulled by nobody in particular or
//! with the node's own credentials, is everybody's.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{Image, Keyring, Reference};

/// By repository (`registry/repository`); empty for what an administrator put there.
pub type Access = BTreeMap<String, Opened>;

/// Who has had an image opened by its registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// It asks for nothing, or this machine has what it asks for.
    #[serde(default)]
    pub everybody: bool,
    /// Digests of the credentials that opened it.
    #[serde(default)]
    pub credentials: BTreeSet<String>,
}

impl Image {
    /// Whether anybody may use it.
    #[must_use]
    pub fn is_everybodys(&self) -> bool {
        self.access.is_empty() || self.access.values().any(|opened| opened.everybody)
    }

    /// Whether it may be used under this name by who holds these credentials, without the registry being asked.
    #[must_use]
    pub fn is_open_to(&self, reference: &Reference, keyring: &Keyring) -> bool {
        if self.access.is_empty() {
            return true;
        }
        let (registry, repository) = (reference.registry(), reference.repository());
        self.access
            .get(&format!("{registry}/{repository}"))
            .is_some_and(|opened| {
                opened.everybody
                    || keyring
                        .lookup(registry, repository)
                        .iter()
                        .any(|credential| opened.credentials.contains(&credential.digest()))
            })
    }
}

/// Notes that a repository's registry has opened an image to a credential, or to everybody.
pub(crate) fn grant(access: &mut Access, repository: &str, credential: Option<&str>) {
    let opened = access.entry(repository.to_owned()).or_default();
    match credential {
        None => opened.everybody = true,
        Some(digest) => {
            opened.credentials.insert(digest.to_owned());
        }
    }
}
