//! Writes every document of the built-in registry into a folder, to be looked at or given to other tools.
//!
//! `cargo run -p kernelet-openapi --example dump -- /tmp/documents`

use std::{fs, path::Path};

use kernelet_api::{Registry, names::GroupVersion};
use kernelet_openapi::{Format, OpenApi, discovery};

fn main() -> std::io::Result<()> {
    let folder = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "documents".to_owned());
    let folder = Path::new(&folder);
    fs::create_dir_all(folder)?;
    let registry = Registry::builtin();
    let open_api = OpenApi::new(registry.clone(), "v1.35.0");
    let index = open_api.v3_index();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes);
    write("openapi_v3", index.to_string().as_bytes())?;
    for path in index["paths"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(path, _)| path)
    {
        let name = path.replace('/', "__");
        for (format, ending) in [(Format::Json, "json"), (Format::Protobuf, "pb")] {
            if let Some(document) = open_api.v3(path, format) {
                write(&format!("v3__{name}.{ending}"), &document.plain())?;
            }
        }
    }
    write("v2.json", &open_api.v2(Format::Json).plain())?;
    write("v2.pb", &open_api.v2(Format::Protobuf).plain())?;
    write(
        "api",
        discovery::api_versions(registry, "127.0.0.1:6443")
            .to_string()
            .as_bytes(),
    )?;
    write(
        "apis",
        discovery::api_group_list(registry).to_string().as_bytes(),
    )?;
    write(
        "aggregated_api",
        discovery::aggregated_core(registry).to_string().as_bytes(),
    )?;
    write(
        "aggregated_apis",
        discovery::aggregated_groups(registry)
            .to_string()
            .as_bytes(),
    )?;
    for (group, versions) in registry.groups() {
        if let Some(document) = discovery::api_group(registry, &group) {
            write(&format!("apis__{group}"), document.to_string().as_bytes())?;
        }
        for version in versions {
            let gv = GroupVersion::new(group.as_str(), version.as_str());
            let root = if group.is_empty() {
                "api".to_owned()
            } else {
                format!("apis__{group}")
            };
            if let Some(document) = discovery::api_resource_list(registry, &gv) {
                write(
                    &format!("{root}__{version}"),
                    document.to_string().as_bytes(),
                )?;
            }
        }
    }
    Ok(())
}
