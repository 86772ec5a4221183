//! From a reference to an image's documents: index, manifest, configuration. Each is verified before it is read.

use http::{HeaderName, header};
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde::Deserialize;

use super::{Platform, PullError, error::RegistryError, session::Session};
use crate::{
    Digest, ImageError, Reference, digest,
    document::{digest_of, parse},
};

/// As containerd and the distribution specification have it.
const MAX_MANIFEST: usize = 4 << 20;
/// Configurations grow with an image's history.
const MAX_CONFIG: u64 = 16 << 20;
/// Documents that are read for one image, indexes in indexes included.
const MAX_DOCUMENTS: usize = 16;
/// As many as overlayfs can stack.
const MAX_LAYERS: usize = 500;

const INDEXES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const MANIFESTS: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
const LAYERS: [&str; 9] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];

/// What a reference stands for.
pub(super) struct Resolved {
    /// The endpoint that answered.
    pub endpoint: usize,
    /// Of what the reference names: the index, where there is one.
    pub digest: Digest,
    /// Of the image's own manifest.
    pub manifest: Digest,
    pub config: Part,
    pub layers: Vec<Part>,
}

/// A blob that a manifest names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub digest: Digest,
    pub size: u64,
}

/// What decides which kind of document it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
}

enum Document {
    Index(Box<ImageIndex>),
    Manifest(Box<ImageManifest>),
}

pub(super) async fn resolve(
    session: &Session,
    reference: &Reference,
    platform: &Platform,
) -> Result<Resolved, PullError> {
    let name = reference.to_string();
    let failed = |source| PullError::Resolve {
        reference: name.clone(),
        source,
    };
    let wrong = |source| PullError::Image {
        reference: name.clone(),
        source,
    };
    let wanted = match reference.digest() {
        Some(digest) => digest.to_string(),
        None => reference
            .tag()
            .expect("without a digest there is a tag")
            .to_owned(),
    };
    let (endpoint, top, document) = fetch(session, 0, &wanted, reference.digest(), None)
        .await
        .map_err(|error| failed(named(error, &name)))?;
    let mut digest = top;
    let mut documents = 1;
    // What is still to be looked at, the most wanted last; in each index its best choice comes first.
    let mut todo = Vec::<Descriptor>::new();
    let mut found = Vec::<String>::new();
    let mut document = document;
    let manifest = loop {
        match document {
            Document::Manifest(manifest) => break *manifest,
            Document::Index(index) => {
                found.extend(index.manifests().iter().filter_map(|descriptor| {
                    let platform = descriptor.platform().as_ref()?;
                    let variant = platform
                        .variant()
                        .as_ref()
                        .map_or_else(String::new, |v| format!("/{v}"));
                    Some(format!(
                        "{}/{}{variant}",
                        platform.os(),
                        platform.architecture()
                    ))
                }));
                let chosen = platform.choose(index.manifests());
                todo.extend(chosen.into_iter().rev().cloned());
            }
        }
        let Some(next) = todo.pop() else {
            found.truncate(20);
            return Err(PullError::NoPlatform {
                reference: name,
                platform: platform.clone(),
                found: if found.is_empty() {
                    "none".to_owned()
                } else {
                    found.join(", ")
                },
            });
        };
        documents += 1;
        if documents > MAX_DOCUMENTS {
            return Err(wrong(ImageError::NotAnImage(
                "its indexes hold too many indexes".to_owned(),
            )));
        }
        let expected = digest_of(&next).map_err(wrong)?;
        let (_, at, inner) = fetch(
            session,
            endpoint,
            &expected.to_string(),
            Some(&expected),
            Some(next.size()),
        )
        .await
        .map_err(|error| failed(named(error, &name)))?;
        (digest, document) = (at, inner);
    };
    let part = |descriptor: &Descriptor| {
        Ok(Part {
            digest: digest_of(descriptor)?,
            size: descriptor.size(),
        })
    };
    let config = part(manifest.config()).map_err(wrong)?;
    if config.size > MAX_CONFIG {
        return Err(wrong(ImageError::NotAnImage(format!(
            "its configuration has {} bytes",
            config.size
        ))));
    }
    if manifest.layers().len() > MAX_LAYERS {
        let text = format!(
            "it has {} layers, and {MAX_LAYERS} at most can be stacked",
            manifest.layers().len()
        );
        return Err(wrong(ImageError::NotAnImage(text)));
    }
    for layer in manifest.layers() {
        let media_type = layer.media_type().to_string();
        if !LAYERS.contains(&media_type.as_str()) {
            let why = if media_type.contains("+encrypted") {
                "encrypted layers are not supported"
            } else {
                "only tar archives, plain or compressed with gzip or zstd, can be unpacked"
            };
            let text = format!("it has a layer of media type {media_type:?}: {why}");
            return Err(wrong(ImageError::NotAnImage(text)));
        }
    }
    Ok(Resolved {
        endpoint,
        digest: top,
        manifest: digest,
        config,
        layers: manifest
            .layers()
            .iter()
            .map(part)
            .collect::<Result<_, _>>()
            .map_err(wrong)?,
    })
}

/// `not found` names the image, as everybody's does, instead of the registry's path.
fn named(error: RegistryError, name: &str) -> RegistryError {
    match error {
        RegistryError::NotFound(_) => RegistryError::NotFound(name.to_owned()),
        other => other,
    }
}

async fn fetch(
    session: &Session,
    endpoint: usize,
    wanted: &str,
    expected: Option<&Digest>,
    size: Option<u64>,
) -> Result<(usize, Digest, Document), RegistryError> {
    let accept: Vec<(HeaderName, String)> = vec![(
        header::ACCEPT,
        [INDEXES, MANIFESTS].concat().join(", ") + ", */*;q=0.1",
    )];
    let (endpoint, mut answer) = session
        .get(endpoint, &format!("manifests/{wanted}"), &accept)
        .await?;
    let what = format!("the manifest {wanted}");
    let claimed = answer
        .header(&HeaderName::from_static("docker-content-digest"))
        .map(str::to_owned);
    let content_type = answer.header(&header::CONTENT_TYPE).map(str::to_owned);
    let body = session.http.body(&mut answer, MAX_MANIFEST).await?;
    let found = digest::of(&body);
    if let Some(size) = size
        && size != body.len() as u64
    {
        return Err(ImageError::WrongSize {
            what,
            expected: size,
            found: body.len() as u64,
        }
        .into());
    }
    if let Some(expected) = expected {
        digest::expect(&what, expected, &found)?;
    }
    // A registry that says what it sends must send that.
    if let Some(claimed) = claimed.and_then(|text| text.parse::<Digest>().ok()) {
        digest::expect(&what, &claimed, &found)?;
    }
    Ok((
        endpoint,
        found,
        read(&what, content_type.as_deref(), &body)?,
    ))
}

/// The document says what it is; where it doesn't, the registry's `Content-Type` decides, which is often wrong. One that
/// could be read as both is refused: two readers would see two images under one digest.
fn read(what: &str, content_type: Option<&str>, body: &[u8]) -> Result<Document, ImageError> {
    let shape: Shape = parse(what, body)?;
    let not = |text: String| Err(ImageError::NotAnImage(format!("{what} {text}")));
    let content_type = content_type
        .and_then(|t| t.split(';').next())
        .map(str::trim);
    let schema_1 = |t: &str| t.starts_with("application/vnd.docker.distribution.manifest.v1+");
    if shape.schema_version == Some(1) || content_type.is_some_and(schema_1) {
        return not(
            "is of Docker's schema 1, which is no longer supported: push the image again as \
             application/vnd.docker.distribution.manifest.v2+json or application/vnd.oci.image.manifest.v1+json"
                .to_owned(),
        );
    }
    let index = shape.manifests.is_some();
    let manifest = shape.layers.is_some() || shape.config.is_some();
    if index && manifest {
        return not("has both manifests and layers".to_owned());
    }
    let said = shape.media_type.as_deref();
    if let Some(said) = said
        && ((index && !INDEXES.contains(&said)) || (manifest && !MANIFESTS.contains(&said)))
    {
        return not(format!(
            "says that it is {said:?}, which it isn't, or nothing that can be run"
        ));
    }
    if index {
        Ok(Document::Index(Box::new(parse(what, body)?)))
    } else if manifest {
        Ok(Document::Manifest(Box::new(parse(what, body)?)))
    } else {
        let kind = said.or(content_type).unwrap_or("nothing known");
        not(format!(
            "is {kind:?}: neither an image's manifest nor an index"
        ))
    }
}

/// An image's configuration, verified.
pub(super) async fn config(
    session: &Session,
    resolved: &Resolved,
) -> Result<Vec<u8>, RegistryError> {
    let Part { digest, size } = resolved.config;
    let what = format!("the configuration {digest}");
    let (_, mut answer) = session
        .get(resolved.endpoint, &format!("blobs/{digest}"), &[])
        .await?;
    let most = usize::try_from(size).unwrap_or(usize::MAX);
    let body = session.http.body(&mut answer, most).await?;
    if body.len() as u64 != size {
        return Err(ImageError::WrongSize {
            what,
            expected: size,
            found: body.len() as u64,
        }
        .into());
    }
    digest::expect(&what, &digest, &digest::of(&body))?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, content_type: Option<&str>, expect: Result<&str, &str>) {
        match (
            read("the manifest x", content_type, body.as_bytes()),
            expect,
        ) {
            (Ok(Document::Index(_)), Ok("index")) | (Ok(Document::Manifest(_)), Ok("manifest")) => {
            }
            (Err(error), Err(expect)) => {
                assert!(
                    error.to_string().contains(expect),
                    "{error} does not say {expect}"
                );
            }
            (found, expect) => panic!("{body}: {:?} instead of {expect:?}", found.map(drop)),
        }
    }

    #[test]
    fn a_document_is_what_it_says_whatever_the_registry_calls_it() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let blob =
            format!(r#"{{"mediaType":"application/octet-stream","digest":"{digest}","size":1}}"#);
        let manifest = format!(r#""config":{blob},"layers":[]"#);
        let typed =
            |t: &str, rest: &str| format!(r#"{{"schemaVersion":2,"mediaType":"{t}",{rest}}}"#);
        check(
            &typed(MANIFESTS[0], &manifest),
            Some("text/plain"),
            Ok("manifest"),
        );
        check(&typed(MANIFESTS[1], &manifest), None, Ok("manifest"));
        check(
            &format!(r#"{{"schemaVersion":2,{manifest}}}"#),
            Some(INDEXES[0]),
            Ok("manifest"),
        );
        check(&typed(INDEXES[1], r#""manifests":[]"#), None, Ok("index"));
        check(
            &typed(MANIFESTS[0], r#""manifests":[]"#),
            None,
            Err("which it isn't"),
        );
        check(
            &typed(MANIFESTS[0], &format!(r#""manifests":[],{manifest}"#)),
            None,
            Err("both"),
        );
        check(
            r#"{"schemaVersion":1,"fsLayers":[]}"#,
            None,
            Err("schema 1"),
        );
        check(
            "{}",
            Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
            Err("schema 1"),
        );
        check(
            r#"{"schemaVersion":2}"#,
            Some("application/json"),
            Err("neither"),
        );
        check("<html>", Some("text/html"), Err("makes no sense"));
    }
}
