//! Tables: the rows that `kubectl get` prints.
//!
//! Source: `meta.k8s.io/v1` Table in the API reference; the words in cells are upstream's printers'. Which columns a kind
//! has stands in the registry; how a computed cell comes about, here.

mod cells;
mod core;
mod flow;
mod metrics;
mod pod;
mod print;
mod row;
mod workloads;

use jiff::Timestamp;
use kernelet_api::{
    Value,
    resources::{Column, Resource},
};
use serde_json::{Map, json};

use self::row::Row;
pub use self::{cells::human_duration, print::Printer};

/// What a row carries of its object (`?includeObject=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    None,
    #[default]
    Metadata,
    Object,
}

/// One request for a table.
#[derive(Clone, Copy, Debug)]
pub struct TableOptions {
    pub include: IncludeObject,
    /// Ages count from here.
    pub now: Timestamp,
}

/// A Table of `objects`, all of `resource`. `metadata` is the list's (`resourceVersion`, `continue`,
/// `remainingItemCount`), or of a single object its `resourceVersion`.
pub fn table<'o>(
    resource: &Resource,
    objects: impl IntoIterator<Item = &'o Value>,
    metadata: Value,
    options: TableOptions,
) -> Value {
    let mut objects: Vec<&Value> = objects.into_iter().collect();
    if resource.kind == "FlowSchema" {
        flow::sort(&mut objects);
    }
    let rows: Vec<Value> = objects
        .into_iter()
        .map(|object| row(resource, object, options))
        .collect();
    let columns: Vec<Value> = resource.columns.iter().map(definition).collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": columns,
        "rows": rows,
    })
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

fn row(resource: &Resource, object: &Value, options: TableOptions) -> Value {
    let cells = Row::new(object, options.now);
    let cells: Vec<Value> = resource
        .columns
        .iter()
        .map(|column| cells.cell(column))
        .collect();
    let mut row = Map::new();
    row.insert("cells".to_owned(), Value::Array(cells));
    if (resource.group.as_str(), resource.kind.as_str()) == ("", "Pod")
        && let Some(conditions) = pod::conditions(object)
    {
        row.insert("conditions".to_owned(), conditions);
    }
    let included = match options.include {
        IncludeObject::None => Value::Null,
        IncludeObject::Object => object.clone(),
        IncludeObject::Metadata => json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
        }),
    };
    row.insert("object".to_owned(), included);
    Value::Object(row)
}
