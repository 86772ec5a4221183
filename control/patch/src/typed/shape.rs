//! What structured merge needs to know of a type, read off the API's schema. The only file of this folder that knows it.

use kernelet_api::schema::{Field, ListType, Schema, Type, TypeId};
use serde_json::Value;

use crate::fields::PathElement;

/// A type at one place of an object.
#[derive(Clone, Copy)]
pub(crate) struct Shape<'s> {
    schema: &'s Schema,
    form: Form<'s>,
}

#[derive(Clone, Copy)]
enum Form<'s> {
    Object {
        ty: TypeId,
    },
    Map {
        element: &'s Type,
        atomic: bool,
    },
    List {
        element: &'s Type,
        kind: ListType,
        keys: &'s [String],
    },
    /// A list of strings that is a named type upstream.
    Strings,
    Scalar(Scalar),
    /// An object of unknown fields.
    Opaque,
    /// Nothing is known: the value says what it is; lists are atomic, maps granular.
    Deduced,
    /// As `Deduced`, inside something atomic.
    DeducedAtomic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scalar {
    Numeric,
    String,
    Boolean,
    Untyped,
}

/// How a shape treats one value.
pub(crate) enum Atom<'s> {
    Scalar(Scalar),
    List(ListAtom<'s>),
    Map(MapAtom<'s>),
}

pub(crate) struct ListAtom<'s> {
    pub element: Shape<'s>,
    pub keys: Keys<'s>,
}

/// How a list's items are told apart.
#[derive(Clone, Copy)]
pub(crate) enum Keys<'s> {
    /// Not at all: the list is owned as a whole.
    Atomic,
    /// By their value.
    Set,
    /// By these fields.
    Fields(&'s [String]),
}

pub(crate) struct MapAtom<'s> {
    shape: Shape<'s>,
    pub atomic: bool,
}

impl<'s> Shape<'s> {
    pub(crate) fn of(schema: &'s Schema, ty: TypeId) -> Self {
        Self {
            schema,
            form: Form::Object { ty },
        }
    }

    fn with(self, form: Form<'s>) -> Self {
        Self {
            schema: self.schema,
            form,
        }
    }

    fn of_field(self, field: &'s Field) -> Self {
        match &field.ty {
            Type::List(element) => self.with(Form::List {
                element,
                kind: field.list_type(),
                keys: &field.list_keys,
            }),
            Type::Map(element) => self.with(Form::Map {
                element,
                atomic: field.atomic,
            }),
            other => self.of_type(other),
        }
    }

    fn of_type(self, ty: &'s Type) -> Self {
        self.with(match ty {
            Type::Object(ty) => Form::Object { ty: *ty },
            Type::List(element) => Form::List {
                element,
                kind: ListType::Atomic,
                keys: &[],
            },
            Type::StringList => Form::Strings,
            Type::Map(element) => Form::Map {
                element,
                atomic: false,
            },
            Type::FieldsV1 | Type::RawExtension => Form::Opaque,
            Type::Any => Form::Deduced,
            Type::Bool => Form::Scalar(Scalar::Boolean),
            Type::Int32 | Type::Int64 | Type::Double => Form::Scalar(Scalar::Numeric),
            Type::String | Type::Bytes | Type::Duration => Form::Scalar(Scalar::String),
            Type::Time | Type::MicroTime | Type::IntOrString | Type::Quantity => {
                Form::Scalar(Scalar::Untyped)
            }
        })
    }

    /// How this shape treats `value`; without a value, or with null, how it treats anything.
    pub(crate) fn atom(self, value: Option<&Value>) -> Atom<'s> {
        match self.form {
            Form::Object { ty } => Atom::Map(MapAtom {
                shape: self,
                atomic: self.schema.get(ty).atomic,
            }),
            Form::Map { atomic, .. } => Atom::Map(MapAtom {
                shape: self,
                atomic,
            }),
            Form::Opaque => Atom::Map(MapAtom {
                shape: self,
                atomic: false,
            }),
            Form::List {
                element,
                kind,
                keys,
            } => Atom::List(ListAtom {
                element: self.of_type(element),
                keys: match kind {
                    ListType::Atomic => Keys::Atomic,
                    ListType::Set => Keys::Set,
                    ListType::Map => Keys::Fields(keys),
                },
            }),
            Form::Strings => Atom::List(ListAtom {
                element: self.with(Form::Scalar(Scalar::String)),
                keys: Keys::Atomic,
            }),
            Form::Scalar(scalar) => Atom::Scalar(scalar),
            Form::Deduced | Form::DeducedAtomic => match value {
                Some(Value::Bool(_) | Value::Number(_) | Value::String(_)) => {
                    Atom::Scalar(Scalar::Untyped)
                }
                Some(Value::Array(_)) => Atom::List(ListAtom {
                    element: self.with(Form::DeducedAtomic),
                    keys: Keys::Atomic,
                }),
                Some(Value::Object(_) | Value::Null) | None => Atom::Map(MapAtom {
                    shape: self,
                    atomic: matches!(self.form, Form::DeducedAtomic),
                }),
            },
        }
    }

    /// Whether two values of this shape are treated in the same way.
    pub(crate) fn agrees(self, a: &Value, b: &Value) -> bool {
        match (self.atom(Some(a)), self.atom(Some(b))) {
            (Atom::Scalar(a), Atom::Scalar(b)) => a == b,
            (Atom::List(_), Atom::List(_)) | (Atom::Map(_), Atom::Map(_)) => true,
            _ => false,
        }
    }

    /// Whether nothing is known of what is inside.
    pub(crate) fn is_untyped(self) -> bool {
        matches!(
            self.form,
            Form::Opaque | Form::Deduced | Form::DeducedAtomic
        )
    }

    /// The declared field of an object type.
    fn field(self, name: &str) -> Option<&'s Field> {
        match self.form {
            Form::Object { ty } => self.schema.get(ty).field(name),
            _ => None,
        }
    }

    pub(crate) fn declares(self, name: &str) -> bool {
        self.field(name).is_some()
    }

    /// The shape of what `element` leads to; `None` where the type has no such place.
    pub(crate) fn child(self, element: &PathElement) -> Option<Shape<'s>> {
        match (element, self.form) {
            (PathElement::Field(name), _) => self.at(name),
            (_, Form::List { element, .. }) => Some(self.of_type(element)),
            (_, Form::Deduced | Form::DeducedAtomic) => Some(self.with(Form::DeducedAtomic)),
            _ => None,
        }
    }

    /// The shape of a map's value at `name`.
    fn at(self, name: &str) -> Option<Shape<'s>> {
        match self.form {
            Form::Object { ty } => match self.field(name) {
                Some(field) => Some(self.of_field(field)),
                None if self.schema.get(ty).preserve_unknown => Some(self.with(Form::Deduced)),
                None => None,
            },
            Form::Map { element, .. } => Some(self.of_type(element)),
            Form::Opaque | Form::Deduced => Some(self.with(Form::Deduced)),
            Form::DeducedAtomic => Some(self),
            Form::List { .. } | Form::Strings | Form::Scalar(_) => None,
        }
    }
}

impl<'s> MapAtom<'s> {
    /// The shape of the value at `key`; unknown fields are deduced, so that what was stored under an older schema can
    /// still be merged.
    pub(crate) fn at(&self, key: &str) -> Shape<'s> {
        self.shape
            .at(key)
            .unwrap_or_else(|| self.shape.with(Form::Deduced))
    }

    /// As [`MapAtom::at`], but `None` for a field that the type doesn't have.
    pub(crate) fn declared(&self, key: &str) -> Option<Shape<'s>> {
        self.shape.at(key)
    }

    /// Whether `key` is a field that the type names, and not a free key.
    pub(crate) fn names(&self, key: &str) -> bool {
        self.shape.declares(key)
    }
}

impl ListAtom<'_> {
    /// The default of the field `key` of this list's items, as far as it counts in a key.
    pub(crate) fn key_default(&self, key: &str) -> Option<Value> {
        let field = self.element.field(key)?;
        if let Some(default) = &field.default {
            return Some(default.clone());
        }
        // Upstream's schemas give every field that is never left out its zero value as default.
        if field.pointer || field.omit_empty {
            return None;
        }
        match field.ty {
            Type::String => Some(Value::from("")),
            Type::Int32 | Type::Int64 | Type::Double => Some(Value::from(0)),
            Type::Bool => Some(Value::from(false)),
            _ => None,
        }
    }
}
