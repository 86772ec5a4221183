//! Patches of all four types. The input is an object and a patch in JSON, with a line `---` between them.

use kernelet_api::{
    Gvk, Registry, Schema, Value,
    codec::{self, FieldValidation, Format},
    meta,
};
use kernelet_patch::{FieldManager, json_patch, merge_patch, strategic_merge};

fn split(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = data.windows(5).position(|window| window == b"\n---\n")?;
    Some((&data[..at], &data[at + 5..]))
}

/// The object as the server has it, its kind, and the patch.
fn parts(data: &[u8]) -> Option<(Value, Gvk, Value)> {
    let (object, patch) = split(data)?;
    let schema = Schema::builtin();
    let object = codec::decode_any(schema, Format::Json, object, FieldValidation::Ignore).ok()?;
    let (patch, _) = codec::parse_yaml(patch).ok()?;
    Some((object.value, object.gvk, patch))
}

/// A patch's result goes through the type check; what that lets pass is like a decoded body.
fn check(gvk: &Gvk, patched: Value) {
    let schema = Schema::builtin();
    if let Ok(typed) = codec::typecheck(schema, patched, gvk, FieldValidation::Ignore) {
        let bytes = codec::encode_json(&typed.value);
        let again = codec::decode(schema, Format::Json, &bytes, gvk, FieldValidation::Ignore)
            .expect("what passed the type check is read");
        assert_eq!(again.value, typed.value);
    }
}

pub fn json(data: &[u8]) {
    if let Some((object, gvk, patch)) = parts(data)
        && let Ok(patched) = json_patch(&object, &patch)
    {
        check(&gvk, patched);
    }
}

pub fn merge(data: &[u8]) {
    if let Some((object, gvk, patch)) = parts(data)
        && let Ok(patched) = merge_patch(&object, &patch)
    {
        let twice = merge_patch(&patched, &patch).expect("it could be merged before");
        assert_eq!(
            twice, patched,
            "a merge patch says what is wanted, not what is to be done"
        );
        check(&gvk, patched);
    }
}

pub fn strategic(data: &[u8]) {
    let schema = Schema::builtin();
    if let Some((object, gvk, patch)) = parts(data)
        && let Some(ty) = schema.by_gvk(&gvk)
        && let Ok(patched) = strategic_merge(schema, ty, &object, &patch)
    {
        check(&gvk, patched);
    }
}

pub fn apply(data: &[u8]) {
    let registry = Registry::builtin();
    let Some((object, gvk, patch)) = parts(data) else {
        return;
    };
    let Some(resource) = registry.by_kind(&gvk.group, &gvk.kind) else {
        return;
    };
    let now = "2020-01-01T00:00:00Z";
    let Some(manager) = FieldManager::new(registry, resource, &gvk, None, now) else {
        return;
    };
    let mut live = object.clone();
    let _ = manager.update(None, &mut live, "somebody");
    for force in [false, true] {
        let Ok(applied) = manager.apply(Some(&live), &patch, "applier", force) else {
            continue;
        };
        let once = applied.object;
        // Applying the same again changes nothing.
        if let Ok(twice) = manager.apply(Some(&once), &patch, "applier", force) {
            let plain = |mut object: Value| {
                meta::metadata_mut(&mut object).remove("managedFields");
                object
            };
            assert_eq!(plain(twice.object), plain(once.clone()));
        }
        check(&gvk, once);
    }
}
