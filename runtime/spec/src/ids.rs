//! Typed names. Both end up in paths, so both are checked when they are made.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A name that can't be a path component of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no {what}: 1 to 128 of [A-Za-z0-9_.+-], not starting with a dot")]
pub struct InvalidId {
    what: &'static str,
    name: String,
}

fn check(what: &'static str, name: &str) -> Result<(), InvalidId> {
    let fits = (1..=128).contains(&name.len())
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'+' | b'-'));
    if fits {
        Ok(())
    } else {
        Err(InvalidId {
            what,
            name: name.to_owned(),
        })
    }
}

macro_rules! id {
    ($name:ident, $what:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Takes the name over, if it can stand in a path and a socket's address.
            pub fn new(name: impl Into<String>) -> Result<Self, InvalidId> {
                let name = name.into();
                check($what, &name)?;
                Ok(Self(name))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(name: String) -> Result<Self, InvalidId> {
                Self::new(name)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

id!(PodUid, "pod uid", "A pod's `metadata.uid`.");
id!(
    ContainerId,
    "container id",
    "A container's id, unique on its node: one for each start of a container."
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_never_leaves_its_folder() {
        for bad in ["", "..", ".x", "a/b", "a b", "a\0", &"x".repeat(129)] {
            assert!(PodUid::new(bad).is_err(), "{bad:?} was accepted");
        }
        assert!(PodUid::new("5b0f2f3e-0d4f-4c0c-8c9c-0d6ff6c41f3b").is_ok());
    }
}
