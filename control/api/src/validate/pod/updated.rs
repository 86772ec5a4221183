//! For tests: an update of a pod through a subresource, as the server makes it.

use crate::{FieldError, Gvk, Registry, Value, codec};

/// The new pod after decoding, defaults and preparation, and why it is refused.
pub(super) fn updated(subresource: &str, before: Value, now: Value) -> (Value, Vec<String>) {
    let registry = Registry::builtin();
    let pods = registry.by_resource("", "pods").expect("pods are served");
    let decode = |object| {
        let gvk = Gvk::new("", "v1", "Pod");
        let strict = codec::FieldValidation::Strict;
        let mut value = codec::typecheck(&registry.schema, object, &gvk, strict)
            .expect("decodes")
            .value;
        pods.default(&mut value);
        value
    };
    let (old, mut new) = (decode(before), decode(now));
    pods.prepare_for_update(&mut new, &old, Some(subresource));
    let errors: Vec<FieldError> = pods.validate_update(&new, &old, Some(subresource));
    (new, errors.iter().map(ToString::to_string).collect())
}
