//! Holds the workspace's dependency edges against `edges.toml`.
//!
//! Pure: takes the two texts (the edges, and what `cargo metadata` printed) and answers with every violation.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// `edges.toml`, read.
#[derive(Debug, Deserialize)]
pub struct Edges {
    /// Crates that may not reach the outside world.
    pub pure: BTreeSet<String>,
    /// What they may therefore not depend on.
    pub impure: BTreeSet<String>,
    /// Crate → those of ours it may depend on; `*` is all.
    pub edges: BTreeMap<String, BTreeSet<String>>,
    /// The same for what its tests may add.
    #[serde(default)]
    pub dev: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

/// Every way in which the workspace of `metadata` (from `cargo metadata --no-deps`) breaks `edges`,
/// as sentences, sorted.
pub fn violations(edges: &Edges, metadata: &str) -> Result<Vec<String>, serde_json::Error> {
    let metadata: Metadata = serde_json::from_str(metadata)?;
    let ours: Vec<&Package> = metadata
        .packages
        .iter()
        .filter(|package| metadata.workspace_members.contains(&package.id))
        .collect();
    let names: BTreeSet<&str> = ours.iter().map(|package| package.name.as_str()).collect();
    let none = BTreeSet::new();
    let mut found = BTreeSet::new();
    for package in &ours {
        let name = &package.name;
        let Some(allowed) = edges.edges.get(name) else {
            found.insert(format!("{name} is not in edges.toml"));
            continue;
        };
        let dev = edges.dev.get(name).unwrap_or(&none);
        for dependency in &package.dependencies {
            let to = &dependency.name;
            let is_dev = dependency.kind.as_deref() == Some("dev");
            let may = allowed.contains("*") || allowed.contains(to) || (is_dev && dev.contains(to));
            if names.contains(to.as_str()) && !may {
                found.insert(format!("{name} may not depend on {to}"));
            }
            if !is_dev && edges.pure.contains(name) && edges.impure.contains(to) {
                found.insert(format!("{name} is pure and may not depend on {to}"));
            }
        }
    }
    for name in edges
        .edges
        .keys()
        .filter(|name| !names.contains(name.as_str()))
    {
        found.insert(format!(
            "edges.toml names {name}, which is not in the workspace"
        ));
    }
    Ok(found.into_iter().collect())
}
