//! A request's body: which kind it says it is, decoding by that kind's schema, and upstream's words for what is wrong.

use super::{Decoded, FieldValidation, Form, Format, head::Head, json, protobuf, typed, yaml};
use crate::{ApiError, Gvk, Schema, TypeId, Value, meta, names::GroupVersion, prune};

pub(super) fn decode(
    schema: &Schema,
    format: Format,
    body: &[u8],
    expected: Option<&Gvk>,
    validation: FieldValidation,
    form: Form,
) -> Result<Decoded, ApiError> {
    let unrecognized = |why: String| unrecognized(expected, &why, body);
    let (api_version, kind) = type_meta(format, body).map_err(unrecognized)?;
    let gvk = actual(&api_version, &kind, expected).map_err(unrecognized)?;
    let cannot = |why: String| cannot_be_handled(&gvk, expected, &why);
    let ty = schema
        .by_gvk(&gvk)
        .or_else(|| schema.options_type(&gvk))
        .ok_or_else(|| cannot(unknown_kind(&gvk)))?;
    if let Some(expected) = expected {
        same_kind(&gvk, expected)?;
    }
    let (mut value, strict) = match format {
        Format::Protobuf => {
            let decoded = protobuf::open(body)
                .and_then(|(_, _, raw)| protobuf::decode_message(schema, ty, raw));
            (decoded.map_err(|e| cannot(e.to_string()))?, vec![])
        }
        Format::Json | Format::Yaml => {
            let decoded = match format {
                Format::Json => json::decode(schema, ty, body),
                _ => yaml::decode(schema, ty, body),
            };
            let (value, findings) = decoded.map_err(cannot)?;
            if let Some(why) = findings.wrong_type {
                return Err(cannot(why));
            }
            (value, findings.strict)
        }
    };
    if !value.is_object() {
        value = Value::Object(serde_json::Map::new());
    }
    if schema.get(ty).field("kind").is_some() {
        meta::set_gvk(&mut value, &gvk);
    }
    let warnings = judge(strict, validation).map_err(cannot)?;
    if form == Form::Canonical {
        prune::canonicalize(schema, ty, &mut value);
    }
    Ok(Decoded {
        value,
        gvk,
        warnings,
    })
}

pub(super) fn typecheck(
    schema: &Schema,
    value: &Value,
    expected: &Gvk,
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    let ty: TypeId = schema
        .by_gvk(expected)
        .ok_or_else(|| ApiError::bad_request(unknown_kind(expected)))?;
    let (mut value, findings) =
        typed::decode(schema, ty, value).map_err(|e| ApiError::bad_request(e.to_string()))?;
    if let Some(why) = findings.wrong_type {
        return Err(ApiError::unprocessable(why));
    }
    let warnings = judge(findings.strict, validation).map_err(ApiError::bad_request)?;
    meta::set_gvk(&mut value, expected);
    prune::canonicalize(schema, ty, &mut value);
    Ok(Decoded {
        value,
        gvk: expected.clone(),
        warnings,
    })
}

fn type_meta(format: Format, body: &[u8]) -> Result<(String, String), String> {
    let head = match format {
        Format::Protobuf => {
            return protobuf::open(body)
                .map(|(api_version, kind, _)| (api_version, kind))
                .map_err(|e| e.to_string());
        }
        Format::Json => serde_json::from_slice::<Head>(body).map_err(|e| json::message(&e, body)),
        Format::Yaml => yaml::head(body),
    };
    head.and_then(Head::texts)
        .map_err(|why| format!("couldn't get version/kind; json parse error: {why}"))
}

/// The body's kind, completed by the expected one.
fn actual(api_version: &str, kind: &str, expected: Option<&Gvk>) -> Result<Gvk, String> {
    let gv = GroupVersion::parse(api_version).map_err(|e| e.to_string())?;
    match expected {
        Some(expected) => {
            let gv = if api_version.is_empty() {
                expected.group_version()
            } else {
                gv
            };
            Ok(gv.with_kind(if kind.is_empty() {
                &expected.kind
            } else {
                kind
            }))
        }
        None if kind.is_empty() => Err("Object 'Kind' is missing".to_owned()),
        None if api_version.is_empty() => Err("Object 'apiVersion' is missing".to_owned()),
        None => Ok(gv.with_kind(kind)),
    }
}

/// The Go package of a group's internal types, which upstream's message names.
fn internal_package(group: &str) -> &str {
    match group {
        "" | "events.k8s.io" => "core",
        group => group.split('.').next().unwrap_or(group),
    }
}

fn same_kind(gvk: &Gvk, expected: &Gvk) -> Result<(), ApiError> {
    if gvk.kind != expected.kind {
        let why = format!(
            "converting ({}.{}) to ({}.{}): unknown conversion",
            gvk.version,
            gvk.kind,
            internal_package(&expected.group),
            expected.kind
        );
        return Err(cannot_be_handled(gvk, Some(expected), &why));
    }
    // Options belong to every group and version.
    if gvk.group_version() != expected.group_version() && !gvk.kind.ends_with("Options") {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({})",
            gvk.api_version(),
            expected.api_version()
        )));
    }
    Ok(())
}

/// Unknown and duplicate fields: warnings, an error, or nothing.
fn judge(strict: Vec<String>, validation: FieldValidation) -> Result<Vec<String>, String> {
    match validation {
        FieldValidation::Ignore => Ok(vec![]),
        FieldValidation::Warn => Ok(strict),
        FieldValidation::Strict if strict.is_empty() => Ok(strict),
        FieldValidation::Strict => Err(format!("strict decoding error: {}", strict.join(", "))),
    }
}

fn unknown_kind(gvk: &Gvk) -> String {
    format!(
        "no kind {:?} is registered for version {:?} in scheme \"k8s.io/kubernetes/pkg/api/legacyscheme/scheme.go:30\"",
        gvk.kind,
        gvk.api_version()
    )
}

fn cannot_be_handled(gvk: &Gvk, expected: Option<&Gvk>, why: &str) -> ApiError {
    let expected = expected.unwrap_or(gvk);
    ApiError::bad_request(format!(
        "{} in version {:?} cannot be handled as a {}: {why}",
        gvk.kind, gvk.version, expected.kind
    ))
}

fn unrecognized(expected: Option<&Gvk>, why: &str, body: &[u8]) -> ApiError {
    let summary = summarize(body);
    ApiError::bad_request(match expected {
        Some(expected) => {
            format!(
                "the object provided is unrecognized (must be of type {}): {why} ({summary})",
                expected.kind
            )
        }
        None => format!("the object provided is unrecognized: {why} ({summary})"),
    })
}

/// The first bytes of the body: as text when it looks like JSON, else in hex.
fn summarize(body: &[u8]) -> String {
    const MAX: usize = 30;
    match body {
        [] => "<empty>".to_owned(),
        [b'{', ..] if body.len() > MAX => format!("{} ...", String::from_utf8_lossy(&body[..MAX])),
        [b'{', ..] => String::from_utf8_lossy(body).into_owned(),
        _ => {
            let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
            if body.len() > MAX {
                format!("{} ...", hex(&body[..MAX]))
            } else {
                hex(body)
            }
        }
    }
}
