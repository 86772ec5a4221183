//! Tables: the rows that `kubectl get` prints.
//!
//! Source: `meta.k8s.io/v1` Table in the API reference; the columns and words are upstream's printers'. The columns of
//! built-in kinds stand in [`layout`]; a resource that brings columns of its own (a CRD) is printed by those.

mod cells;
mod core;
mod layout;
mod pod;
mod workloads;

use jiff::Timestamp;
use kernelet_api::{
    Value,
    resources::{Cell, Resource},
};
use serde_json::{Map, json};

use self::layout::{Layout, layout};
pub use cells::human_duration;

/// What a row carries of its object (`?includeObject=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    None,
    #[default]
    Metadata,
    Object,
}

/// The version of `meta.k8s.io` that the client asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TableVersion {
    #[default]
    V1,
    V1beta1,
}

/// Whether the table says what its columns are; a watch does so in its first event only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Headers {
    #[default]
    Given,
    Omitted,
}

/// One request for a table.
#[derive(Clone, Copy, Debug)]
pub struct TableOptions {
    pub include: IncludeObject,
    pub version: TableVersion,
    pub headers: Headers,
    /// Ages count from here.
    pub now: Timestamp,
}

impl TableOptions {
    pub fn new(now: Timestamp) -> Self {
        Self {
            include: IncludeObject::default(),
            version: TableVersion::default(),
            headers: Headers::default(),
            now,
        }
    }
}

/// A column, as the table's definitions give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    pub ty: &'static str,
    pub format: &'static str,
    pub description: &'static str,
    /// 0 in the default view, 1 with `-o wide`.
    pub priority: i32,
}

/// A Table of `objects`, all of `resource`. `metadata` is the list's (`resourceVersion`, `continue`,
/// `remainingItemCount`), or of a single object its `resourceVersion`.
pub fn table<'o>(
    resource: &Resource,
    objects: impl IntoIterator<Item = &'o Value>,
    metadata: Value,
    options: TableOptions,
) -> Value {
    let printer = Printer::of(resource);
    let api_version = match options.version {
        TableVersion::V1 => "meta.k8s.io/v1",
        TableVersion::V1beta1 => "meta.k8s.io/v1beta1",
    };
    let rows: Vec<Value> = objects
        .into_iter()
        .map(|object| {
            let mut row = Map::new();
            row.insert(
                "cells".to_owned(),
                Value::Array(printer.cells(object, options.now)),
            );
            if let Some(conditions) = printer.conditions(object) {
                row.insert("conditions".to_owned(), conditions);
            }
            match options.include {
                IncludeObject::None => row.insert("object".to_owned(), Value::Null),
                IncludeObject::Object => row.insert("object".to_owned(), object.clone()),
                IncludeObject::Metadata => row.insert(
                    "object".to_owned(),
                    json!({
                        "kind": "PartialObjectMetadata",
                        "apiVersion": api_version,
                        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
                    }),
                ),
            };
            Value::Object(row)
        })
        .collect();
    let columns = match options.headers {
        Headers::Given => printer.columns().iter().map(definition).collect(),
        Headers::Omitted => Value::Array(Vec::new()),
    };
    json!({
        "kind": "Table",
        "apiVersion": api_version,
        "metadata": metadata,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

/// The columns that [`table`] prints for `resource`.
pub fn columns(resource: &Resource) -> Vec<Column> {
    Printer::of(resource).columns()
}

fn definition(column: &Column) -> Value {
    json!({
        "name": column.name,
        "type": column.ty,
        "format": column.format,
        "description": column.description,
        "priority": column.priority,
    })
}

/// How the objects of a resource are printed.
enum Printer<'r> {
    Builtin(&'static Layout),
    Own(&'r Resource),
}

impl<'r> Printer<'r> {
    fn of(resource: &'r Resource) -> Self {
        match layout(&resource.group, &resource.kind) {
            Some(layout) => Self::Builtin(layout),
            None => Self::Own(resource),
        }
    }

    fn columns(&self) -> Vec<Column> {
        match self {
            Self::Builtin(layout) => layout.columns.to_vec(),
            Self::Own(resource) if resource.columns.is_empty() => layout::NAME_AND_AGE.to_vec(),
            Self::Own(resource) => resource
                .columns
                .iter()
                .map(|column| Column {
                    name: column.name,
                    ty: column.ty,
                    format: column.format,
                    description: column.description,
                    priority: column.priority,
                })
                .collect(),
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        match self {
            Self::Builtin(layout) => (layout.cells)(object, now),
            Self::Own(resource) if resource.columns.is_empty() => {
                vec![cells::name(object), cells::age(object, now)]
            }
            Self::Own(resource) => resource
                .columns
                .iter()
                .map(|column| match column.cell {
                    Cell::Path(path) => cells::at(object, path).cloned().unwrap_or(Value::Null),
                    Cell::Age(path) => cells::since(cells::at(object, path), now).into(),
                    // Named functions belong to built-in kinds, which have a layout.
                    Cell::Computed(_) => Value::Null,
                })
                .collect(),
        }
    }

    fn conditions(&self, object: &Value) -> Option<Value> {
        match self {
            Self::Builtin(layout) => layout.conditions.and_then(|conditions| conditions(object)),
            Self::Own(_) => None,
        }
    }
}
