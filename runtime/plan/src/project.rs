//! Which files a configMap, secret, projected or downwardAPI volume holds.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Secret};

use crate::{
    Wanted,
    fields::{self, FieldError, RuntimeFields},
};

/// One file of a volume.
#[derive(Clone, PartialEq, Eq)]
pub struct FileContent {
    pub bytes: Vec<u8>,
    pub mode: u32,
}

impl std::fmt::Debug for FileContent {
    /// Without the bytes: they may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileContent")
            .field("len", &self.bytes.len())
            .field("mode", &self.mode)
            .finish()
    }
}

/// A volume's files by their path below it.
pub type Payload = BTreeMap<String, FileContent>;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProjectError {
    #[error("{kind} non-existent {key_kind} key: {key}")]
    NoKey {
        kind: &'static str,
        key_kind: &'static str,
        key: String,
    },
    #[error("path {0:?} leads out of the volume")]
    Path(String),
    #[error(transparent)]
    Field(#[from] FieldError),
}

/// A configMap's files.
pub fn config_map(
    map: &ConfigMap,
    items: Option<&[KeyToPath]>,
    mode: u32,
    optional: bool,
) -> Result<Payload, ProjectError> {
    let text = map
        .data
        .iter()
        .flatten()
        .map(|(k, v)| (k.as_str(), v.as_bytes()));
    let binary = map
        .binary_data
        .iter()
        .flatten()
        .map(|(k, v)| (k.as_str(), v.0.as_slice()));
    pick(
        text.chain(binary).collect(),
        items,
        mode,
        optional,
        ("configmap references", "config"),
    )
}

/// A secret's files.
pub fn secret(
    secret: &Secret,
    items: Option<&[KeyToPath]>,
    mode: u32,
    optional: bool,
) -> Result<Payload, ProjectError> {
    let data = secret
        .data
        .iter()
        .flatten()
        .map(|(k, v)| (k.as_str(), v.0.as_slice()));
    pick(
        data.collect(),
        items,
        mode,
        optional,
        ("references", "secret"),
    )
}

fn pick(
    data: BTreeMap<&str, &[u8]>,
    items: Option<&[KeyToPath]>,
    mode: u32,
    optional: bool,
    (kind, key_kind): (&'static str, &'static str),
) -> Result<Payload, ProjectError> {
    let mut payload = Payload::new();
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        for (key, bytes) in data {
            payload.insert(
                safe(key)?,
                FileContent {
                    bytes: bytes.to_vec(),
                    mode,
                },
            );
        }
        return Ok(payload);
    };
    for item in items {
        match data.get(item.key.as_str()) {
            Some(bytes) => {
                let mode = item.mode.map_or(mode, i32::unsigned_abs);
                payload.insert(
                    safe(&item.path)?,
                    FileContent {
                        bytes: bytes.to_vec(),
                        mode,
                    },
                );
            }
            None if optional => {}
            None => {
                return Err(ProjectError::NoKey {
                    kind,
                    key_kind,
                    key: item.key.clone(),
                });
            }
        }
    }
    Ok(payload)
}

/// Downward API files. Resources name their container; there is no own one in a volume.
pub fn downward(
    wanted: &Wanted,
    items: &[DownwardAPIVolumeFile],
    mode: u32,
    now: &RuntimeFields<'_>,
) -> Result<Payload, ProjectError> {
    let nobody = k8s_openapi::api::core::v1::Container::default();
    let mut payload = Payload::new();
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(selector), _) => fields::field(wanted, selector, now)?,
            (None, Some(selector)) => fields::resource(wanted, &nobody, selector)?,
            (None, None) => String::new(),
        };
        let mode = item.mode.map_or(mode, i32::unsigned_abs);
        payload.insert(
            safe(&item.path)?,
            FileContent {
                bytes: text.into_bytes(),
                mode,
            },
        );
    }
    Ok(payload)
}

/// A path that stays in the volume; the API refuses others, and a key is never trusted all the same.
pub fn safe(path: &str) -> Result<String, ProjectError> {
    let parts: Vec<&str> = path
        .split('/')
        .filter(|p| !p.is_empty() && *p != ".")
        .collect();
    let escapes =
        path.starts_with('/') || parts.is_empty() || parts.contains(&"..") || path.contains('\0');
    // `..data` and its like belong to the writer.
    if escapes || parts[0].starts_with("..") {
        return Err(ProjectError::Path(path.to_owned()));
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_volume_holds_all_keys_or_the_chosen_ones_with_their_modes() {
        let map: ConfigMap = serde_json::from_value(
            json!({"data": {"a": "1", "b": "2"}, "binaryData": {"c": "AAE="}}),
        )
        .expect("a map");
        let all = config_map(&map, None, 0o644, false).expect("all keys");
        assert_eq!(all.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(all["c"].bytes, [0, 1]);
        let item = |key: &str, path: &str, mode| KeyToPath {
            key: key.to_owned(),
            path: path.to_owned(),
            mode,
        };
        let chosen = config_map(&map, Some(&[item("a", "x/y", Some(0o400))]), 0o644, false)
            .expect("one key");
        assert_eq!(
            chosen["x/y"],
            FileContent {
                bytes: b"1".to_vec(),
                mode: 0o400
            }
        );
        let error =
            config_map(&map, Some(&[item("z", "z", None)]), 0o644, false).expect_err("no such key");
        assert_eq!(
            error.to_string(),
            "configmap references non-existent config key: z"
        );
        assert!(
            config_map(&map, Some(&[item("z", "z", None)]), 0o644, true)
                .expect("optional")
                .is_empty()
        );
        let secret_value: Secret = serde_json::from_value(json!({"data": {}})).expect("a secret");
        let error = secret(&secret_value, Some(&[item("z", "z", None)]), 0o644, false)
            .expect_err("no such key");
        assert_eq!(error.to_string(), "references non-existent secret key: z");
    }

    #[test]
    fn no_path_leads_out_of_the_volume() {
        for path in [
            "..",
            "../x",
            "a/../../b",
            "/etc",
            "",
            "..data",
            "..2024/x",
            "a\0b",
        ] {
            assert_eq!(
                safe(path),
                Err(ProjectError::Path(path.to_owned())),
                "{path:?}"
            );
        }
        assert_eq!(safe("a//b/./c").as_deref(), Ok("a/b/c"));
    }
}
