//! Upstream's own fixtures: every kind that is served, every field filled, as `.json`, `.yaml` and `.pb`.
//!
//! `KERNELET_FIXTURES` names the folder (`testdata/HEAD` of the Go module `k8s.io/api`); nothing is fetched here.

use kernelet_api::{
    Gvk, Schema, Value, codec, codec::FieldValidation, codec::Format, names::GroupVersion, prune,
};
use std::{env, fs, path::PathBuf};

fn fixtures() -> Option<PathBuf> {
    match env::var_os("KERNELET_FIXTURES") {
        Some(folder) => Some(folder.into()),
        None => {
            eprintln!(
                "SKIP fixtures: KERNELET_FIXTURES names no folder with upstream's testdata/HEAD"
            );
            None
        }
    }
}

/// `apps.v1.Deployment.json` → its kind.
fn kinds(folder: &PathBuf) -> Vec<(Gvk, String)> {
    let schema = Schema::builtin();
    let mut found = vec![];
    for entry in fs::read_dir(folder).expect("KERNELET_FIXTURES can be listed") {
        let name = entry
            .expect("the folder can be read")
            .file_name()
            .into_string()
            .expect("fixture names are ASCII");
        let Some(stem) = name.strip_suffix(".json") else {
            continue;
        };
        if stem.contains(".after_roundtrip") {
            continue;
        }
        let mut parts: Vec<&str> = stem.split('.').collect();
        let (kind, version) = (parts.pop().unwrap(), parts.pop().unwrap());
        let group = if parts == ["core"] {
            String::new()
        } else {
            parts.join(".")
        };
        let gvk = GroupVersion::new(group, version).with_kind(kind);
        // A WatchEvent says no kind of its own, so it can't be told from its bytes.
        if schema
            .by_gvk(&gvk)
            .is_some_and(|ty| schema.get(ty).field("kind").is_some())
        {
            found.push((gvk, stem.to_owned()));
        }
    }
    found.sort();
    found
}

#[test]
fn every_kind_survives_json_yaml_and_protobuf_and_all_three_say_the_same() {
    let Some(folder) = fixtures() else { return };
    let schema = Schema::builtin();
    let kinds = kinds(&folder);
    assert!(
        kinds.len() >= 30,
        "{} holds fixtures of only {} of our kinds",
        folder.display(),
        kinds.len()
    );
    let mut exact = 0;
    for (gvk, stem) in &kinds {
        let read = |ext: &str| {
            fs::read(folder.join(format!("{stem}.{ext}"))).expect("each fixture has three forms")
        };
        let decode = |format, bytes: &[u8]| {
            codec::decode(schema, format, bytes, gvk, FieldValidation::Warn)
                .unwrap_or_else(|e| panic!("{stem} {format:?}: {e}"))
        };
        let (json, yaml, pb) = (read("json"), read("yaml"), read("pb"));
        let codec::Decoded {
            value, warnings, ..
        } = decode(Format::Json, &json);
        let mut raw: Value = serde_json::from_slice(&json).unwrap();
        prune::prune(schema, schema.by_gvk(gvk).unwrap(), &mut raw);
        assert_eq!(value, raw, "{stem}: nothing is lost or changed by decoding");
        assert_eq!(decode(Format::Yaml, &yaml).value, value, "{stem}.yaml");
        assert_eq!(decode(Format::Protobuf, &pb).value, value, "{stem}.pb");
        assert_eq!(
            decode(Format::Yaml, &codec::encode_yaml(&value)).value,
            value,
            "{stem} through YAML"
        );
        let encoded = codec::encode_protobuf(schema, &value).expect("the kind is known");
        // Fixtures of another release have fields that we drop.
        if warnings.is_empty() {
            assert_eq!(
                encoded, pb,
                "{stem}: our protobuf is upstream's, byte for byte"
            );
            exact += 1;
        } else {
            assert_eq!(
                decode(Format::Protobuf, &encoded).value,
                value,
                "{stem} through protobuf"
            );
        }
    }
    assert!(
        exact >= 20,
        "only {exact} kinds are of a release that we know"
    );
    println!("{} kinds, {exact} of them byte for byte", kinds.len());
}

#[test]
fn each_served_kind_has_a_fixture() {
    let Some(folder) = fixtures() else { return };
    let have: Vec<Gvk> = kinds(&folder).into_iter().map(|(gvk, _)| gvk).collect();
    let resources = kernelet_api::Registry::builtin().resources();
    // `k8s.io/metrics` has no fixtures.
    for resource in resources.filter(|r| r.group != "metrics.k8s.io") {
        for version in &resource.versions {
            let gvk = resource.gvk(&version.name);
            assert!(
                have.contains(&gvk),
                "no fixture of {gvk:?} in {}",
                folder.display()
            );
        }
    }
}
