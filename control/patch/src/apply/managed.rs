//! `metadata.managedFields`: reading it, writing it, its order and its limit.

use std::{collections::BTreeMap, fmt};

use kernelet_api::Value;
use serde_json::{Map, json};

use super::ManagedFieldsError;
use crate::fields::Set;

/// Updaters beyond this many are merged into one entry per version, the oldest first.
const MAX_UPDATERS: usize = 10;
const MERGED_UPDATERS: &str = "ancient-changes";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// Who manages: entries with equal ids are one entry. An applier is the same manager in every version, an updater is
/// another in each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ManagerId {
    pub manager: String,
    pub operation: Operation,
    /// Empty for appliers.
    pub api_version: String,
    /// Empty for the main resource.
    pub subresource: String,
}

impl ManagerId {
    pub(super) fn new(
        manager: &str,
        operation: Operation,
        api_version: &str,
        subresource: &str,
    ) -> Self {
        let api_version = match operation {
            Operation::Apply => String::new(),
            Operation::Update => api_version.to_owned(),
        };
        let manager = if manager.is_empty() {
            "unknown"
        } else {
            manager
        };
        Self {
            manager: manager.to_owned(),
            operation,
            api_version,
            subresource: subresource.to_owned(),
        }
    }
}

/// As conflicts name a manager: `"kubectl-edit" using apps/v1`.
impl fmt::Display for ManagerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.manager)?;
        if !self.subresource.is_empty() {
            write!(f, " with subresource {:?}", self.subresource)?;
        }
        match self.operation {
            Operation::Apply => Ok(()),
            Operation::Update => write!(f, " using {}", self.api_version),
        }
    }
}

/// One manager's fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owned {
    pub set: Set,
    /// The version that the set speaks of.
    pub api_version: String,
    /// RFC 3339 in seconds; absent on entries that clients wrote without one.
    pub time: Option<String>,
}

/// All managers of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Managed(pub BTreeMap<ManagerId, Owned>);

impl Managed {
    /// Reads the managedFields of `object`.
    pub(super) fn of(object: &Value) -> Result<Self, ManagedFieldsError> {
        let entries = match object.pointer("/metadata/managedFields") {
            None | Some(Value::Null) => return Ok(Self::default()),
            Some(Value::Array(entries)) => entries,
            Some(_) => return Err(ManagedFieldsError::NotAList),
        };
        let mut managed = Self::default();
        for (i, entry) in entries.iter().enumerate() {
            let (id, owned) = read_entry(i, entry)?;
            managed.0.insert(id, owned);
        }
        Ok(managed)
    }

    /// Writes the managedFields of `object`; none at all when nobody manages anything.
    pub(super) fn write(&self, object: &mut Value) {
        let mut entries: Vec<(&ManagerId, &Owned)> = self.0.iter().collect();
        entries.sort_by(|(a, x), (b, y)| {
            (
                a.operation,
                &x.time,
                &a.manager,
                &x.api_version,
                &a.subresource,
            )
                .cmp(&(
                    b.operation,
                    &y.time,
                    &b.manager,
                    &y.api_version,
                    &b.subresource,
                ))
        });
        let metadata = kernelet_api::meta::metadata_mut(object);
        if entries.is_empty() {
            metadata.remove("managedFields");
        } else {
            let list = entries
                .into_iter()
                .map(|(id, owned)| write_entry(id, owned))
                .collect();
            metadata.insert("managedFields".to_owned(), Value::Array(list));
        }
    }

    pub(super) fn drop_empty(&mut self) {
        self.0.retain(|_, owned| !owned.set.is_empty());
    }

    /// Merges the oldest updaters until no more than the limit are left.
    pub(super) fn cap_updaters(&mut self) {
        let is_updater = |id: &&ManagerId| id.operation == Operation::Update;
        if self.0.keys().filter(is_updater).count() <= MAX_UPDATERS {
            return;
        }
        let mut updaters: Vec<(Option<String>, ManagerId)> = self
            .0
            .iter()
            .filter(|(id, _)| id.operation == Operation::Update)
            .map(|(id, owned)| (owned.time.clone(), id.clone()))
            .collect();
        updaters.sort();
        let mut left = updaters.len();
        // The first of a version stays where it is until a second one of that version must go.
        let mut first_of: BTreeMap<String, ManagerId> = BTreeMap::new();
        for (time, id) in updaters {
            if left <= MAX_UPDATERS {
                break;
            }
            let version = id.api_version.clone();
            let Some(first) = first_of.get(&version).cloned() else {
                first_of.insert(version, id);
                continue;
            };
            let bucket = ManagerId::new(MERGED_UPDATERS, Operation::Update, &version, "");
            if !self.0.contains_key(&bucket)
                && let Some(owned) = self.0.remove(&first)
            {
                self.0.insert(bucket.clone(), owned);
            }
            if let Some(owned) = self.0.remove(&id)
                && let Some(merged) = self.0.get_mut(&bucket)
            {
                merged.set = merged.set.union(&owned.set);
                merged.time = time;
            }
            left -= 1;
        }
    }
}

fn read_entry(i: usize, entry: &Value) -> Result<(ManagerId, Owned), ManagedFieldsError> {
    let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default();
    let operation = match text("operation") {
        "Apply" => Operation::Apply,
        "Update" => Operation::Update,
        _ => return Err(ManagedFieldsError::Operation),
    };
    let api_version = text("apiVersion");
    if api_version.is_empty() {
        return Err(ManagedFieldsError::NoApiVersion);
    }
    match text("fieldsType") {
        "FieldsV1" => {}
        "" => return Err(ManagedFieldsError::NoFieldsType(i)),
        other => return Err(ManagedFieldsError::FieldsType(other.to_owned(), i)),
    }
    let set = match entry.get("fieldsV1") {
        None | Some(Value::Null) => Set::new(),
        Some(fields) => Set::from_fields(fields)?,
    };
    let time = Some(text("time"))
        .filter(|time| !time.is_empty())
        .map(str::to_owned);
    let mut id = ManagerId::new("", operation, api_version, text("subresource"));
    id.manager = text("manager").to_owned();
    Ok((
        id,
        Owned {
            set,
            api_version: api_version.to_owned(),
            time,
        },
    ))
}

fn write_entry(id: &ManagerId, owned: &Owned) -> Value {
    let mut entry = Map::new();
    if !id.manager.is_empty() {
        entry.insert("manager".to_owned(), json!(id.manager));
    }
    entry.insert("operation".to_owned(), json!(id.operation.as_str()));
    entry.insert("apiVersion".to_owned(), json!(owned.api_version));
    if let Some(time) = &owned.time {
        entry.insert("time".to_owned(), json!(time));
    }
    entry.insert("fieldsType".to_owned(), json!("FieldsV1"));
    entry.insert("fieldsV1".to_owned(), owned.set.to_fields());
    if !id.subresource.is_empty() {
        entry.insert("subresource".to_owned(), json!(id.subresource));
    }
    Value::Object(entry)
}
