//! `kernelet image`: the node's image store.

use std::process::ExitCode;

use anyhow::Context;
use kernelet_image::{Image, ImageStore};
use serde_json::json;

use crate::{
    cli::{Global, ImageCommand, Output},
    instance::Instance,
    net::print_rows,
    preflight, pull,
};

pub fn run(global: &Global, command: ImageCommand) -> anyhow::Result<ExitCode> {
    preflight::root("reads and writes the node's images")?;
    let instance = match &command {
        ImageCommand::Load { .. } | ImageCommand::Pull(_) => Instance::create(&global.data_dir)?,
        _ => Instance::find(&global.data_dir)?
            .with_context(|| format!("there is no data folder {}", global.data_dir.display()))?,
    };
    let store = ImageStore::open(instance.image_dir())?;
    match command {
        ImageCommand::Pull(args) => return pull::run(&instance, &store, &args),
        ImageCommand::Load { path } => {
            let images = store
                .load(&path)
                .with_context(|| format!("cannot load {}", path.display()))?;
            for image in images {
                println!("Loaded {}", names(&image).join(", "));
            }
        }
        ImageCommand::Ls(options) => return list(&store, options.output),
        ImageCommand::Save { image, output } => {
            store
                .save(&image, &output)
                .with_context(|| format!("cannot save {image}"))?;
        }
        ImageCommand::Rm { images } => {
            for image in images {
                store
                    .rm(&image)
                    .with_context(|| format!("cannot remove {image}"))?;
                println!("Removed {image}");
            }
        }
        ImageCommand::Prune(options) => {
            let pruned = store.prune().context("cannot prune the image store")?;
            match options.output {
                Output::Json => println!("{}", json!(pruned)),
                Output::Text => println!(
                    "{} images removed, {} bytes given back",
                    pruned.images.len(),
                    pruned.bytes
                ),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(store: &ImageStore, output: Output) -> anyhow::Result<ExitCode> {
    let rows: Vec<_> = store
        .ls()?
        .iter()
        .flat_map(|image| {
            names(image).into_iter().map(move |name| {
                json!({
                    "name": name, "id": image.id.to_string(), "size": image.size,
                    "digests": image.repo_digests,
                })
            })
        })
        .collect();
    print_rows(output, &rows, &["IMAGE", "ID", "SIZE"], |row| {
        let id = row["id"].as_str().unwrap_or_default();
        let short = id
            .strip_prefix("sha256:")
            .unwrap_or(id)
            .get(..12)
            .unwrap_or(id)
            .to_owned();
        let bytes = row["size"].as_u64().unwrap_or_default();
        vec![
            row["name"].as_str().unwrap_or_default().to_owned(),
            short,
            size(bytes),
        ]
    })
}

/// The image's names, or its id when it has none.
fn names(image: &Image) -> Vec<String> {
    if image.references.is_empty() {
        return vec![image.id.to_string()];
    }
    image.references.iter().map(ToString::to_string).collect()
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes}B"),
        1_000..1_000_000 => format!("{:.1}kB", bytes as f64 / 1e3),
        _ => format!("{:.1}MB", bytes as f64 / 1e6),
    }
}
