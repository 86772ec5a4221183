//! The object that a create starts from.

use kernelet_api::{
    Value,
    schema::{Schema, Type, TypeId},
};
use serde_json::{Map, json};

/// An empty object of the type, as Go would print it: structs that are held by value are there, and so are lists and
/// texts that are never left out. What a create finds there it doesn't *add*: it owns `spec.replicas`, not `spec`.
pub(super) fn blank(schema: &Schema, ty: TypeId) -> Value {
    let mut map = Map::new();
    fill(schema, ty, &mut map, &mut vec![ty]);
    Value::Object(map)
}

fn fill(schema: &Schema, ty: TypeId, map: &mut Map<String, Value>, above: &mut Vec<TypeId>) {
    for field in &schema.get(ty).fields {
        let zero = match &field.ty {
            Type::Object(inner) if !field.pointer && !above.contains(inner) => {
                let mut zero = Map::new();
                above.push(*inner);
                fill(schema, *inner, &mut zero, above);
                above.pop();
                Value::Object(zero)
            }
            _ if field.omit_empty => continue,
            _ if field.pointer => Value::Null,
            Type::List(_) | Type::Map(_) | Type::Object(_) | Type::StringList => Value::Null,
            Type::String => json!(""),
            Type::Int32 | Type::Int64 | Type::Double => json!(0),
            Type::Bool => json!(false),
            _ => Value::Null,
        };
        map.insert(field.name.clone(), zero);
    }
}
