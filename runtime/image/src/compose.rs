//! Makes an image's archive in memory: for the image that the program carries in itself, and for tests.

use std::io;

use serde_json::{Value, json};

use crate::{Reference, digest};

/// A `docker save` archive of one image, its layers given as archives (see [`tar::Builder`]), the lowest first.
/// `config` is what the configuration says under `config`: `Env`, `Cmd`, `Entrypoint` and so on.
pub fn archive(reference: &Reference, config: &Value, layers: &[Vec<u8>]) -> io::Result<Vec<u8>> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let diff_ids: Vec<_> = layers.iter().map(|layer| digest::of(layer)).collect();
    let configuration = json!({
        "architecture": architecture,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids.iter().map(ToString::to_string).collect::<Vec<_>>()},
    })
    .to_string();
    let config_name = format!("{}.json", digest::of(configuration.as_bytes()).hex());
    let layer_names: Vec<_> = (0..layers.len())
        .map(|n| format!("{n}-{}/layer.tar", diff_ids[n].hex()))
        .collect();
    let manifest = json!([{
        "Config": config_name,
        "RepoTags": [reference.to_string()],
        "Layers": layer_names,
    }])
    .to_string();
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes)
    };
    for (name, layer) in layer_names.iter().zip(layers) {
        add(name, layer)?;
    }
    add(&config_name, configuration.as_bytes())?;
    add("manifest.json", manifest.as_bytes())?;
    archive.into_inner()
}
