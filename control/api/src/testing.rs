//! A test-only kind with two versions and a conversion: `Widget` of `test.kernelet.io`, served as v1 (stored) and
//! v1beta1. v1beta1 has `spec.colour` where v1 has `spec.color`, and counts in dozens.

use crate::{
    Field, FieldError, Gvk, Registry, Resource, Type, Value,
    convert::ConvertError,
    meta,
    resources::{Cell, Column, Hooks, NameRule, Storage, Subresource, Verb, Version},
    schema::{ListType, ProtoField, SchemaBuilder, TypeDef},
    strategy::Strategy,
};

pub const GROUP: &str = "test.kernelet.io";

/// The built-in registry and `widgets`.
pub fn registry() -> Registry {
    let builtin = Registry::builtin();
    let schema = builtin.schema.extend(|builder| {
        define(builder, "v1", "color", "count");
        define(builder, "v1beta1", "colour", "dozens");
    });
    let version = |name: &str| Version {
        name: name.to_owned(),
        ty: schema
            .by_gvk(&Gvk::new(GROUP, name, "Widget"))
            .expect("defined above"),
    };
    let widgets = Resource {
        group: GROUP.to_owned(),
        plural: "widgets".to_owned(),
        singular: "widget".to_owned(),
        kind: "Widget".to_owned(),
        list_kind: "WidgetList".to_owned(),
        short_names: vec!["wd".to_owned()],
        categories: vec![],
        namespaced: true,
        versions: vec![version("v1"), version("v1beta1")],
        storage: Storage::Stored {
            gvk: Gvk::new(GROUP, "v1", "Widget"),
            group: GROUP.to_owned(),
            resource: "widgets".to_owned(),
        },
        verbs: vec![
            Verb::Create,
            Verb::Delete,
            Verb::DeleteCollection,
            Verb::Get,
            Verb::List,
            Verb::Patch,
            Verb::Update,
            Verb::Watch,
        ],
        subresources: vec![Subresource {
            name: "status".to_owned(),
            gvk: Gvk::new(GROUP, "v1", "Widget"),
            verbs: vec![Verb::Get, Verb::Patch, Verb::Update],
        }],
        columns: vec![Column {
            name: "Name",
            ty: "string",
            format: "name",
            description: "The widget's name.",
            priority: 0,
            cell: Cell::Path("metadata.name"),
        }],
        selectable_fields: vec!["metadata.name", "metadata.namespace"],
        converter: Some(convert),
        hooks: Hooks {
            default,
            validate,
            validate_update: |new, _| validate(new),
            ..Hooks::none(
                NameRule::DnsSubdomain,
                Strategy {
                    status: true,
                    generation: true,
                    graceful: false,
                    create_on_update: false,
                    unconditional_update: true,
                    orphans_dependents: false,
                },
            )
        },
    };
    builtin.with(schema, vec![widgets])
}

fn define(builder: &mut SchemaBuilder, version: &str, color: &str, count: &str) {
    let name = |what: &str| format!("io.kernelet.test.{version}.{what}");
    let go = |what: &str| format!("{version}.{what}");
    let proto = |number| {
        Some(ProtoField {
            number,
            inside: None,
        })
    };
    let field = |name: &str, ty, number, go: &str| Field {
        proto: proto(number),
        go_type: go.to_owned(),
        ..Field::new(name, ty)
    };
    let spec = builder.declare(&name("WidgetSpec"));
    builder.define(TypeDef::new(
        &name("WidgetSpec"),
        &go("WidgetSpec"),
        vec![
            field(color, Type::String, 1, "string"),
            Field {
                pointer: true,
                ..field(count, Type::Int32, 2, "int32")
            },
            Field {
                list_type: Some(ListType::Set),
                ..field("tags", Type::List(Box::new(Type::String)), 3, "[]string")
            },
        ],
        vec![],
    ));
    let status = builder.declare(&name("WidgetStatus"));
    builder.define(TypeDef::new(
        &name("WidgetStatus"),
        &go("WidgetStatus"),
        vec![field("state", Type::String, 1, "string")],
        vec![],
    ));
    let object_meta = builder
        .by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
        .expect("a built-in type");
    let list_meta = builder
        .by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta")
        .expect("a built-in type");
    let type_meta = || {
        ["apiVersion", "kind"].map(|name| Field {
            go_type: "string".to_owned(),
            ..Field::new(name, Type::String)
        })
    };
    let mut fields = type_meta().to_vec();
    fields.extend([
        Field {
            omit_empty: false,
            ..field("metadata", Type::Object(object_meta), 1, "v1.ObjectMeta")
        },
        Field {
            omit_empty: false,
            ..field("spec", Type::Object(spec), 2, &go("WidgetSpec"))
        },
        Field {
            omit_empty: false,
            ..field("status", Type::Object(status), 3, &go("WidgetStatus"))
        },
    ]);
    let kind = |kind: &str| vec![Gvk::new(GROUP, version, kind)];
    let widget = builder.define(TypeDef::new(
        &name("Widget"),
        &go("Widget"),
        fields,
        kind("Widget"),
    ));
    let mut fields = type_meta().to_vec();
    fields.extend([
        Field {
            omit_empty: false,
            ..field("metadata", Type::Object(list_meta), 1, "v1.ListMeta")
        },
        Field {
            omit_empty: false,
            required: true,
            ..field(
                "items",
                Type::List(Box::new(Type::Object(widget))),
                2,
                &format!("[]{version}.Widget"),
            )
        },
    ]);
    builder.define(TypeDef::new(
        &name("WidgetList"),
        &go("WidgetList"),
        fields,
        kind("WidgetList"),
    ));
}

fn default(object: &mut Value) {
    let color = if object["apiVersion"] == format!("{GROUP}/v1beta1") {
        "colour"
    } else {
        "color"
    };
    meta::child_mut(object, "spec")
        .entry(color)
        .or_insert_with(|| "grey".into());
}

fn validate(object: &Value) -> Vec<FieldError> {
    match object.pointer("/spec/count").and_then(Value::as_i64) {
        Some(count) if count < 0 => {
            vec![FieldError::invalid(
                "spec.count",
                count,
                "must be greater than or equal to 0",
            )]
        }
        _ => vec![],
    }
}

fn convert(from: &Gvk, to: &Gvk, mut object: Value) -> Result<Value, ConvertError> {
    let spec = meta::child_mut(&mut object, "spec");
    let (color, count, factor): (_, _, fn(i64) -> i64) =
        match (from.version.as_str(), to.version.as_str()) {
            ("v1", "v1beta1") => (("color", "colour"), ("count", "dozens"), |n| n / 12),
            ("v1beta1", "v1") => (("colour", "color"), ("dozens", "count"), |n| n * 12),
            _ => return Err(ConvertError::unknown(from, to)),
        };
    if let Some(value) = spec.remove(color.0) {
        spec.insert(color.1.to_owned(), value);
    }
    if let Some(value) = spec.remove(count.0).and_then(|v| v.as_i64()) {
        spec.insert(count.1.to_owned(), factor(value).into());
    }
    meta::set_gvk(&mut object, to);
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{self, FieldValidation, Format};
    use serde_json::json;

    #[test]
    fn a_kind_with_two_versions_is_decoded_defaulted_and_converted_beside_the_built_in_ones() {
        let registry = registry();
        let widgets = registry.by_resource(GROUP, "widgets").unwrap();
        let body = br#"{"metadata": {"name": "a"}, "spec": {"dozens": 2, "x": 1}}"#;
        let gvk = Gvk::new(GROUP, "v1beta1", "Widget");
        let decoded = codec::decode(
            &registry.schema,
            Format::Json,
            body,
            &gvk,
            FieldValidation::Warn,
        )
        .unwrap();
        assert_eq!(decoded.warnings, [r#"unknown field "spec.x""#]);
        let mut value = decoded.value;
        widgets.default(&mut value);
        let stored = widgets
            .convert(value, &Gvk::new(GROUP, "v1", "Widget"))
            .unwrap();
        assert_eq!(stored["spec"], json!({"color": "grey", "count": 24}));
        let bytes = codec::encode_protobuf(&registry.schema, &stored).unwrap();
        let again = codec::decode_any(
            &registry.schema,
            Format::Protobuf,
            &bytes,
            FieldValidation::Strict,
        )
        .unwrap();
        assert_eq!(again.value, stored);
        assert!(registry.by_resource("", "pods").is_some());
        assert!(Registry::builtin().by_resource(GROUP, "widgets").is_none());
    }
}
