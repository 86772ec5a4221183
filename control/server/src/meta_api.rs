//! What the server says about itself: discovery, OpenAPI, version, health, metrics.

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use kernelet_api::{ApiError, Value, names::GroupVersion};
use kernelet_openapi::{Document, Format, discovery};
use serde_json::json;

use crate::{
    body::ResponseBody,
    http::{
        negotiate::{self, Endpoint, JSON},
        respond,
    },
    query::Query,
    state::State,
};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
// Clients ask with an `@` before the version, which is no media type; the answer has a dot, as upstream's.
const OPENAPI_V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const OPENAPI_V3_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf";

const JWKS: &str = "application/jwk-set+json";

/// Upstream's release whose API is served.
pub const GIT_VERSION: &str = concat!("v1.35.0+kernelet.", env!("CARGO_PKG_VERSION"));

/// Answers a non-resource path.
pub async fn handle(
    state: &State,
    method: &Method,
    path: &str,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Response<ResponseBody>, ApiError> {
    let path = if path.len() > 1 {
        path.trim_end_matches('/')
    } else {
        path
    };
    let known = route(state, path, query, headers).await;
    match known {
        Some(_) if !matches!(*method, Method::GET | Method::HEAD) => {
            Err(ApiError::method_not_allowed())
        }
        Some(answer) => answer,
        None => Err(ApiError::page_not_found()),
    }
}

async fn route(
    state: &State,
    path: &str,
    query: &Query,
    headers: &HeaderMap,
) -> Option<Result<Response<ResponseBody>, ApiError>> {
    let snapshot = state.registry.load_full();
    let api = &snapshot.api;
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let document = |value: Value| object(headers, &snapshot.api.schema, &value);
    Some(match parts.as_slice() {
        [""] => Ok(raw(&index(&snapshot))),
        ["api"] if wants_aggregated(headers) => Ok(aggregated(discovery::aggregated_core(api))),
        ["apis"] if wants_aggregated(headers) => Ok(aggregated(discovery::aggregated_groups(api))),
        ["api"] => {
            let address = format!("{}:{}", state.config.advertise, state.config.port);
            document(discovery::api_versions(api, &address))
        }
        ["apis"] => document(discovery::api_group_list(api)),
        ["api", version] => document(discovery::api_resource_list(
            api,
            &GroupVersion::new("", *version),
        )?),
        ["apis", group] => document(discovery::api_group(api, group)?),
        ["apis", group, version] => document(discovery::api_resource_list(
            api,
            &GroupVersion::new(*group, *version),
        )?),
        ["openapi", "v2"] => openapi_v2(state, headers),
        ["openapi", "v3"] => document(state.openapi.load().v3_index()),
        ["openapi", "v3", rest @ ..] => openapi_v3(state, headers, query, &rest.join("/"))?,
        ["version"] => Ok(respond::bytes(StatusCode::OK, JSON, version())),
        ["healthz" | "livez" | "readyz", rest @ ..] => health(state, parts[0], rest, query)?,
        ["metrics"] => {
            let objects = snapshot.served().filter_map(|served| {
                let stored = served.stored.as_ref()?;
                // `deployments.apps`, as upstream names what it stores.
                let name = match stored.prefix.split_once('/') {
                    Some((group, plural)) => format!("{plural}.{group}"),
                    None => stored.prefix.clone(),
                };
                Some((name, stored.cache.len()))
            });
            let text = state.metrics.render(objects, state.cache.applied());
            Ok(respond::bytes(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                text,
            ))
        }
        [".well-known", "openid-configuration"] => {
            let jwks = format!(
                "https://{}/openid/v1/jwks",
                std::net::SocketAddr::new(state.config.advertise, state.config.port)
            );
            let about = json!({
                "issuer": state.authn.tokens.issuer(),
                "jwks_uri": jwks,
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
            });
            Ok(published(JSON, about))
        }
        ["openid", "v1", "jwks"] => Ok(published(JWKS, state.authn.tokens.jwks())),
        _ => return None,
    })
}

/// What relying parties fetch to verify ServiceAccounts' tokens; they may keep it for an hour.
fn published(content_type: &'static str, value: Value) -> Response<ResponseBody> {
    let mut response = respond::bytes(StatusCode::OK, content_type, value.to_string());
    response.headers_mut().insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("public, max-age=3600"),
    );
    response
}

/// JSON for people, whatever is accepted.
fn raw(value: &Value) -> Response<ResponseBody> {
    let text = serde_json::to_vec_pretty(value).expect("a tree of JSON values has a JSON form");
    respond::bytes(StatusCode::OK, JSON, text)
}

fn object(
    headers: &HeaderMap,
    schema: &kernelet_api::Schema,
    value: &Value,
) -> Result<Response<ResponseBody>, ApiError> {
    let output = negotiate::output(headers, Endpoint::Plain, false)?;
    Ok(respond::value(schema, StatusCode::OK, output, value))
}

/// Every path that leads somewhere.
fn index(snapshot: &crate::registry::Snapshot) -> Value {
    let mut paths: Vec<String> = [
        "/.well-known/openid-configuration",
        "/api",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ]
    .map(str::to_owned)
    .to_vec();
    for (group, versions) in snapshot.api.groups() {
        if group.is_empty() {
            paths.extend(versions.iter().map(|version| format!("/api/{version}")));
        } else {
            paths.push(format!("/apis/{group}"));
            paths.extend(
                versions
                    .iter()
                    .map(|version| format!("/apis/{group}/{version}")),
            );
        }
    }
    paths.sort();
    json!({"paths": paths})
}

/// In upstream's order.
fn version() -> String {
    let platform = match std::env::consts::ARCH {
        "x86_64" => "linux/amd64",
        "aarch64" => "linux/arm64",
        other => other,
    };
    let fields = [
        ("major", "1"),
        ("minor", "35"),
        ("emulationMajor", "1"),
        ("emulationMinor", "35"),
        ("minCompatibilityMajor", "1"),
        ("minCompatibilityMinor", "34"),
        ("gitVersion", GIT_VERSION),
        ("gitCommit", ""),
        ("gitTreeState", "clean"),
        ("buildDate", "1970-01-01T00:00:00Z"),
        ("goVersion", "none"),
        ("compiler", "rustc"),
        ("platform", platform),
    ];
    let lines = fields.map(|(name, value)| format!("  {name:?}: {value:?}"));
    format!("{{\n{}\n}}", lines.join(",\n"))
}

fn accept(headers: &HeaderMap) -> String {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .collect::<Vec<_>>()
        .join(",")
}

/// The first clause that can be had decides; clients put the aggregated form first if they know it.
fn wants_aggregated(headers: &HeaderMap) -> bool {
    let accept = accept(headers);
    let first = accept
        .split(',')
        .map(|clause| clause.replace(' ', ""))
        .find(|clause| {
            clause.starts_with(JSON)
                && (!clause.contains("as=") || clause.contains("v=v2;") || clause.ends_with("v=v2"))
        });
    first.is_some_and(|clause| {
        clause.contains("as=APIGroupDiscoveryList") && clause.contains("g=apidiscovery.k8s.io")
    })
}

fn aggregated(value: Value) -> Response<ResponseBody> {
    let mut response = respond::bytes(StatusCode::OK, AGGREGATED, format!("{value}\n"));
    response
        .headers_mut()
        .insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn openapi_v2(state: &State, headers: &HeaderMap) -> Result<Response<ResponseBody>, ApiError> {
    let accept = accept(headers);
    let openapi = state.openapi.load();
    if accept.contains("proto-openapi.spec.v2") {
        return Ok(whole(
            headers,
            &openapi.v2(Format::Protobuf),
            OPENAPI_V2_PROTOBUF,
        ));
    }
    Ok(whole(headers, &openapi.v2(Format::Json), JSON))
}

fn openapi_v3(
    state: &State,
    headers: &HeaderMap,
    query: &Query,
    path: &str,
) -> Option<Result<Response<ResponseBody>, ApiError>> {
    let protobuf = accept(headers).contains("proto-openapi.spec.v3");
    let (format, content_type) = if protobuf {
        (Format::Protobuf, OPENAPI_V3_PROTOBUF)
    } else {
        (Format::Json, JSON)
    };
    let document = state.openapi.load().v3(path, format)?;
    let mut response = whole(headers, &document, content_type);
    // A URL with the document's hash never changes its meaning.
    if query
        .get("hash")
        .is_some_and(|hash| *hash == *document.hash)
    {
        response.headers_mut().insert(
            header::CACHE_CONTROL,
            HeaderValue::from_static("public, immutable"),
        );
    }
    Some(Ok(response))
}

/// A document by its etag, compressed for whoever can take it.
fn whole(
    headers: &HeaderMap,
    document: &Document,
    content_type: &'static str,
) -> Response<ResponseBody> {
    let etag = format!("\"{}\"", document.hash);
    let known = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.contains(&etag));
    let mut response = if known {
        respond::bytes(StatusCode::NOT_MODIFIED, content_type, "")
    } else if negotiate::accepts_gzip(headers) {
        let mut response = respond::bytes(StatusCode::OK, content_type, document.gzip.to_vec());
        response
            .headers_mut()
            .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response
    } else {
        respond::bytes(StatusCode::OK, content_type, document.plain())
    };
    let out = response.headers_mut();
    out.insert(
        header::VARY,
        HeaderValue::from_static("Accept, Accept-Encoding"),
    );
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        out.insert(header::ETAG, etag);
    }
    response
}

/// `/healthz`, `/livez`, `/readyz`, with `?verbose` and single checks as upstream has them.
fn health(
    state: &State,
    path: &str,
    rest: &[&str],
    query: &Query,
) -> Option<Result<Response<ResponseBody>, ApiError>> {
    let mut checks: Vec<(&str, Result<(), String>)> =
        vec![("ping", Ok(())), ("watch-cache", state.cache.health())];
    if path == "readyz" {
        let going = state.shutdown.is_cancelled();
        checks.push((
            "shutdown",
            if going {
                Err("process is shutting down".to_owned())
            } else {
                Ok(())
            },
        ));
    }
    match rest {
        [] => {}
        [one] => checks.retain(|(name, _)| name == one),
        _ => return None,
    }
    if checks.is_empty() {
        return None;
    }
    let excluded: Vec<&str> = query.all("exclude").collect();
    checks.retain(|(name, _)| !excluded.contains(name));
    let failed = checks.iter().any(|(_, result)| result.is_err());
    if !failed && query.get("verbose").is_none() {
        return Some(Ok(respond::text(StatusCode::OK, "ok")));
    }
    let mut text = String::new();
    for (name, result) in &checks {
        text += &match result {
            Ok(()) => format!("[+]{name} ok\n"),
            Err(why) => format!("[-]{name} failed: {why}\n"),
        };
    }
    text += &format!(
        "{path} check {}\n",
        if failed { "failed" } else { "passed" }
    );
    let status = if failed {
        StatusCode::INTERNAL_SERVER_ERROR
    } else {
        StatusCode::OK
    };
    Some(Ok(respond::text(status, text)))
}
