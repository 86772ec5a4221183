//! Kernel settings that are changed, and given back.
//!
//! Before a value is changed, the old one is on disk (below `/run`, which lives as long as the setting);
//! giving back touches only what still has our value: who changed it since meant that.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::LinkError;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Change {
    old: String,
    ours: String,
}

/// The record of one instance.
#[derive(Debug)]
pub struct Sysctls {
    record: PathBuf,
    changes: BTreeMap<String, Change>,
}

impl Sysctls {
    /// `record`: the file, made with the first change.
    pub fn open(record: &Path) -> Result<Self, LinkError> {
        let changes = match fs::read(record) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| {
                LinkError::new(
                    format!("read the record of changed settings {}", record.display()),
                    io::Error::from(source),
                )
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => {
                let what = format!("read the record of changed settings {}", record.display());
                return Err(LinkError::new(what, source));
            }
        };
        Ok(Self {
            record: record.into(),
            changes,
        })
    }

    /// Sets `net/ipv4/…` to `value`, if it isn't that already.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), LinkError> {
        let path = Path::new("/proc/sys").join(key);
        let old = read(&path)?;
        if old == value {
            return Ok(());
        }
        // The first old value is the one to give back.
        let change = Change {
            old,
            ours: value.into(),
        };
        self.changes
            .entry(key.into())
            .and_modify(|known| known.ours = value.into())
            .or_insert(change);
        self.save()?;
        fs::write(&path, value).map_err(|source| {
            LinkError::new(format!("write {value} to {}", path.display()), source)
        })
    }

    /// Gives everything back and forgets it; goes on past errors.
    pub fn restore(&mut self) -> Vec<LinkError> {
        let mut errors = Vec::new();
        for (key, change) in std::mem::take(&mut self.changes) {
            let path = Path::new("/proc/sys").join(&key);
            let result = read(&path).and_then(|now| {
                if now != change.ours {
                    return Ok(());
                }
                fs::write(&path, &change.old).map_err(|source| {
                    LinkError::new(
                        format!("write {} to {}", change.old, path.display()),
                        source,
                    )
                })
            });
            match result {
                // The link is gone, and its settings with it.
                Err(error) if error.source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => errors.push(error),
                Ok(()) => {}
            }
        }
        if let Err(source) = fs::remove_file(&self.record)
            && source.kind() != io::ErrorKind::NotFound
        {
            errors.push(LinkError::new(
                format!("remove {}", self.record.display()),
                source,
            ));
        }
        errors
    }

    fn save(&self) -> Result<(), LinkError> {
        let error = |source| {
            LinkError::new(
                format!("write the record {}", self.record.display()),
                source,
            )
        };
        let fresh = self.record.with_extension("new");
        let bytes = serde_json::to_vec(&self.changes).map_err(|source| error(source.into()))?;
        if let Some(folder) = self.record.parent() {
            fs::create_dir_all(folder).map_err(error)?;
        }
        fs::write(&fresh, bytes).map_err(error)?;
        fs::rename(&fresh, &self.record).map_err(error)
    }
}

fn read(path: &Path) -> Result<String, LinkError> {
    fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .map_err(|source| LinkError::new(format!("read {}", path.display()), source))
}
