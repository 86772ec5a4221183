//! What the schema says of patching a field.

use kernelet_api::schema::{Schema, Type, TypeId};

/// The patch rules of one place in an object.
#[derive(Clone, Copy)]
pub(super) enum Meta<'s> {
    Object(&'s Schema, TypeId),
    /// A free-form map: every value has this type.
    Map(&'s Schema, &'s Type),
    /// Nothing is known; maps merge, lists are replaced.
    Unknown,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Strategy {
    Merge,
    Replace,
    Unset,
}

/// How a field is patched.
#[derive(Clone, Copy)]
pub(super) struct Rule<'s> {
    pub strategy: Strategy,
    pub merge_key: Option<&'s str>,
}

const UNSET: Rule<'static> = Rule {
    strategy: Strategy::Unset,
    merge_key: None,
};

impl<'s> Meta<'s> {
    pub(super) fn of(schema: &'s Schema, ty: TypeId) -> Self {
        Self::Object(schema, ty)
    }

    /// What is known of the value at `key`, or of its items where it is a list, and how the field is patched.
    pub(super) fn at(self, key: &str) -> (Meta<'s>, Rule<'s>) {
        match self {
            Meta::Object(schema, ty) => match schema.get(ty).field(key) {
                Some(field) => {
                    let has =
                        |name: &str| field.patch_strategy.iter().any(|strategy| strategy == name);
                    let strategy = match (has("merge"), has("replace")) {
                        (true, _) => Strategy::Merge,
                        (false, true) => Strategy::Replace,
                        (false, false) => Strategy::Unset,
                    };
                    let rule = Rule {
                        strategy,
                        merge_key: field.patch_merge_key.as_deref(),
                    };
                    (Meta::of_type(schema, &field.ty), rule)
                }
                None => (Meta::Unknown, UNSET),
            },
            Meta::Map(schema, element) => (Meta::of_type(schema, element), UNSET),
            Meta::Unknown => (Meta::Unknown, UNSET),
        }
    }

    fn of_type(schema: &'s Schema, ty: &'s Type) -> Self {
        match ty {
            Type::Object(ty) => Meta::Object(schema, *ty),
            Type::List(element) => Meta::of_type(schema, element),
            Type::Map(element) => Meta::Map(schema, element),
            _ => Meta::Unknown,
        }
    }
}
