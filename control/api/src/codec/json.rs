//! JSON bodies.

use super::typed::{self, Findings};
use crate::{Schema, TypeId, Value};

/// Without a schema, with duplicate keys told by path.
pub(super) fn parse(body: &[u8]) -> Result<(Value, Vec<String>), String> {
    let mut source = serde_json::Deserializer::from_slice(body);
    let parsed = typed::decode_plain(&mut source).and_then(|found| source.end().map(|()| found));
    parsed.map_err(|e| message(&e, body))
}

pub(super) fn decode(
    schema: &Schema,
    ty: TypeId,
    body: &[u8],
) -> Result<(Value, Findings), String> {
    let mut source = serde_json::Deserializer::from_slice(body);
    let parsed =
        typed::decode(schema, ty, &mut source).and_then(|found| source.end().map(|()| found));
    parsed.map_err(|e| message(&e, body))
}

/// The literal that the text before a wrong byte has begun, and the character that should have stood there.
fn broken_literal(before: &[u8]) -> Option<(&'static str, char)> {
    ["null", "true", "false"].into_iter().find_map(|literal| {
        let begun = (1..literal.len()).rfind(|n| before.ends_with(&literal.as_bytes()[..*n]))?;
        Some((literal, char::from(literal.as_bytes()[begun])))
    })
}

/// Go's words for a syntax error.
pub(super) fn message(error: &serde_json::Error, body: &[u8]) -> String {
    use serde_json::error::Category;
    if error.classify() == Category::Eof || body.is_empty() {
        return "unexpected end of JSON input".to_owned();
    }
    let offset: usize = body
        .split(|b| *b == b'\n')
        .take(error.line().saturating_sub(1))
        .map(|line| line.len() + 1)
        .sum();
    let at = (offset + error.column()).saturating_sub(1);
    match body.get(at) {
        Some(byte) if error.classify() == Category::Syntax => {
            if error.to_string().starts_with("expected ident")
                && let Some((literal, expected)) = broken_literal(&body[..at])
            {
                return format!(
                    "invalid character {:?} in literal {literal} (expecting {expected:?})",
                    char::from(*byte)
                );
            }
            let what = if error.to_string().starts_with("trailing characters") {
                "after top-level value"
            } else if error.to_string().starts_with("key must be a string") {
                "looking for beginning of object key string"
            } else if error.to_string().starts_with("expected `,` or `}`") {
                "after object key:value pair"
            } else if error.to_string().starts_with("expected `,` or `]`") {
                "after array element"
            } else if error.to_string().starts_with("expected `:`") {
                "after object key"
            } else {
                "looking for beginning of value"
            };
            format!("invalid character {:?} {what}", char::from(*byte))
        }
        _ => error.to_string(),
    }
}
