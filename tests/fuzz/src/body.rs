//! Bodies of all kinds, in the three encodings.

use kernelet_api::{
    Schema, TypeId, Value,
    codec::{self, FieldValidation, Format},
};

pub fn json(data: &[u8]) {
    let _ = codec::parse_json(data);
    decode(Format::Json, data);
}

pub fn yaml(data: &[u8]) {
    let _ = codec::parse_yaml(data);
    decode(Format::Yaml, data);
}

pub fn protobuf(data: &[u8]) {
    decode(Format::Protobuf, data);
}

/// What was decoded survives each of the three encodings.
fn decode(format: Format, data: &[u8]) {
    let schema = Schema::builtin();
    for validation in [FieldValidation::Strict, FieldValidation::Ignore] {
        let Ok(decoded) = codec::decode_any(schema, format, data, validation) else {
            continue;
        };
        let value = &decoded.value;
        let again = |format, bytes: &[u8]| {
            codec::decode_any(schema, format, bytes, FieldValidation::Strict)
                .unwrap_or_else(|error| panic!("{format:?} of {value} is not read: {error}"))
                .value
        };
        assert_eq!(again(Format::Json, &codec::encode_json(value)), *value);
        assert_eq!(again(Format::Yaml, &codec::encode_yaml(value)), *value);
        if let Some(bytes) = codec::encode_protobuf(schema, value) {
            assert_eq!(again(Format::Protobuf, &bytes), *value);
        }
        defaults(value);
    }
}

/// Defaulting and validation take whatever has been decoded.
fn defaults(value: &Value) {
    let registry = kernelet_api::Registry::builtin();
    let Some(gvk) = kernelet_api::meta::gvk(value) else {
        return;
    };
    if let Some(resource) = registry.by_kind(&gvk.group, &gvk.kind) {
        let mut object = value.clone();
        resource.default(&mut object);
        let _ = resource.validate_create(&object);
        resource.prepare_for_create(&mut object);
        let _ = resource.validate_update(&object, value, None);
    }
}

/// A message without its envelope, of the type that the first two bytes choose.
pub fn message(data: &[u8]) {
    let Some((&[high, low], rest)) = data.split_first_chunk::<2>() else {
        return;
    };
    let schema = Schema::builtin();
    let types: Vec<TypeId> = schema.types().map(|(ty, _)| ty).collect();
    let ty = types[usize::from(u16::from_be_bytes([high, low])) % types.len()];
    if let Ok(value) = codec::decode_message(schema, ty, rest) {
        let bytes = codec::encode_message(schema, ty, &value);
        let again = codec::decode_message(schema, ty, &bytes).expect("what was written is read");
        assert_eq!(again, value);
    }
}
