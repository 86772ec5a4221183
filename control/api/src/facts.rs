//! Parses the committed table of facts into the built-in schema.
//!
//! The tables' form is told at the first one's head; `facts/generate.py` makes that. A malformed table is a bug of the build and
//! panics with its line.

use crate::{
    Field, Gvk, Schema, Type, TypeId,
    schema::{ListType, ProtoField, SchemaBuilder, TypeDef},
};

const TABLES: [&str; 2] = [
    include_str!("../facts/facts.txt"),
    include_str!("../facts/metrics.txt"),
];

pub(crate) fn load() -> Schema {
    Schema::default().extend(|builder| {
        let lines = || {
            let all = TABLES.iter().flat_map(|table| table.lines());
            all.filter(|l| !l.starts_with('#'))
        };
        for line in lines() {
            if let Some(head) = line.strip_prefix("T ") {
                builder.declare(&openapi_name(
                    head.split(' ')
                        .next()
                        .expect("split gives at least one part"),
                ));
            }
        }
        let mut open: Option<(Head, Vec<Field>)> = None;
        for line in lines() {
            if let Some(head) = line.strip_prefix("T ") {
                if let Some((head, fields)) = open.take() {
                    head.define(builder, fields);
                }
                open = Some((Head::parse(head), vec![]));
            } else {
                let (head, fields) = open.as_mut().expect("the table begins with a type");
                fields.push(field(builder, head.package, line));
            }
        }
        if let Some((head, fields)) = open.take() {
            head.define(builder, fields);
        }
    })
}

struct Head {
    package: &'static str,
    name: &'static str,
    gvks: Vec<Gvk>,
    atomic: bool,
}

impl Head {
    fn parse(line: &'static str) -> Self {
        let mut words = line.split(' ');
        let full = words.next().expect("split gives at least one part");
        let (package, name) = full.rsplit_once('.').expect("a type is named package.Type");
        let mut head = Self {
            package,
            name,
            gvks: vec![],
            atomic: false,
        };
        for word in words {
            if let Some(kinds) = word.strip_prefix("kinds=") {
                for kind in kinds.split(',') {
                    let parts: Vec<&str> = kind.split('/').collect();
                    let [group, version, kind] = parts[..] else {
                        panic!("malformed kind in {line:?}")
                    };
                    head.gvks.push(Gvk::new(group, version, kind));
                }
            } else if word == "atomic" {
                head.atomic = true;
            } else {
                panic!("unknown word {word:?} in {line:?}");
            }
        }
        head
    }

    fn define(self, builder: &mut SchemaBuilder, fields: Vec<Field>) {
        let full = format!("{}.{}", self.package, self.name);
        let go = format!("{}.{}", go_package(self.package), self.name);
        let mut def = TypeDef::new(&openapi_name(&full), &go, fields, self.gvks);
        def.atomic = self.atomic;
        builder.define(def);
    }
}

/// `core.v1.Pod` → `io.k8s.api.core.v1.Pod`.
fn openapi_name(short: &str) -> String {
    match short.split('.').next() {
        Some("meta") => format!("io.k8s.apimachinery.pkg.apis.{short}"),
        Some("runtime") => format!("io.k8s.apimachinery.pkg.{short}"),
        Some("metrics") => format!("io.k8s.metrics.pkg.apis.{short}"),
        _ => format!("io.k8s.api.{short}"),
    }
}

fn go_package(package: &str) -> &str {
    package.rsplit('.').next().unwrap_or(package)
}

fn field(builder: &SchemaBuilder, package: &str, line: &str) -> Field {
    let mut words = line.split(' ');
    let mut next = || {
        words
            .next()
            .unwrap_or_else(|| panic!("too few words in {line:?}"))
    };
    let (name, number, ty) = (next(), next(), next());
    let (ty, go_type) = parse_type(builder, package, ty);
    let mut field = Field {
        go_type,
        omit_empty: false,
        ..Field::new(name, ty)
    };
    let number = (number != "-").then(|| {
        number
            .parse::<u32>()
            .unwrap_or_else(|_| panic!("bad number in {line:?}"))
    });
    let mut inside = None;
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("*", _) => field.pointer = true,
            // Go's encoder never leaves out a struct that is merely `omitempty`.
            ("o", _) => {
                field.omit_empty =
                    field.pointer || !matches!(field.ty, Type::Object(_) | Type::IntOrString)
            }
            ("z", _) => field.omit_empty = true,
            ("r", _) => field.required = true,
            ("in", n) => {
                inside = Some(
                    n.parse()
                        .unwrap_or_else(|_| panic!("bad number in {line:?}")),
                )
            }
            ("list", "atomic") => field.list_type = Some(ListType::Atomic),
            ("list", "set") => field.list_type = Some(ListType::Set),
            ("list", "map") => field.list_type = Some(ListType::Map),
            ("keys", keys) => field.list_keys = keys.split(',').map(str::to_owned).collect(),
            ("atomic", _) => field.atomic = true,
            ("patch", strategies) => {
                field.patch_strategy = strategies.split(',').map(str::to_owned).collect()
            }
            ("key", key) => field.patch_merge_key = Some(key.to_owned()),
            ("default", json) => {
                field.default = Some(
                    serde_json::from_str(json)
                        .unwrap_or_else(|_| panic!("bad default in {line:?}")),
                );
            }
            ("go", go) => field.go_type = go.to_owned(),
            _ => panic!("unknown word {word:?} in {line:?}"),
        }
    }
    field.proto = number.map(|number| ProtoField { number, inside });
    field
}

/// The type and how Go prints it.
fn parse_type(builder: &SchemaBuilder, package: &str, text: &str) -> (Type, String) {
    if let Some(inner) = text.strip_prefix("[]") {
        let (ty, go) = parse_type(builder, package, inner);
        return (Type::List(Box::new(ty)), format!("[]{go}"));
    }
    if let Some(inner) = text.strip_prefix("{}") {
        let (ty, go) = parse_type(builder, package, inner);
        return (Type::Map(Box::new(ty)), format!("map[string]{go}"));
    }
    let (ty, go) = match text {
        "string" => (Type::String, "string"),
        "bool" => (Type::Bool, "bool"),
        "int32" => (Type::Int32, "int32"),
        "int64" => (Type::Int64, "int64"),
        "double" => (Type::Double, "float64"),
        "bytes" => (Type::Bytes, "[]uint8"),
        "time" => (Type::Time, "v1.Time"),
        "microtime" => (Type::MicroTime, "v1.MicroTime"),
        "duration" => (Type::Duration, "v1.Duration"),
        "intstr" => (Type::IntOrString, "intstr.IntOrString"),
        "quantity" => (Type::Quantity, "resource.Quantity"),
        "fieldsv1" => (Type::FieldsV1, "v1.FieldsV1"),
        "raw" => (Type::RawExtension, "runtime.RawExtension"),
        "any" => (Type::Any, "interface {}"),
        "strings" => (Type::StringList, "[]string"),
        name => {
            let full = if name.contains('.') {
                name.to_owned()
            } else {
                format!("{package}.{name}")
            };
            let (of, short) = full.rsplit_once('.').expect("built with a dot above");
            let id: TypeId = builder
                .by_name(&openapi_name(&full))
                .unwrap_or_else(|| panic!("unknown type {full}"));
            return (Type::Object(id), format!("{}.{short}", go_package(of)));
        }
    };
    (ty, go.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_gives_every_kind_with_its_facts() {
        let schema = load();
        let pod = schema
            .by_gvk(&Gvk::new("", "v1", "Pod"))
            .expect("Pod is in the table");
        let ports = match schema.at_path(pod, "spec.containers") {
            Some(Type::List(inner)) => schema
                .get(inner.object().unwrap())
                .field("ports")
                .unwrap()
                .clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(ports.list_type, Some(ListType::Map));
        assert_eq!(ports.list_keys, ["containerPort", "protocol"]);
        assert_eq!(ports.patch_merge_key.as_deref(), Some("containerPort"));
        assert_eq!(
            ports.proto,
            Some(ProtoField {
                number: 6,
                inside: None
            })
        );
        assert_eq!(ports.go_type, "[]v1.ContainerPort");
        let probe = schema.get(schema.by_name("io.k8s.api.core.v1.Probe").unwrap());
        assert_eq!(
            probe.field("httpGet").unwrap().proto,
            Some(ProtoField {
                number: 2,
                inside: Some(1)
            })
        );
        assert_eq!(
            schema.kinds().count(),
            schema
                .kinds()
                .map(|(g, _)| g)
                .collect::<std::collections::HashSet<_>>()
                .len()
        );
    }

    #[test]
    fn no_two_fields_of_a_message_share_a_protobuf_number() {
        for (_, def) in load().types() {
            let mut seen = std::collections::HashSet::new();
            for field in &def.fields {
                if let Some(p) = field.proto {
                    assert!(
                        seen.insert((p.inside, p.number)),
                        "{}.{}",
                        def.name,
                        field.name
                    );
                    // A message that is embedded has a number of its own among the outer fields.
                    assert!(
                        p.inside.is_none_or(|n| !def.fields.iter().any(|f| f.proto
                            == Some(ProtoField {
                                number: n,
                                inside: None
                            }))),
                        "{}.{}",
                        def.name,
                        field.name
                    );
                }
            }
        }
    }
}
