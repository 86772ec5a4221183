//! Types as JSON schemas, in the dialects of OpenAPI v2 and v3.

use std::collections::BTreeSet;

use kernelet_api::{
    Value,
    schema::{Field, ListType, Schema, Type, TypeId},
};
use serde_json::{Map, json};

use super::{
    descriptions::Descriptions,
    enums::{self, Values},
};

/// The differences between the two.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// References stand alone or have siblings that count; no defaults.
    V2,
    /// References with siblings stand in `allOf`; defaults are given.
    V3,
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

/// Writes schemas and remembers which types they refer to.
pub(super) struct Types<'s> {
    pub schema: &'s Schema,
    pub dialect: Dialect,
    /// Types that were referred to and whose definition is still to be written.
    pending: Vec<Name>,
    seen: BTreeSet<Name>,
    /// The group versions that are served, for the kinds that belong to every group.
    everywhere: Vec<(String, String)>,
    descriptions: &'s Descriptions,
    values: Values<'s>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Object(TypeId),
    /// A type that isn't an object in JSON.
    Scalar(&'static str),
}

impl<'s> Types<'s> {
    pub(super) fn new(
        schema: &'s Schema,
        dialect: Dialect,
        everywhere: Vec<(String, String)>,
        descriptions: &'s Descriptions,
    ) -> Self {
        Self {
            schema,
            dialect,
            pending: Vec::new(),
            seen: BTreeSet::new(),
            everywhere,
            values: descriptions.values(),
            descriptions,
        }
    }

    fn refer(&mut self, name: Name) -> Value {
        if self.seen.insert(name.clone()) {
            self.pending.push(name.clone());
        }
        let text = match &name {
            Name::Object(ty) => &self.schema.get(*ty).name,
            Name::Scalar(text) => *text,
        };
        let prefix = match self.dialect {
            Dialect::V2 => "#/definitions/",
            Dialect::V3 => "#/components/schemas/",
        };
        json!({"$ref": format!("{prefix}{text}")})
    }

    /// A reference to an object type.
    pub(super) fn object(&mut self, ty: TypeId) -> Value {
        self.refer(Name::Object(ty))
    }

    /// A reference to `PATCH`.
    pub(super) fn patch(&mut self) -> Value {
        self.refer(Name::Scalar(PATCH))
    }

    /// The definition of something that was referred to and isn't defined yet, with its name. It may refer to more.
    fn next_definition(&mut self) -> Option<(String, Value)> {
        Some(match self.pending.pop()? {
            Name::Object(ty) => (self.schema.get(ty).name.clone(), self.definition(ty)),
            Name::Scalar(text) => (text.to_owned(), self.scalar_definition(text)),
        })
    }

    /// Every definition, until nothing is left to be defined.
    pub(super) fn definitions(&mut self) -> impl Iterator<Item = (String, Value)> {
        std::iter::from_fn(|| self.next_definition())
    }

    fn definition(&mut self, ty: TypeId) -> Value {
        let schema = self.schema;
        let def = schema.get(ty);
        let mut out = Map::new();
        out.insert("type".to_owned(), json!("object"));
        if let Some(description) = self.descriptions.of_type(&def.name) {
            out.insert("description".to_owned(), json!(description));
        }
        if !def.fields.is_empty() {
            let properties: Map<String, Value> = def
                .fields
                .iter()
                .map(|field| (field.name.clone(), self.property(&def.name, field)))
                .collect();
            out.insert("properties".to_owned(), Value::Object(properties));
        }
        let required: Vec<&str> = def
            .fields
            .iter()
            .filter(|field| field.required)
            .map(|field| field.name.as_str())
            .collect();
        if !required.is_empty() {
            out.insert("required".to_owned(), json!(required));
        }
        if def.atomic {
            out.insert("x-kubernetes-map-type".to_owned(), json!("atomic"));
        }
        if def.preserve_unknown {
            out.insert(
                "x-kubernetes-preserve-unknown-fields".to_owned(),
                json!(true),
            );
        }
        let gvks = self.kinds(def.name.strip_prefix(META), &def.gvks);
        if !gvks.is_empty() {
            out.insert(
                "x-kubernetes-group-version-kind".to_owned(),
                Value::Array(gvks),
            );
        }
        Value::Object(out)
    }

    fn kinds(&self, meta_name: Option<&str>, gvks: &[kernelet_api::Gvk]) -> Vec<Value> {
        match meta_name {
            Some(kind @ ("DeleteOptions" | "WatchEvent")) => self
                .everywhere
                .iter()
                .map(|(group, version)| json!({"group": group, "version": version, "kind": kind}))
                .collect(),
            _ => gvks
                .iter()
                .map(|gvk| json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind}))
                .collect(),
        }
    }

    fn property(&mut self, ty: &str, field: &Field) -> Value {
        let mut schema = self.of_type(&field.ty);
        let values = self.values.of(ty, &field.name);
        if let Some(description) = self.descriptions.of_field(ty, &field.name) {
            let description = match values.is_empty() {
                true => description.to_owned(),
                false => enums::described(description, values),
            };
            schema.insert("description".to_owned(), json!(description));
        }
        if !values.is_empty() {
            schema.insert("enum".to_owned(), json!(enums::names(values)));
        }
        let of_items = self.values.of(ty, &format!("{}[]", field.name));
        if !of_items.is_empty()
            && let Some(items) = schema.get_mut("items").and_then(Value::as_object_mut)
        {
            items.insert("enum".to_owned(), json!(enums::names(of_items)));
        }
        if self.dialect == Dialect::V3 {
            let default = field.default.clone().or_else(|| implied_default(field));
            if let Some(default) = default {
                schema.insert("default".to_owned(), default);
            }
        }
        let list_type = field.list_type.map(|list_type| match list_type {
            ListType::Atomic => "atomic",
            ListType::Set => "set",
            ListType::Map => "map",
        });
        if let Some(list_type) = list_type {
            schema.insert("x-kubernetes-list-type".to_owned(), json!(list_type));
        }
        if !field.list_keys.is_empty() {
            schema.insert(
                "x-kubernetes-list-map-keys".to_owned(),
                json!(field.list_keys),
            );
        }
        if field.atomic {
            schema.insert("x-kubernetes-map-type".to_owned(), json!("atomic"));
        }
        if !field.patch_strategy.is_empty() {
            schema.insert(
                "x-kubernetes-patch-strategy".to_owned(),
                json!(field.patch_strategy.join(",")),
            );
        }
        if let Some(key) = &field.patch_merge_key {
            schema.insert("x-kubernetes-patch-merge-key".to_owned(), json!(key));
        }
        self.beside_others(schema)
    }

    /// v3 knows no siblings of `$ref`: beside others, it stands in `allOf`.
    fn beside_others(&self, mut schema: Map<String, Value>) -> Value {
        if self.dialect == Dialect::V3
            && let Some(reference) = schema.remove("$ref")
        {
            schema.insert("allOf".to_owned(), json!([{"$ref": reference}]));
        }
        Value::Object(schema)
    }

    fn of_type(&mut self, ty: &Type) -> Map<String, Value> {
        let plain = |ty: &str, format: Option<&str>| {
            let mut schema = Map::new();
            schema.insert("type".to_owned(), json!(ty));
            if let Some(format) = format {
                schema.insert("format".to_owned(), json!(format));
            }
            schema
        };
        let mut refer = |name: &'static str| match self.refer(Name::Scalar(name)) {
            Value::Object(map) => map,
            _ => unreachable!("a reference is an object"),
        };
        match ty {
            Type::String => plain("string", None),
            Type::Bool => plain("boolean", None),
            Type::Int32 => plain("integer", Some("int32")),
            Type::Int64 => plain("integer", Some("int64")),
            Type::Double => plain("number", Some("double")),
            Type::Bytes => plain("string", Some("byte")),
            Type::Time => refer("io.k8s.apimachinery.pkg.apis.meta.v1.Time"),
            Type::MicroTime => refer("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime"),
            Type::Duration => refer("io.k8s.apimachinery.pkg.apis.meta.v1.Duration"),
            Type::IntOrString => refer("io.k8s.apimachinery.pkg.util.intstr.IntOrString"),
            Type::Quantity => refer("io.k8s.apimachinery.pkg.api.resource.Quantity"),
            Type::FieldsV1 => refer("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1"),
            Type::RawExtension => refer("io.k8s.apimachinery.pkg.runtime.RawExtension"),
            Type::Any => Map::new(),
            Type::Object(ty) => match self.object(*ty) {
                Value::Object(map) => map,
                _ => unreachable!("a reference is an object"),
            },
            Type::List(element) => {
                let mut schema = plain("array", None);
                let items = self.element(element);
                schema.insert("items".to_owned(), items);
                schema
            }
            Type::StringList => {
                let mut schema = plain("array", None);
                let items = self.element(&Type::String);
                schema.insert("items".to_owned(), items);
                schema
            }
            Type::Map(element) => {
                let mut schema = plain("object", None);
                let values = self.element(element);
                schema.insert("additionalProperties".to_owned(), values);
                schema
            }
        }
    }

    /// The schema of a list's items or a map's values.
    fn element(&mut self, ty: &Type) -> Value {
        let mut schema = self.of_type(ty);
        match zero(ty) {
            Some(zero) if self.dialect == Dialect::V3 => {
                schema.insert("default".to_owned(), zero);
                self.beside_others(schema)
            }
            _ => Value::Object(schema),
        }
    }

    fn scalar_definition(&self, name: &str) -> Value {
        let mut schema = self.scalar_form(name);
        if let Some(description) = self.descriptions.of_type(name) {
            schema["description"] = json!(description);
        }
        schema
    }

    fn scalar_form(&self, name: &str) -> Value {
        let v2 = self.dialect == Dialect::V2;
        match name.rsplit('.').next().unwrap_or(name) {
            "Time" | "MicroTime" => json!({"type": "string", "format": "date-time"}),
            "Duration" => json!({"type": "string"}),
            "IntOrString" if v2 => json!({"type": "string", "format": "int-or-string"}),
            "IntOrString" => {
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
            }
            "Quantity" if v2 => json!({"type": "string"}),
            "Quantity" => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            // FieldsV1, RawExtension, Patch.
            _ => json!({"type": "object"}),
        }
    }
}

/// The zero value that Go writes where a field is never left out.
fn implied_default(field: &Field) -> Option<Value> {
    if field.pointer {
        return None;
    }
    match &field.ty {
        Type::Object(_) => Some(json!({})),
        _ if field.omit_empty => None,
        Type::List(_) | Type::Map(_) | Type::StringList | Type::Bytes => None,
        ty => zero(ty),
    }
}

fn zero(ty: &Type) -> Option<Value> {
    match ty {
        Type::String => Some(json!("")),
        Type::Bool => Some(json!(false)),
        Type::Int32 | Type::Int64 | Type::Double => Some(json!(0)),
        Type::Object(_) => Some(json!({})),
        _ => None,
    }
}
