//! YAML bodies: one document, as JSON's value tree.

use super::typed::{self, Findings};
use crate::{Schema, TypeId, Value};
use serde_saphyr::{DuplicateKeyPolicy, MergeKeyPolicy, Options};

fn options() -> Options {
    serde_saphyr::options! {
        // Duplicates are seen, and told, by our own visitor.
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        merge_keys: MergeKeyPolicy::Merge,
        with_snippet: false,
    }
}

pub(super) fn parse(body: &[u8]) -> Result<(Value, Vec<String>), String> {
    with_text(body, |text| {
        serde_saphyr::with_deserializer_from_str_with_options(text, options(), |source| {
            typed::decode_plain(source)
        })
    })
}

pub(super) fn decode(
    schema: &Schema,
    ty: TypeId,
    body: &[u8],
) -> Result<(Value, Findings), String> {
    with_text(body, |text| {
        serde_saphyr::with_deserializer_from_str_with_options(text, options(), |source| {
            typed::decode(schema, ty, source)
        })
    })
}

fn with_text<R>(
    body: &[u8],
    decode: impl FnOnce(&str) -> Result<R, serde_saphyr::Error>,
) -> Result<R, String> {
    let text = std::str::from_utf8(body)
        .map_err(|_| "error converting YAML to JSON: yaml: invalid UTF-8".to_owned())?;
    decode(text).map_err(|e| format!("error converting YAML to JSON: yaml: {e}"))
}

pub(super) fn encode(value: &Value) -> Vec<u8> {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    let text = serde_saphyr::to_string_with_options(value, options)
        .expect("a tree of JSON values has a YAML form");
    text.into_bytes()
}

/// apiVersion and kind.
pub(super) fn head(body: &[u8]) -> Result<super::head::Head, String> {
    with_text(body, |text| {
        serde_saphyr::from_str_with_options(text, options())
    })
}
