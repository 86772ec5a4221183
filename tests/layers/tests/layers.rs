//! The workspace keeps its edges, and a wrong one would be found.

use std::process::Command;

use kernelet_layers::{Edges, violations};

fn edges() -> Edges {
    toml::from_str(include_str!("../edges.toml")).expect("edges.toml parses")
}

/// A crate's name and its dependencies, each with its kind.
type Crate<'a> = (&'a str, &'a [(&'a str, Option<&'a str>)]);

/// A workspace of the given `(crate, [(dependency, kind)])`, as `cargo metadata` would print it.
fn workspace(crates: &[Crate<'_>]) -> String {
    let packages: Vec<_> = crates
        .iter()
        .map(|(name, dependencies)| {
            let dependencies: Vec<_> = dependencies
                .iter()
                .map(|(name, kind)| serde_json::json!({ "name": name, "kind": kind }))
                .collect();
            serde_json::json!({ "id": name, "name": name, "dependencies": dependencies })
        })
        .collect();
    let members: Vec<_> = crates.iter().map(|(name, _)| name).collect();
    serde_json::json!({ "packages": packages, "workspace_members": members }).to_string()
}

fn check(crates: &[Crate<'_>], expect: &[&str]) {
    let mut edges = edges();
    let named: Vec<&str> = crates.iter().map(|(name, _)| *name).collect();
    edges.edges.retain(|name, _| named.contains(&name.as_str()));
    assert_eq!(violations(&edges, &workspace(crates)).unwrap(), expect);
}

/// What cargo tells of this workspace, as JSON.
fn metadata() -> String {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--offline",
        ])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .output()
        .expect("cargo metadata runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("cargo prints text")
}

#[test]
fn the_workspace_keeps_its_edges() {
    let found = violations(&edges(), &metadata()).unwrap();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_wrong_edge_is_found() {
    check(
        &[
            ("kernelet-server", &[("kernelet-sys", None)]),
            ("kernelet-sys", &[]),
        ],
        &["kernelet-server may not depend on kernelet-sys"],
    );
    check(
        &[
            ("kernelet-node", &[("kernelet-netagent", None)]),
            ("kernelet-netagent", &[]),
        ],
        &["kernelet-node may not depend on kernelet-netagent"],
    );
    check(
        &[("kernelet-api", &[("tokio", None)])],
        &["kernelet-api is pure and may not depend on tokio"],
    );
    check(&[("kernelet-api", &[("tokio", Some("dev"))])], &[]);
    check(
        &[
            ("kernelet-client", &[("kernelet-server", Some("dev"))]),
            ("kernelet-server", &[]),
        ],
        &[],
    );
    check(
        &[
            ("kernelet-client", &[("kernelet-server", None)]),
            ("kernelet-server", &[]),
        ],
        &["kernelet-client may not depend on kernelet-server"],
    );
    check(
        &[("kernelet-new", &[])],
        &["kernelet-new is not in edges.toml"],
    );
}

/// What weakens a program, or kills it at a step, is for tests: no crate has it by default, and no crate's dependency
/// on another turns it on but by a feature of the same name.
#[test]
fn what_only_tests_may_have_is_never_a_default() {
    let metadata: serde_json::Value = serde_json::from_str(&metadata()).expect("cargo prints JSON");
    let of_tests = ["weakened", "fault-points"];
    let mut found = 0;
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name");
        let features = package["features"].as_object().expect("features");
        for (feature, turns_on) in features {
            let words: Vec<&str> = turns_on
                .as_array()
                .expect("a list")
                .iter()
                .filter_map(|word| word.as_str())
                .collect();
            for test in of_tests {
                found += u32::from(feature == test);
                let on = words
                    .iter()
                    .any(|word| *word == test || word.ends_with(&format!("/{test}")));
                assert!(
                    !on || feature == test,
                    "{name}'s feature {feature} turns {test} on"
                );
            }
        }
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let on = dependency["features"].as_array().expect("features");
            let on = on
                .iter()
                .any(|word| of_tests.contains(&word.as_str().unwrap_or_default()));
            assert!(!on, "{name} depends on {} with it", dependency["name"]);
        }
    }
    assert!(found >= 5, "{found} features found");
}
