//! What an archive or a layout says is in it. Every document is verified before it is read.

use std::io::Read as _;

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    Digest, ImageConfig, ImageError, ImageId, Platform, Port, Protocol, Reference,
    archive::{Source, damaged},
    digest,
};

/// Larger documents are refused: they are read into memory.
const MAX_DOCUMENT: u64 = 16 << 20;
/// Indexes in indexes, at most so deep.
const MAX_INDEXES: usize = 4;

/// An image that a source has, with its documents verified and its layers not yet looked at.
#[derive(Debug)]
pub(crate) struct Found {
    pub id: ImageId,
    /// As it came, because its digest is the image's identity.
    pub config: Vec<u8>,
    pub manifest: Option<Digest>,
    /// From the lowest to the topmost.
    pub layers: Vec<FoundLayer>,
    pub references: Vec<Reference>,
}

#[derive(Debug)]
pub(crate) struct FoundLayer {
    /// The part's name in the source.
    pub name: String,
    /// Of the part as it is, where a manifest says so.
    pub blob: Option<(Digest, u64)>,
    /// Of the uncompressed layer.
    pub diff_id: Digest,
}

/// A line of `docker save`'s manifest.json.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Every image for this machine that a source has.
pub(crate) fn images(source: &Source) -> Result<Vec<Found>, ImageError> {
    let index = read(source, "index.json")?;
    let docker = read(source, "manifest.json")?;
    // `docker save` writes both since version 25; the layout says more, the other one has the names.
    let docker: Option<Vec<DockerImage>> = docker
        .map(|bytes| parse("manifest.json", &bytes))
        .transpose()?;
    let mut found = match (&index, &docker) {
        (Some(index), _) => layout(source, &parse("index.json", index)?)?,
        (None, Some(docker)) => docker
            .iter()
            .map(|image| docker_image(source, image))
            .collect::<Result<_, _>>()?,
        (None, None) => {
            return Err(ImageError::NotAnImage(
                "it has neither an index.json nor a manifest.json".to_owned(),
            ));
        }
    };
    // Beside a layout manifest.json only gives names, to the image whose configuration it names.
    for image in docker.iter().flatten().filter(|_| index.is_some()) {
        for found in &mut found {
            if image.config.contains(&found.id.0.hex()) {
                name(found, image)?;
            }
        }
    }
    if found.is_empty() {
        return Err(ImageError::Platform {
            found: "none of its platforms".to_owned(),
            wanted: format!("linux/{}", architecture()),
        });
    }
    Ok(found)
}

fn name(found: &mut Found, image: &DockerImage) -> Result<(), ImageError> {
    for name in image.repo_tags.iter().flatten() {
        add_reference(found, name.parse()?);
    }
    Ok(())
}

fn add_reference(found: &mut Found, reference: Reference) {
    if !found.references.contains(&reference) {
        found.references.push(reference);
    }
}

fn layout(source: &Source, index: &ImageIndex) -> Result<Vec<Found>, ImageError> {
    let mut found = Vec::<Found>::new();
    for (descriptor, name) in manifests(source, index, None, 0)? {
        let what = format!("the manifest {}", descriptor.digest());
        let (digest, bytes) = blob(source, &descriptor, &what)?;
        let manifest: ImageManifest = parse(&what, &bytes)?;
        let config = manifest.config();
        let what = format!("the configuration {}", config.digest());
        let (id, config) = blob(source, config, &what)?;
        let diff_ids = diff_ids(&what, &config, &Platform::here())?;
        if diff_ids.len() != manifest.layers().len() {
            return Err(ImageError::NotAnImage(format!(
                "the manifest {digest} has {} layers, its configuration {}",
                manifest.layers().len(),
                diff_ids.len()
            )));
        }
        let layers = manifest
            .layers()
            .iter()
            .zip(diff_ids)
            .map(|(layer, diff_id)| {
                let blob = digest_of(layer)?;
                Ok(FoundLayer {
                    name: blob_name(&blob),
                    blob: Some((blob, layer.size())),
                    diff_id,
                })
            })
            .collect::<Result<_, ImageError>>()?;
        let image = Found {
            id: ImageId(id),
            config,
            manifest: Some(digest),
            layers,
            references: name.into_iter().collect(),
        };
        // One image under several names.
        match found.iter_mut().find(|other| other.id == image.id) {
            Some(other) => {
                image
                    .references
                    .into_iter()
                    .for_each(|name| add_reference(other, name));
            }
            None => found.push(image),
        }
    }
    Ok(found)
}

/// The manifests for this machine, each with the name that the index gives it.
fn manifests(
    source: &Source,
    index: &ImageIndex,
    name: Option<&Reference>,
    depth: usize,
) -> Result<Vec<(Descriptor, Option<Reference>)>, ImageError> {
    if depth > MAX_INDEXES {
        return Err(ImageError::NotAnImage(
            "its indexes are nested too deeply".to_owned(),
        ));
    }
    let mut found = Vec::new();
    for descriptor in index.manifests() {
        let name = match reference(descriptor)? {
            Some(name) => Some(name),
            None => name.cloned(),
        };
        if let Some(platform) = descriptor.platform()
            && (*platform.os() != Os::Linux
                || platform.architecture().to_string() != architecture())
        {
            continue;
        }
        if is_index(descriptor.media_type()) {
            let what = format!("the index {}", descriptor.digest());
            let (_, bytes) = blob(source, descriptor, &what)?;
            let inner = parse(&what, &bytes)?;
            found.extend(manifests(source, &inner, name.as_ref(), depth + 1)?);
        } else {
            found.push((descriptor.clone(), name));
        }
    }
    Ok(found)
}

fn is_index(media_type: &MediaType) -> bool {
    matches!(media_type, MediaType::ImageIndex)
        || media_type.to_string() == "application/vnd.docker.distribution.manifest.list.v2+json"
}

/// The name in a descriptor's annotations. `org.opencontainers.image.ref.name` alone is often only a tag, which says
/// nothing without a repository.
fn reference(descriptor: &Descriptor) -> Result<Option<Reference>, ImageError> {
    let annotation = |key: &str| {
        descriptor
            .annotations()
            .as_ref()
            .and_then(|all| all.get(key))
    };
    let name = annotation("io.containerd.image.name").or_else(|| {
        annotation("org.opencontainers.image.ref.name").filter(|name| name.contains(['/', ':']))
    });
    Ok(name.map(|name| name.parse()).transpose()?)
}

fn docker_image(source: &Source, image: &DockerImage) -> Result<Found, ImageError> {
    let what = format!("the configuration {}", image.config);
    let config = read(source, &image.config)?.ok_or_else(|| ImageError::Missing(what.clone()))?;
    let id = digest::of(&config);
    if let Some(expected) = named_digest(&image.config) {
        digest::expect(&what, &expected, &id)?;
    }
    let diff_ids = diff_ids(&what, &config, &Platform::here())?;
    if diff_ids.len() != image.layers.len() {
        return Err(ImageError::NotAnImage(format!(
            "manifest.json has {} layers for {}, its configuration {}",
            image.layers.len(),
            image.config,
            diff_ids.len()
        )));
    }
    let layers = image
        .layers
        .iter()
        .zip(diff_ids)
        .map(|(name, diff_id)| FoundLayer {
            name: name.clone(),
            blob: None,
            diff_id,
        })
        .collect();
    let mut found = Found {
        id: ImageId(id),
        config,
        manifest: None,
        layers,
        references: Vec::new(),
    };
    name(&mut found, image)?;
    Ok(found)
}

/// The digest that a part's name holds: `<hex>.json` or `blobs/sha256/<hex>`.
fn named_digest(name: &str) -> Option<Digest> {
    let last = name.rsplit('/').next()?;
    format!("sha256:{}", last.strip_suffix(".json").unwrap_or(last))
        .parse()
        .ok()
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

pub(crate) fn digest_of(descriptor: &Descriptor) -> Result<Digest, ImageError> {
    descriptor
        .digest()
        .to_string()
        .parse()
        .map_err(|reason| ImageError::NotAnImage(format!("{}: {reason}", descriptor.digest())))
}

/// A document that a descriptor names, verified.
fn blob(
    source: &Source,
    descriptor: &Descriptor,
    what: &str,
) -> Result<(Digest, Vec<u8>), ImageError> {
    let expected = digest_of(descriptor)?;
    let bytes =
        read(source, &blob_name(&expected))?.ok_or_else(|| ImageError::Missing(what.to_owned()))?;
    if bytes.len() as u64 != descriptor.size() {
        return Err(ImageError::WrongSize {
            what: what.to_owned(),
            expected: descriptor.size(),
            found: bytes.len() as u64,
        });
    }
    digest::expect(what, &expected, &digest::of(&bytes))?;
    Ok((expected, bytes))
}

fn read(source: &Source, name: &str) -> Result<Option<Vec<u8>>, ImageError> {
    let Some(mut part) = source.part(name)? else {
        return Ok(None);
    };
    if part.size > MAX_DOCUMENT {
        return Err(ImageError::NotAnImage(format!(
            "{name} has {} bytes",
            part.size
        )));
    }
    let mut bytes = Vec::new();
    part.read_to_end(&mut bytes).map_err(damaged(name))?;
    Ok(Some(bytes))
}

pub(crate) fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|source| ImageError::Document {
        what: what.to_owned(),
        source,
    })
}

/// The layers' identities, of a configuration that is for this platform.
pub(crate) fn diff_ids(
    what: &str,
    config: &[u8],
    platform: &Platform,
) -> Result<Vec<Digest>, ImageError> {
    let config: ImageConfiguration = parse(what, config)?;
    let (os, arch) = (config.os().to_string(), config.architecture().to_string());
    if !platform.has(&os, &arch) {
        return Err(ImageError::Platform {
            found: format!("{os}/{arch}"),
            wanted: platform.to_string(),
        });
    }
    config
        .rootfs()
        .diff_ids()
        .iter()
        .map(|id| {
            id.parse()
                .map_err(|reason| ImageError::NotAnImage(format!("{id}: {reason}")))
        })
        .collect()
}

/// This machine in Go's words, which images use.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// What a container takes over from a configuration.
pub(crate) fn config(what: &str, bytes: &[u8]) -> Result<ImageConfig, ImageError> {
    let whole: ImageConfiguration = parse(what, bytes)?;
    let Some(config) = whole.config() else {
        return Ok(ImageConfig::default());
    };
    let mut exposed_ports: Vec<Port> = config
        .exposed_ports()
        .iter()
        .flatten()
        .filter_map(|port| parse_port(port))
        .collect();
    exposed_ports.sort_unstable();
    let mut volumes = config.volumes().clone().unwrap_or_default();
    volumes.sort_unstable();
    Ok(ImageConfig {
        env: config.env().clone().unwrap_or_default(),
        cmd: config.cmd().clone().unwrap_or_default(),
        entrypoint: config.entrypoint().clone().unwrap_or_default(),
        user: config.user().clone().unwrap_or_default(),
        working_dir: config.working_dir().clone().unwrap_or_default(),
        exposed_ports,
        volumes,
        stop_signal: config
            .stop_signal()
            .clone()
            .filter(|signal| !signal.is_empty()),
        labels: config
            .labels()
            .iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect(),
    })
}

/// `80`, `80/tcp`; what isn't one is only documentation, and left out.
fn parse_port(text: &str) -> Option<Port> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    Some(Port {
        number: number.parse().ok()?,
        protocol: match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => return None,
        },
    })
}
