//! The schema: every type's fields with what JSON, protobuf, patching and apply need to know of them.
//!
//! [`Schema::builtin`] is parsed once from the committed table of facts; [`Schema::extend`] makes a larger one
//! (a test kind, a CRD) and leaves the built-in one untouched.

use crate::{Value, names::Gvk};
use hashbrown::HashMap;
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

/// A type's place in its [`Schema`]. Ids of the built-in schema stay valid in every extension of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(pub(crate) u32);

/// All types that one registry serves.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    types: Vec<Arc<TypeDef>>,
    by_name: HashMap<String, TypeId>,
    by_gvk: HashMap<Gvk, TypeId>,
}

/// An object type: a struct of upstream's.
#[derive(Clone, Debug)]
pub struct TypeDef {
    /// The name in OpenAPI v2 and v3: `io.k8s.api.core.v1.Container`.
    pub name: String,
    /// The name Go prints in error messages: `v1.Container`.
    pub go_name: String,
    pub fields: Vec<Field>,
    /// What kinds objects of this type are. `DeleteOptions` and `WatchEvent` belong to every group; they carry none here.
    pub gvks: Vec<Gvk>,
    /// For an open type (a CRD with preserved unknown fields): unlisted fields are kept. Upstream's own types have none.
    pub preserve_unknown: bool,
    /// `x-kubernetes-map-type: atomic` on the type: apply replaces it as a whole.
    pub atomic: bool,
    index: HashMap<String, usize>,
    /// Fields by protobuf number.
    proto: HashMap<(Option<u32>, u32), usize>,
    proto_order: Vec<ProtoEntry>,
}

/// What stands in a protobuf message, in the order of the numbers: upstream writes in that order.
#[derive(Clone, Debug)]
pub(crate) enum ProtoEntry {
    /// The index of a field.
    Field(usize),
    /// The number of an embedded message, and its fields' indices.
    Embedded(u32, Vec<usize>),
}

/// A field of an object type.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// The JSON name.
    pub name: String,
    pub ty: Type,
    /// The protobuf field number, and, where Go embeds the struct that holds the field, the number of that struct's
    /// message before it.
    pub proto: Option<ProtoField>,
    /// Listed under `required` in OpenAPI.
    pub required: bool,
    /// Go holds a pointer: a zero value differs from absence.
    pub pointer: bool,
    /// Go's encoder leaves the field out when it is the zero value (`omitempty` or `omitzero`).
    pub omit_empty: bool,
    /// `x-kubernetes-list-type`; absent on lists means atomic.
    pub list_type: Option<ListType>,
    /// `x-kubernetes-list-map-keys`.
    pub list_keys: Vec<String>,
    /// `x-kubernetes-map-type: atomic`.
    pub atomic: bool,
    /// `x-kubernetes-patch-strategy`, split at the comma: `merge`, `replace`, `retainKeys`.
    pub patch_strategy: Vec<String>,
    /// `x-kubernetes-patch-merge-key`.
    pub patch_merge_key: Option<String>,
    /// The schema's default for the field (`+default`), as apply needs it for list keys.
    pub default: Option<Value>,
    /// How Go prints the field's type in an error: `int32`, `v1.Protocol`, `[]v1.Container`.
    pub go_type: String,
}

/// Where a field stands in its protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtoField {
    pub number: u32,
    /// The number of the embedded message that holds the field.
    pub inside: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    Atomic,
    Set,
    Map,
}

/// A value's type; JSON's and protobuf's form of it follow from the variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    String,
    Bool,
    Int32,
    Int64,
    Double,
    /// JSON: base64. Protobuf: bytes.
    Bytes,
    /// JSON: RFC 3339 in seconds. Protobuf: message {1: seconds, 2: nanos}.
    Time,
    /// JSON: RFC 3339 with six digits. Protobuf: message {1: seconds, 2: nanos}.
    MicroTime,
    /// JSON: Go's duration text. Protobuf: message {1: nanoseconds}.
    Duration,
    /// JSON: number or string. Protobuf: message {1: type, 2: int, 3: string}.
    IntOrString,
    /// JSON: string (numbers are accepted). Protobuf: message {1: string}.
    Quantity,
    /// A managedFields set: any JSON object. Protobuf: message {1: JSON bytes}.
    FieldsV1,
    /// An embedded object of any kind. Protobuf: message {1: bytes}.
    RawExtension,
    /// Any JSON value (CRDs, table cells).
    Any,
    Object(TypeId),
    List(Box<Type>),
    /// A list of strings that is a named type in Go (`ExtraValue`, `Verbs`). Protobuf: message {1: repeated string}.
    StringList,
    Map(Box<Type>),
}

impl Schema {
    /// The types of the built-in kinds, parsed from the table of facts on first use.
    pub fn builtin() -> &'static Arc<Schema> {
        static BUILTIN: OnceLock<Arc<Schema>> = OnceLock::new();
        BUILTIN.get_or_init(|| Arc::new(crate::facts::load()))
    }

    /// A copy of this schema with more types. Ids of `self` stay valid in it.
    pub fn extend(&self, add: impl FnOnce(&mut SchemaBuilder)) -> Schema {
        let mut builder = SchemaBuilder {
            schema: self.clone(),
        };
        add(&mut builder);
        builder.schema
    }

    pub fn get(&self, id: TypeId) -> &TypeDef {
        &self.types[id.0 as usize]
    }

    pub fn by_name(&self, name: &str) -> Option<TypeId> {
        self.by_name.get(name).copied()
    }

    pub fn by_gvk(&self, gvk: &Gvk) -> Option<TypeId> {
        self.by_gvk.get(gvk).copied()
    }

    /// The type of an options kind (`DeleteOptions` and the like), which belongs to every group and version.
    pub fn options_type(&self, gvk: &Gvk) -> Option<TypeId> {
        const OPTIONS: [&str; 6] = [
            "CreateOptions",
            "DeleteOptions",
            "GetOptions",
            "ListOptions",
            "PatchOptions",
            "UpdateOptions",
        ];
        let known = OPTIONS.contains(&gvk.kind.as_str()) || gvk.kind == "WatchEvent";
        known.then(|| self.by_gvk(&Gvk::new("", "v1", &gvk.kind)))?
    }

    /// Every type, in the order of the table.
    pub fn types(&self) -> impl Iterator<Item = (TypeId, &TypeDef)> {
        self.types
            .iter()
            .enumerate()
            .map(|(i, t)| (TypeId(i as u32), &**t))
    }

    /// Every kind with its type.
    pub fn kinds(&self) -> impl Iterator<Item = (&Gvk, TypeId)> {
        self.by_gvk.iter().map(|(gvk, id)| (gvk, *id))
    }

    /// The type of the value at a dotted path (`spec.template.spec.containers`); lists and maps are stepped through.
    pub fn at_path(&self, ty: TypeId, path: &str) -> Option<&Type> {
        let mut fields = path.split('.');
        let mut current = &self.get(ty).field(fields.next()?)?.ty;
        for name in fields {
            current = &self.get(current.object()?).field(name)?.ty;
        }
        Some(current)
    }
}

/// Adds types to a schema. Types may refer to each other in any order: [`SchemaBuilder::declare`] first, then
/// [`SchemaBuilder::define`].
pub struct SchemaBuilder {
    pub(crate) schema: Schema,
}

impl SchemaBuilder {
    /// Makes room for a type of this name and answers its id; the same id when the name is known.
    pub fn declare(&mut self, name: &str) -> TypeId {
        if let Some(id) = self.schema.by_name.get(name) {
            return *id;
        }
        let id = TypeId(u32::try_from(self.schema.types.len()).expect("fewer than 2³² types"));
        self.schema
            .types
            .push(Arc::new(TypeDef::new(name, "", vec![], vec![])));
        self.schema.by_name.insert(name.to_owned(), id);
        id
    }

    pub fn define(&mut self, def: TypeDef) -> TypeId {
        let id = self.declare(&def.name);
        for gvk in &def.gvks {
            self.schema.by_gvk.insert(gvk.clone(), id);
        }
        self.schema.types[id.0 as usize] = Arc::new(def);
        id
    }

    pub fn by_name(&self, name: &str) -> Option<TypeId> {
        self.schema.by_name(name)
    }
}

impl TypeDef {
    pub fn new(name: &str, go_name: &str, fields: Vec<Field>, gvks: Vec<Gvk>) -> Self {
        let index = fields
            .iter()
            .enumerate()
            .map(|(i, f)| (f.name.clone(), i))
            .collect();
        let mut proto = HashMap::new();
        let mut order: BTreeMap<u32, ProtoEntry> = BTreeMap::new();
        let mut numbered: Vec<(usize, ProtoField)> = fields
            .iter()
            .enumerate()
            .filter_map(|(i, f)| Some((i, f.proto?)))
            .collect();
        numbered.sort_by_key(|(_, p)| p.number);
        for (i, p) in numbered {
            proto.insert((p.inside, p.number), i);
            match p.inside {
                None => {
                    order.insert(p.number, ProtoEntry::Field(i));
                }
                Some(outer) => {
                    if let ProtoEntry::Embedded(_, inner) = order
                        .entry(outer)
                        .or_insert_with(|| ProtoEntry::Embedded(outer, vec![]))
                    {
                        inner.push(i);
                    }
                }
            }
        }
        Self {
            name: name.to_owned(),
            go_name: go_name.to_owned(),
            fields,
            gvks,
            preserve_unknown: false,
            atomic: false,
            index,
            proto,
            proto_order: order.into_values().collect(),
        }
    }

    pub(crate) fn proto_order(&self) -> &[ProtoEntry] {
        &self.proto_order
    }

    pub(crate) fn by_proto(&self, at: ProtoField) -> Option<&Field> {
        self.proto
            .get(&(at.inside, at.number))
            .map(|i| &self.fields[*i])
    }

    /// Whether the number is that of an embedded message.
    pub(crate) fn embeds(&self, number: u32) -> bool {
        self.proto_order
            .iter()
            .any(|e| matches!(e, ProtoEntry::Embedded(n, _) if *n == number))
    }

    pub fn field(&self, name: &str) -> Option<&Field> {
        self.index.get(name).map(|i| &self.fields[*i])
    }

    /// The name without its package: `Container`.
    pub fn short_name(&self) -> &str {
        self.go_name.rsplit('.').next().unwrap_or(&self.go_name)
    }
}

impl Field {
    /// A plain optional field, to be completed with struct update syntax.
    pub fn new(name: &str, ty: Type) -> Self {
        Self {
            name: name.to_owned(),
            ty,
            proto: None,
            required: false,
            pointer: false,
            omit_empty: true,
            list_type: None,
            list_keys: vec![],
            atomic: false,
            patch_strategy: vec![],
            patch_merge_key: None,
            default: None,
            go_type: String::new(),
        }
    }

    /// The list type that apply uses: what is declared, or atomic.
    pub fn list_type(&self) -> ListType {
        self.list_type.unwrap_or(ListType::Atomic)
    }
}

impl Type {
    /// The object type inside, through lists and maps.
    pub fn object(&self) -> Option<TypeId> {
        match self {
            Type::Object(id) => Some(*id),
            Type::List(inner) | Type::Map(inner) => inner.object(),
            _ => None,
        }
    }
}
