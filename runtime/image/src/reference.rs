//! Names of images, written as Docker's users write them.
//!
//! `nginx` is `docker.io/library/nginx:latest`. The first part is a registry if it has a dot or a colon or is
//! `localhost`.

use std::{fmt, str::FromStr};

use crate::{Digest, ReferenceError};

/// A normalised name: registry, repository, and a tag or a digest or both.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// `docker.io` for a name without one.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// With `library/` for Docker's own.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// `latest` where neither a tag nor a digest was given.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The manifest that it must be.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        let refuse = |reason| ReferenceError {
            reference: text.to_owned(),
            reason,
        };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(refuse)?)),
            None => (text, None),
        };
        // A colon after the last slash begins the tag; one before it is a registry's port.
        let name_start = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[name_start..].find(':') {
            Some(colon) => (
                &rest[..name_start + colon],
                Some(&rest[name_start + colon + 1..]),
            ),
            None => (rest, None),
        };
        let (registry, path) = match name.split_once('/') {
            Some((first, path))
                if first.contains(['.', ':'])
                    || first == "localhost"
                    || first != first.to_lowercase() =>
            {
                (first, path)
            }
            _ => ("docker.io", name),
        };
        // Docker's first name for it.
        let registry = if registry == "index.docker.io" {
            "docker.io"
        } else {
            registry
        };
        if !is_registry(registry) {
            return Err(refuse("the registry's name is not valid"));
        }
        if path.is_empty() {
            return Err(refuse("the name is empty"));
        }
        if !path.split('/').all(is_component) {
            return Err(refuse(
                "a name has lower-case letters, digits and single separators (. _ __ -)",
            ));
        }
        if path.len() > 255 {
            return Err(refuse("the name is longer than 255 characters"));
        }
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(refuse("the tag is not valid"));
        }
        let repository = if registry == "docker.io" && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some("latest".to_owned()),
        };
        Ok(Reference {
            registry: registry.to_owned(),
            repository,
            tag,
            digest,
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') && !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    if port.is_some_and(|port| port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit())) {
        return false;
    }
    if let Some(v6) = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        return v6.parse::<std::net::Ipv6Addr>().is_ok();
    }
    host.split('.').all(|label| {
        let plain = |b: u8| b.is_ascii_alphanumeric();
        let bytes = label.as_bytes();
        !bytes.is_empty()
            && plain(bytes[0])
            && plain(bytes[bytes.len() - 1])
            && bytes.iter().all(|&b| plain(b) || b == b'-')
    })
}

fn is_component(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    if bytes.is_empty() || !plain(bytes[0]) || !plain(bytes[bytes.len() - 1]) {
        return false;
    }
    // Between letters and digits: one dot, one or two underscores, or any number of dashes.
    bytes.split(|&b| plain(b)).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|&b| b == b'-')
    })
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    !text.is_empty()
        && text.len() <= 128
        && word(text.as_bytes()[0])
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_what_docker_makes_of_them() {
        let hex = "a".repeat(64);
        let check = |text: &str, expect: &str| {
            assert_eq!(
                text.parse::<Reference>().unwrap().to_string(),
                expect,
                "{text}"
            );
        };
        check("nginx", "docker.io/library/nginx:latest");
        check("nginx:1.27", "docker.io/library/nginx:1.27");
        check("me/app", "docker.io/me/app:latest");
        check("index.docker.io/nginx", "docker.io/library/nginx:latest");
        check("localhost/app", "localhost/app:latest");
        check("localhost:5000/app:v1", "localhost:5000/app:v1");
        check(
            "reg.example/a/b__c/d-e.f:X_1.2-3",
            "reg.example/a/b__c/d-e.f:X_1.2-3",
        );
        check("[::1]:5000/app", "[::1]:5000/app:latest");
        check(
            &format!("nginx@sha256:{hex}"),
            &format!("docker.io/library/nginx@sha256:{hex}"),
        );
        check(
            &format!("a/b:t@sha256:{hex}"),
            &format!("docker.io/a/b:t@sha256:{hex}"),
        );
        // What it says reads back as itself.
        check(
            "docker.io/library/nginx:latest",
            "docker.io/library/nginx:latest",
        );
    }

    #[test]
    fn names_that_make_no_sense_are_refused() {
        for text in [
            "",
            ":",
            "/",
            "a/",
            "/a",
            "A",
            "a:",
            "a:.x",
            "a b",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "a@sha256:12",
            "a@md5:00",
            "a//b",
            "x.y:port/a",
            "a:b/c d",
            "../a",
            "a/../b",
            "x_y.z/a:b:c",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
    }
}
