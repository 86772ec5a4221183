//! Tables piece by piece, from each object's JSON: of what no cell shows no tree is made, and the metadata that a row
//! carries is copied, not written anew. A list of ten thousand pods spends its time here.

use std::fmt;

use kernelet_api::{
    Value,
    codec::Outline,
    resources::{Cell, Column, Resource},
};
use serde_json::json;

use super::{IncludeObject, TableOptions, definition, pod, row::Row};

/// Prints the objects of one resource, in the order in which they come.
pub struct Printer {
    columns: Vec<Column>,
    /// What the cells are made of; `None` is everything.
    outline: Option<Outline>,
    is_pod: bool,
    options: TableOptions,
}

impl Printer {
    /// `None` for a resource whose rows stand in another order than its objects: see [`super::table`].
    pub fn new(resource: &Resource, options: TableOptions) -> Option<Printer> {
        if resource.kind == "FlowSchema" {
            return None;
        }
        let is_pod = (resource.group.as_str(), resource.kind.as_str()) == ("", "Pod");
        let mut sources = vec!["metadata.name"];
        let known = resource.columns.iter().all(|column| match column.cell {
            Cell::Path(path) | Cell::Age(path) => {
                sources.push(path.trim_start_matches('.'));
                true
            }
            Cell::Computed(name) => match pod::sources(name) {
                Some(paths) => {
                    sources.extend(paths);
                    true
                }
                None => false,
            },
        });
        Some(Printer {
            columns: resource.columns.clone(),
            outline: known.then(|| Outline::of(sources)),
            is_pod,
            options,
        })
    }

    /// The table's text up to its first row. `metadata` is the list's.
    pub fn head(&self, api_version: &str, metadata: &Value) -> String {
        let columns: Vec<Value> = self.columns.iter().map(definition).collect();
        format!(
            "{{\"kind\":\"Table\",\"apiVersion\":{},\"metadata\":{metadata},\"columnDefinitions\":{},\"rows\":[",
            Value::from(api_version),
            Value::Array(columns)
        )
    }

    /// The row of an object, given in compact JSON with its metadata; appended to `out`.
    pub fn row(&self, object: &[u8], out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        let tree = match &self.outline {
            Some(outline) => outline.read(object)?,
            None => serde_json::from_slice(object)?,
        };
        let cells = Row::new(&tree, self.options.now);
        out.extend_from_slice(b"{\"cells\":[");
        for (place, column) in self.columns.iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            serde_json::to_writer(&mut *out, &cells.cell(column))?;
        }
        out.push(b']');
        if self.is_pod
            && let Some(conditions) = pod::conditions(&tree)
        {
            append(out, format_args!(",\"conditions\":{conditions}"));
        }
        out.extend_from_slice(b",\"object\":");
        match self.options.include {
            IncludeObject::None => out.extend_from_slice(b"null"),
            IncludeObject::Object => out.extend_from_slice(object),
            IncludeObject::Metadata => {
                out.extend_from_slice(
                    b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":",
                );
                match member(object, "metadata") {
                    Some(metadata) => out.extend_from_slice(metadata),
                    None => append(out, format_args!("{}", json!({}))),
                }
                out.push(b'}');
            }
        }
        out.push(b'}');
        Ok(())
    }
}

fn append(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    use std::io::Write;
    out.write_fmt(text).expect("writing to memory doesn't fail");
}

/// The text of an object's member with that name, in compact JSON that is known to be well-formed.
fn member<'j>(json: &'j [u8], name: &str) -> Option<&'j [u8]> {
    let (mut depth, mut at) = (0_usize, 0);
    // Where the value of the member that is asked for begins.
    let mut start = None;
    while at < json.len() {
        match json[at] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            b'"' => {
                let text = at + 1;
                at = text;
                while *json.get(at)? != b'"' {
                    at += if json[at] == b'\\' { 2 } else { 1 };
                }
                if depth == 1
                    && start.is_none()
                    && json.get(at + 1) == Some(&b':')
                    && &json[text..at] == name.as_bytes()
                {
                    start = Some(at + 2);
                    at += 1;
                }
            }
            _ => {}
        }
        // A value at the first level ends at the comma behind it, or at the object's end.
        if let Some(start) = start
            && at >= start
            && ((depth == 1 && json[at] == b',') || depth == 0)
        {
            return Some(&json[start..at]);
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_found_whatever_stands_beside_it() {
        let check = |json: &str, expect: Option<&str>| {
            assert_eq!(
                member(json.as_bytes(), "m"),
                expect.map(str::as_bytes),
                "{json}"
            );
        };
        check(r#"{"m":{}}"#, Some("{}"));
        check(
            r#"{"m":{"a":[1,{"b":"}"}]},"z":1}"#,
            Some(r#"{"a":[1,{"b":"}"}]}"#),
        );
        check(
            r#"{"a":"m","b":{"m":1},"c":"\"m\":{","m":"x,}","d":2}"#,
            Some(r#""x,}""#),
        );
        check(r#"{"a":["m",{"m":2}],"m":null}"#, Some("null"));
        check(r#"{"am":1,"m":[],"z":{}}"#, Some("[]"));
        check(r#"{"a":{"m":1}}"#, None);
        check("{}", None);
    }
}
