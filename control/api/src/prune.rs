//! Removing what the schema does not know, and bringing a tree into the form that upstream's structs would give it.

use crate::{Field, Schema, Type, TypeId, Value};
use serde_json::Map;

/// Removes fields that the schema does not know and nulls, at every depth.
pub fn prune(schema: &Schema, ty: TypeId, value: &mut Value) {
    prune_as(schema, &Type::Object(ty), value);
}

fn prune_as(schema: &Schema, ty: &Type, value: &mut Value) {
    match (ty, value) {
        (Type::Object(id), Value::Object(map)) => {
            let def = schema.get(*id);
            map.retain(|name, value| {
                if value.is_null() {
                    return false;
                }
                match def.field(name) {
                    Some(field) => {
                        prune_as(schema, &field.ty, value);
                        true
                    }
                    None => def.preserve_unknown,
                }
            });
        }
        (Type::List(inner), Value::Array(list)) => list
            .iter_mut()
            .for_each(|item| prune_as(schema, inner, item)),
        (Type::Map(inner), Value::Object(map)) => map
            .values_mut()
            .for_each(|item| prune_as(schema, inner, item)),
        _ => {}
    }
}

/// Brings a tree into the form that a decode into and an encode from upstream's Go structs gives: empty optional
/// values disappear, fields that Go always writes are there. Equal objects become equal trees.
///
/// A list, map or time that Go writes as `null` is absent; see [`write_nulls`].
pub fn canonicalize(schema: &Schema, ty: TypeId, value: &mut Value) {
    canonicalize_as(schema, &Type::Object(ty), value);
}

fn canonicalize_as(schema: &Schema, ty: &Type, value: &mut Value) {
    match (ty, value) {
        (Type::Object(id), Value::Object(map)) => {
            for field in &schema.get(*id).fields {
                match map.get_mut(&field.name) {
                    Some(value) => {
                        canonicalize_as(schema, &field.ty, value);
                        if value.is_null()
                            || (field.omit_empty && !field.pointer && is_zero(&field.ty, value))
                        {
                            map.remove(&field.name);
                        }
                    }
                    None if !field.omit_empty && !field.pointer => {
                        if let Some(mut zero) = always_written(&field.ty) {
                            canonicalize_as(schema, &field.ty, &mut zero);
                            map.insert(field.name.clone(), zero);
                        }
                    }
                    None => {}
                }
            }
        }
        (Type::List(inner), Value::Array(list)) => list
            .iter_mut()
            .for_each(|item| canonicalize_as(schema, inner, item)),
        (Type::Map(inner), Value::Object(map)) => map
            .values_mut()
            .for_each(|item| canonicalize_as(schema, inner, item)),
        _ => {}
    }
}

/// Adds to a canonical tree the nulls that Go's encoder writes, as clients are shown them.
pub fn write_nulls(schema: &Schema, ty: TypeId, value: &mut Value) {
    write_nulls_as(schema, &Type::Object(ty), value);
}

fn write_nulls_as(schema: &Schema, ty: &Type, value: &mut Value) {
    match (ty, value) {
        (Type::Object(id), Value::Object(map)) => {
            for field in &schema.get(*id).fields {
                match map.get_mut(&field.name) {
                    Some(value) => write_nulls_as(schema, &field.ty, value),
                    None if is_written_as_null(field) => {
                        map.insert(field.name.clone(), Value::Null);
                    }
                    None => {}
                }
            }
        }
        (Type::List(inner), Value::Array(list)) => list
            .iter_mut()
            .for_each(|item| write_nulls_as(schema, inner, item)),
        (Type::Map(inner), Value::Object(map)) => map
            .values_mut()
            .for_each(|item| write_nulls_as(schema, inner, item)),
        _ => {}
    }
}

/// Whether Go writes `null` where this plain field has no value. A time is a struct, which `omitempty` does not leave
/// out; only the metadata's says `omitzero`.
fn is_written_as_null(field: &Field) -> bool {
    if field.pointer {
        return false;
    }
    match field.ty {
        Type::Time | Type::MicroTime => field.name != "creationTimestamp",
        Type::List(_) | Type::StringList | Type::Map(_) | Type::Bytes => !field.omit_empty,
        _ => false,
    }
}

/// The zero value of a type that Go writes for a plain field without `omitempty`.
fn always_written(ty: &Type) -> Option<Value> {
    Some(match ty {
        Type::Object(_) => Value::Object(Map::new()),
        Type::String => "".into(),
        Type::Bool => false.into(),
        Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString => 0.into(),
        Type::Quantity => "0".into(),
        _ => return None,
    })
}

/// Whether Go's `omitempty` leaves the value out.
pub(crate) fn is_zero(ty: &Type, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Bool(b) => !b,
        Value::Number(n) => !matches!(ty, Type::IntOrString) && n.as_f64() == Some(0.0),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty() && matches!(ty, Type::Map(_)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Gvk;
    use serde_json::json;

    fn check(kind: &str, input: Value, expect: Value) {
        let schema = Schema::builtin();
        let ty = schema.by_gvk(&Gvk::new("", "v1", kind)).unwrap();
        let mut value = input;
        prune(schema, ty, &mut value);
        canonicalize(schema, ty, &mut value);
        assert_eq!(value, expect);
        let again = value.clone();
        canonicalize(schema, ty, &mut value);
        assert_eq!(value, again, "a canonical tree stays as it is");
    }

    #[test]
    fn empty_values_vanish_and_pointers_keep_their_zero() {
        check(
            "ConfigMap",
            json!({"metadata": {"name": "a", "labels": {}, "generateName": "", "x": 1}, "immutable": false, "data": {"k": ""}}),
            json!({"metadata": {"name": "a"}, "immutable": false, "data": {"k": ""}}),
        );
    }

    #[test]
    fn times_and_lists_that_go_writes_as_null_are_null() {
        let check = |kind: &str, mut value: Value, expect: Value| {
            let schema = Schema::builtin();
            let ty = schema.by_gvk(&Gvk::new("", "v1", kind)).unwrap();
            canonicalize(schema, ty, &mut value);
            let canonical = value.clone();
            write_nulls(schema, ty, &mut value);
            assert_eq!(value, expect);
            prune(schema, ty, &mut value);
            assert_eq!(value, canonical, "pruning takes them out again");
        };
        check(
            "Event",
            json!({"metadata": {"name": "e", "creationTimestamp": null}, "involvedObject": {}}),
            json!({"metadata": {"name": "e"}, "involvedObject": {}, "eventTime": null, "firstTimestamp": null,
                "lastTimestamp": null, "source": {}, "reportingComponent": "", "reportingInstance": ""}),
        );
        check(
            "Pod",
            json!({"spec": {}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
            json!({"metadata": {}, "spec": {"containers": null}, "status": {"conditions": [
                {"type": "Ready", "status": "True", "lastProbeTime": null, "lastTransitionTime": null}]}}),
        );
    }

    #[test]
    fn structs_that_go_always_writes_are_written() {
        check(
            "Service",
            json!({"spec": {"ports": [{"port": 80}], "selector": {}}}),
            json!({"metadata": {}, "spec": {"ports": [{"port": 80, "targetPort": 0}]}, "status": {"loadBalancer": {}}}),
        );
    }
}
