//! Conversion between the versions of one resource.

use crate::{Gvk, Value, meta};
use serde_json::Map;

/// Turns an object of one version into another version of the same resource, apiVersion and kind included.
pub type Converter = fn(from: &Gvk, to: &Gvk, object: Value) -> Result<Value, ConvertError>;

/// No conversion exists between the two.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("converting ({from}) to ({to}): unknown conversion")]
pub struct ConvertError {
    pub from: String,
    pub to: String,
}

impl ConvertError {
    pub fn unknown(from: &Gvk, to: &Gvk) -> Self {
        Self {
            from: format!("{}.{}", from.version, from.kind),
            to: format!("{}.{}", to.version, to.kind),
        }
    }
}

/// Core's field and the field of `events.k8s.io` that holds the same.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// Events are one stored object (core's form) that two groups serve.
pub fn event(from: &Gvk, to: &Gvk, mut object: Value) -> Result<Value, ConvertError> {
    let to_core = match (from.group.as_str(), to.group.as_str()) {
        ("events.k8s.io", "") => true,
        ("", "events.k8s.io") => false,
        _ => return Err(ConvertError::unknown(from, to)),
    };
    if let Some(map) = object.as_object_mut() {
        for (core, events) in EVENT_FIELDS {
            if to_core {
                rename(map, events, core)
            } else {
                rename(map, core, events)
            }
        }
        // What Go always writes in one form and leaves out in the other.
        for field in [
            "eventTime",
            if to_core {
                "regarding"
            } else {
                "involvedObject"
            },
        ] {
            if map.get(field).is_some_and(Value::is_null) {
                map.remove(field);
            }
        }
        if to_core {
            for field in ["reportingComponent", "reportingInstance"] {
                map.entry(field).or_insert_with(|| "".into());
            }
        } else {
            for field in ["reportingController", "reportingInstance", "note"] {
                if map.get(field).and_then(Value::as_str) == Some("") {
                    map.remove(field);
                }
            }
        }
    }
    meta::set_gvk(&mut object, to);
    Ok(object)
}

fn rename(map: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = map.remove(from) {
        map.insert(to.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Registry;
    use serde_json::json;

    #[test]
    fn an_event_survives_the_way_to_the_other_group_and_back() {
        let events = Registry::builtin()
            .by_resource("events.k8s.io", "events")
            .unwrap();
        let core = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "a"}, "involvedObject": {"kind": "Pod"},
            "message": "m", "source": {"component": "c"}, "count": 3, "reportingComponent": "", "reportingInstance": ""});
        let other = events
            .convert(core.clone(), &Gvk::new("events.k8s.io", "v1", "Event"))
            .unwrap();
        assert_eq!(other["regarding"]["kind"], "Pod");
        assert_eq!(other["note"], "m");
        assert_eq!(other["deprecatedCount"], 3);
        assert_eq!(
            events.convert(other, &Gvk::new("", "v1", "Event")).unwrap(),
            core
        );
        let error = events
            .convert(core, &Gvk::new("", "v2", "Event"))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "converting (v1.Event) to (v2.Event): unknown conversion"
        );
    }
}
