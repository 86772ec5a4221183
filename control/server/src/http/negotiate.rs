//! `Accept` and `Content-Type`: which form a client wants, and which it sent.
//!
//! An answer has a format (JSON, YAML, protobuf) and a form: the object itself, a Table, or metadata only
//! (`application/json;as=Table;v=v1;g=meta.k8s.io`). A clause that can't be had is passed over for the next; when
//! none can be had the answer is 406.

use http::{HeaderMap, header};
use kernelet_api::{ApiError, codec::Format};

pub const JSON: &str = "application/json";
pub const YAML: &str = "application/yaml";
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// What an endpoint can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// One object, or a Status.
    Object,
    List,
    /// A stream of events; YAML has no framing.
    Watch,
    /// Only its own kind: reviews, discovery, subresources without a table.
    Plain,
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Full,
    Table(MetaVersion),
    /// PartialObjectMetadata, or a list of it.
    Metadata(MetaVersion),
}

/// The version of `meta.k8s.io` asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaVersion {
    V1,
    V1Beta1,
}

impl MetaVersion {
    pub fn api_version(self) -> &'static str {
        match self {
            MetaVersion::V1 => "meta.k8s.io/v1",
            MetaVersion::V1Beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

/// What a client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    pub format: Format,
    pub form: Form,
    pub pretty: bool,
}

impl Output {
    pub const JSON: Output = Output {
        format: Format::Json,
        form: Form::Full,
        pretty: false,
    };

    /// The `Content-Type` of a whole answer.
    pub fn content_type(self) -> &'static str {
        match self.format {
            Format::Json => JSON,
            Format::Yaml => YAML,
            Format::Protobuf => PROTOBUF,
        }
    }
}

/// One clause of an `Accept` header.
struct Clause<'a> {
    media: &'a str,
    params: Vec<(&'a str, &'a str)>,
    quality: f32,
}

fn clauses(accept: &str) -> Vec<Clause<'_>> {
    let mut clauses: Vec<Clause<'_>> = accept
        .split(',')
        .filter_map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().filter(|media| !media.is_empty())?;
            let mut quality = 1.0;
            let params = parts
                .filter_map(|param| param.split_once('='))
                .map(|(key, value)| (key.trim(), value.trim().trim_matches('"')))
                .filter(|(key, value)| {
                    if *key == "q" {
                        quality = value.parse().unwrap_or(1.0);
                    }
                    *key != "q"
                })
                .collect();
            Some(Clause {
                media,
                params,
                quality,
            })
        })
        .collect();
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    clauses
}

/// Picks the answer's form.
pub fn output(headers: &HeaderMap, endpoint: Endpoint, pretty: bool) -> Result<Output, ApiError> {
    let accepts: Vec<&str> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let accept = accepts.join(",");
    let found = if accept.trim().is_empty() {
        Some(Output {
            pretty,
            ..Output::JSON
        })
    } else {
        clauses(&accept)
            .iter()
            .find_map(|clause| acceptable(clause, endpoint, pretty))
    };
    found.ok_or_else(|| {
        let types: &[&str] = match endpoint {
            Endpoint::Watch => &[JSON, "application/vnd.kubernetes.protobuf;stream=watch"],
            _ => &[JSON, YAML, PROTOBUF],
        };
        ApiError::not_acceptable(types)
    })
}

fn acceptable(clause: &Clause<'_>, endpoint: Endpoint, pretty: bool) -> Option<Output> {
    if clause.quality <= 0.0 {
        return None;
    }
    let format = match clause.media {
        JSON | "*/*" | "application/*" => Format::Json,
        YAML | "application/x-yaml" | "text/yaml" => Format::Yaml,
        PROTOBUF => Format::Protobuf,
        _ => return None,
    };
    if endpoint == Endpoint::Watch && format == Format::Yaml {
        return None;
    }
    let param = |key: &str| {
        clause
            .params
            .iter()
            .find(|(k, _)| *k == key)
            .map(|(_, v)| *v)
    };
    let pretty = pretty || param("pretty") == Some("1") || param("pretty") == Some("true");
    let form = match param("as") {
        None => Form::Full,
        Some(kind) => {
            if param("g") != Some("meta.k8s.io") {
                return None;
            }
            let version = match param("v")? {
                "v1" => MetaVersion::V1,
                "v1beta1" => MetaVersion::V1Beta1,
                _ => return None,
            };
            match (kind, endpoint) {
                (_, Endpoint::Plain) => return None,
                // Upstream's Table has no protobuf form.
                ("Table", _) if format == Format::Protobuf => return None,
                ("Table", _) => Form::Table(version),
                ("PartialObjectMetadata", Endpoint::Object | Endpoint::Watch)
                | ("PartialObjectMetadataList", Endpoint::List | Endpoint::Watch) => {
                    Form::Metadata(version)
                }
                _ => return None,
            }
        }
    };
    Some(Output {
        format,
        form,
        pretty,
    })
}

/// The format of a request's body. A missing `Content-Type` means JSON.
pub fn content_format(headers: &HeaderMap) -> Result<Format, ApiError> {
    match content_type(headers).as_str() {
        "" | JSON => Ok(Format::Json),
        YAML | "application/x-yaml" | "text/yaml" => Ok(Format::Yaml),
        PROTOBUF => Ok(Format::Protobuf),
        _ => Err(ApiError::unsupported_media_type(&[JSON, YAML, PROTOBUF])),
    }
}

/// `Content-Type` without its parameters, in lower case.
pub fn content_type(headers: &HeaderMap) -> String {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map(|value| {
            value
                .split(';')
                .next()
                .unwrap_or_default()
                .trim()
                .to_ascii_lowercase()
        })
        .unwrap_or_default()
}

/// Whether the client takes gzip.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(clauses)
        .any(|clause| clause.media.eq_ignore_ascii_case("gzip") && clause.quality > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &str, endpoint: Endpoint, expect: Option<(Format, Form)>) {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        let found = output(&headers, endpoint, false)
            .ok()
            .map(|output| (output.format, output.form));
        assert_eq!(found, expect, "{accept}");
    }

    #[test]
    fn clauses_are_tried_in_turn() {
        use Endpoint::{List, Object, Plain, Watch};
        let table = Form::Table(MetaVersion::V1);
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        check(kubectl, List, Some((Format::Json, table)));
        check(kubectl, Plain, Some((Format::Json, Form::Full)));
        check(
            "application/vnd.kubernetes.protobuf,application/json",
            Object,
            Some((Format::Protobuf, Form::Full)),
        );
        check(
            "application/vnd.kubernetes.protobuf;stream=watch",
            Watch,
            Some((Format::Protobuf, Form::Full)),
        );
        check("application/yaml", Object, Some((Format::Yaml, Form::Full)));
        check("application/yaml", Watch, None);
        check("text/html", Object, None);
        check(
            "text/html,*/*;q=0.8",
            Object,
            Some((Format::Json, Form::Full)),
        );
        check(
            "application/json;q=0.1,application/yaml",
            Object,
            Some((Format::Yaml, Form::Full)),
        );
        check("application/json;as=Table;v=v2;g=meta.k8s.io", List, None);
        check(
            "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
            List,
            None,
        );
        check(
            "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
            List,
            Some((Format::Json, Form::Metadata(MetaVersion::V1))),
        );
    }

    #[test]
    fn gzip_must_be_named() {
        let check = |text: &str, expect| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, text.parse().unwrap());
            assert_eq!(accepts_gzip(&headers), expect, "{text}");
        };
        check("gzip", true);
        check("deflate, gzip;q=0.5", true);
        check("gzip;q=0", false);
        check("br", false);
    }
}
