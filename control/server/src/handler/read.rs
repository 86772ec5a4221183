//! Get and list, from the cache; lists at an older revision from the store.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{StreamExt, stream};
use http::{HeaderValue, Response, StatusCode, header};
use jiff::Timestamp;
use kernelet_api::{ApiError, Value, codec::Format, status::Cause};
use kernelet_openapi::tables::Printer;
use kernelet_store::{Range, Revision, StoreError};
use serde_json::json;

use super::{
    Call, Failure,
    continuation::Token,
    encode::{ListMeta, View},
    params::{ListOptions, Match, resource_version},
    select::Filter,
    table,
};
use crate::{
    body::{BoxError, ResponseBody},
    cache::{self, CachedObject, FRESHNESS_TIMEOUT, KeyRange, NotFresh},
    gzip,
    http::{
        negotiate::{self, Endpoint, Form, Output},
        respond,
    },
    registry::Stored,
};

/// Lists smaller than this aren't worth compressing; upstream's figure.
const GZIP_FROM: usize = 128 * 1024;
/// What goes into one chunk of a streamed list.
const CHUNK: usize = 64 * 1024;

/// `get` of one object.
pub async fn get(call: &Call) -> Result<Response<ResponseBody>, Failure> {
    let stored = call.stored()?;
    let output = call.output(Endpoint::Object)?;
    let revision = call
        .query
        .non_empty("resourceVersion")
        .map(resource_version)
        .transpose()?;
    reach(call, revision).await?;
    let key = Stored::cache_key(&call.target.namespace, &call.target.name);
    let object = stored.cache.get(&key).ok_or_else(|| call.not_found())?;
    call.answer_cached(StatusCode::OK, output, &object)
}

/// Waits until the cache is as new as a read at `revision` (none: the newest; 0: anything) wants it.
pub async fn reach(call: &Call, revision: Option<i64>) -> Result<i64, ApiError> {
    match revision {
        Some(0) => Ok(call.state.cache.applied()),
        Some(revision) => match call.state.cache.wait(revision, FRESHNESS_TIMEOUT).await {
            Ok(applied) => Ok(applied),
            Err(NotFresh { current }) => Err(too_large_version(revision, current)),
        },
        None => call.state.cache.fresh().await.map_err(store_error),
    }
}

fn too_large_version(revision: i64, current: i64) -> ApiError {
    ApiError::timeout(
        format!("Too large resource version: {revision}, current: {current}"),
        1,
    )
    .with_causes(vec![Cause {
        reason: "ResourceVersionTooLarge".to_owned(),
        message: "Too large resource version".to_owned(),
        field: String::new(),
    }])
}

/// What the store refuses, as clients see it.
pub fn store_error(error: StoreError) -> ApiError {
    match error {
        StoreError::Compacted { .. } => {
            ApiError::expired("The resourceVersion for the provided list is too old.")
        }
        StoreError::FutureRevision { requested, current } => {
            too_large_version(requested.0, current.0)
        }
        StoreError::TooLarge { bytes, limit } => ApiError::too_large(format!(
            "the object has {bytes} bytes, at most {limit} can be stored"
        )),
        StoreError::DiskFull => ApiError::new(507, "InternalError", error.to_string()),
        StoreError::Stopped(_) => ApiError::service_unavailable(error.to_string()),
        other => ApiError::internal(other),
    }
}

/// The objects that a list answers with.
pub struct Listed {
    pub objects: Vec<Arc<CachedObject>>,
    pub meta: ListMeta,
}

/// `list` of a collection.
pub async fn list(call: &Call) -> Result<Response<ResponseBody>, Failure> {
    let options = ListOptions::parse(&call.query, false)?;
    let output = call.output(Endpoint::List)?;
    let filter = Filter::parse(&call.served, &call.target.namespace, &call.query)?;
    let listed = select(call, &filter, &options).await?;
    answer(call, output, listed)
}

/// Reads what `filter` and `options` ask for.
pub async fn select(
    call: &Call,
    filter: &Filter,
    options: &ListOptions,
) -> Result<Listed, Failure> {
    let stored = call.stored()?;
    let token = match options.continue_token.as_str() {
        "" => None,
        text => Some(Token::decode(text)?),
    };
    let exact = match (
        &token,
        options.resource_version,
        options.resource_version_match,
    ) {
        (Some(token), ..) => (token.rv > 0).then_some(token.rv),
        (None, Some(revision), Some(Match::Exact)) => Some(revision),
        // Upstream's oldest rule: a page of a list at a revision is that revision's.
        (None, Some(revision), None) if revision > 0 && options.limit > 0 => Some(revision),
        _ => None,
    };
    let after = token.as_ref().map_or("", |token| token.start.as_str());
    let (objects, revision) = match exact {
        Some(revision) => {
            match at_revision(call, stored, filter, after, revision, options.limit).await {
                Err(StoreError::Compacted { .. }) if token.is_some() => {
                    return Err(Failure {
                        error: ApiError::expired(
                            "The provided continue parameter is too old to display a consistent list result. You can \
                         start a new list without the continue parameter, or use the continue token in this response \
                         to retrieve the remainder of the results. Continuing with the provided token results in an \
                         inconsistent list - objects that were created, modified, or deleted between the time the \
                         first chunk was returned and now may show up in the list.",
                        ),
                        continue_token: Some(Token::encode(-1, after)),
                    });
                }
                Err(StoreError::Compacted { requested, floor }) => {
                    return Err(ApiError::expired(format!(
                        "too old resource version: {requested} ({floor})"
                    ))
                    .into());
                }
                read => {
                    let (objects, left_out) = read.map_err(store_error)?;
                    return Ok(page(objects, left_out, revision, filter, options.limit));
                }
            }
        }
        None => {
            let applied = reach(call, options.resource_version.filter(|_| token.is_none())).await?;
            let range = KeyRange {
                namespace: &filter.namespace,
                after,
            };
            stored
                .cache
                .list(range, applied, |object| filter.matches(object))
        }
    };
    Ok(page(objects, 0, revision, filter, options.limit))
}

/// Cuts a page off, with the token that continues it. `left_out`: how many objects there are besides the given ones.
fn page(
    mut objects: Vec<Arc<CachedObject>>,
    left_out: usize,
    revision: i64,
    filter: &Filter,
    limit: usize,
) -> Listed {
    let mut meta = ListMeta {
        resource_version: revision,
        ..ListMeta::default()
    };
    if limit > 0 && objects.len() > limit {
        // A count of what a selector leaves would be wrong as soon as the store pages; upstream tells none.
        meta.remaining = filter.is_plain().then(|| objects.len() - limit + left_out);
        objects.truncate(limit);
        meta.continue_token = objects
            .last()
            .map(|last| Token::encode(revision, &last.key));
    }
    Listed { objects, meta }
}

/// The objects as they were at a revision, from the store: one more than the limit if a selector needn't see them
/// all, and how many there are besides.
async fn at_revision(
    call: &Call,
    stored: &Stored,
    filter: &Filter,
    after: &str,
    revision: i64,
    limit: usize,
) -> Result<(Vec<Arc<CachedObject>>, usize), StoreError> {
    let mut prefix = String::from_utf8_lossy(&stored.store_key("")).into_owned();
    let root = prefix.len();
    if !filter.namespace.is_empty() {
        prefix.push_str(&filter.namespace);
        prefix.push('/');
    }
    let mut range = Range::prefix(prefix.clone()).at(Revision(revision));
    let start = format!("{}{after}\0", &prefix[..root]);
    if !after.is_empty() && start > prefix {
        range.key = start.into();
    }
    if limit > 0 && filter.is_plain() {
        range.limit = limit + 1;
    }
    let response = call.state.store.range(range).await?;
    let left_out = usize::try_from(response.count)
        .unwrap_or_default()
        .saturating_sub(response.kvs.len());
    let objects = response
        .kvs
        .iter()
        .filter_map(|kv| {
            let key = std::str::from_utf8(&kv.key).ok()?.get(root..)?;
            cache::from_kv(kv, key, &stored.indexer)
        })
        .filter(|object| filter.matches(object))
        .collect();
    Ok((objects, left_out))
}

fn answer(call: &Call, output: Output, listed: Listed) -> Result<Response<ResponseBody>, Failure> {
    let view = call.view();
    let gzip = negotiate::accepts_gzip(&call.headers);
    let weight: usize = listed.objects.iter().map(|object| object.weight()).sum();
    let compress = gzip && weight >= GZIP_FROM;
    if let (Form::Table(version), Format::Json, false) = (output.form, output.format, output.pretty)
        && let Some(printer) = table::Renderer::of(call).printer()?
    {
        let head = printer.head(version.api_version(), &listed.meta.to_value());
        let body = stream_rows(view, printer, head, listed.objects);
        return Ok(respond::stream(
            output.content_type(),
            ResponseBody::stream(body),
        ));
    }
    let mut response = match (output.form, output.format) {
        (Form::Table(version), _) => {
            let trees = listed
                .objects
                .iter()
                .map(|object| view.tree(object))
                .collect::<Result<Vec<_>, _>>()?;
            let table = table::render(
                call,
                version,
                &trees,
                Some(&listed.meta),
                table::Header::Yes,
            )?;
            respond::value(&view.schema, StatusCode::OK, output, &table)
        }
        (form, Format::Protobuf) => {
            let objects = listed.objects.iter().map(|object| &**object);
            let body = view.list_protobuf(form, &listed.meta, objects)?;
            respond::bytes(StatusCode::OK, output.content_type(), body)
        }
        (form, Format::Json) if !output.pretty => {
            let body = stream_json(view, form, listed);
            let body = match compress {
                true => gzip::stream(body),
                false => ResponseBody::stream(body),
            };
            respond::stream(negotiate::JSON, body)
        }
        (form, _) => {
            let body = list_tree(&view, form, &listed)?;
            respond::value(&view.schema, StatusCode::OK, output, &body)
        }
    };
    if compress
        && matches!(
            (output.form, output.format),
            (Form::Full | Form::Metadata(_), Format::Json)
        )
        && !output.pretty
    {
        response
            .headers_mut()
            .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response
            .headers_mut()
            .insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    Ok(response)
}

fn list_tree(view: &View, form: Form, listed: &Listed) -> Result<Value, ApiError> {
    let (kind, api_version) = view.list_kind(form);
    let items = listed
        .objects
        .iter()
        .map(|object| match form {
            Form::Metadata(version) => Ok(super::encode::partial(&object.tree(), version)),
            Form::Full | Form::Table(_) => view.tree(object),
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(
        json!({"kind": kind, "apiVersion": api_version, "metadata": listed.meta.to_value(), "items": items}),
    )
}

/// A list as chunks, made as they are read: a client that never reads costs the references, not the bytes.
fn stream_json(
    view: View,
    form: Form,
    listed: Listed,
) -> impl futures::Stream<Item = Result<Bytes, BoxError>> + Send + 'static {
    let head = view.list_head(form, &listed.meta);
    let state = (view, listed.objects.into_iter(), Some(head), false);
    stream::unfold(state, move |(view, mut objects, head, done)| async move {
        if done {
            return None;
        }
        let mut first = head.is_some();
        let mut chunk = BytesMut::new();
        if let Some(head) = head {
            chunk.put_slice(head.as_bytes());
        }
        let mut done = false;
        while chunk.len() < CHUNK {
            let Some(object) = objects.next() else {
                chunk.put_slice(b"]}\n");
                done = true;
                break;
            };
            if !first {
                chunk.put_u8(b',');
            }
            first = false;
            match view.json(&object, form) {
                Ok(bytes) => chunk.put_slice(&bytes),
                Err(error) => return Some((Err(error.into()), (view, objects, None, true))),
            }
        }
        Some((Ok(chunk.freeze()), (view, objects, None, done)))
    })
    .fuse()
}

/// A table as chunks, as [`stream_json`] does it.
fn stream_rows(
    view: View,
    printer: Printer,
    head: String,
    objects: Vec<Arc<CachedObject>>,
) -> impl futures::Stream<Item = Result<Bytes, BoxError>> + Send + 'static {
    let state = Some((objects.into_iter(), head.into_bytes()));
    let first = true;
    stream::try_unfold((state, first), move |(state, mut first)| {
        let chunk = state.map(|(mut objects, mut chunk)| {
            while chunk.len() < CHUNK {
                let Some(object) = objects.next() else {
                    chunk.extend_from_slice(b"]}\n");
                    return Ok::<_, BoxError>((Bytes::from(chunk), (None, first)));
                };
                if !std::mem::take(&mut first) {
                    chunk.push(b',');
                }
                printer.row(&view.json(&object, Form::Full)?, &mut chunk)?;
            }
            let rest = (objects, Vec::with_capacity(CHUNK + CHUNK / 8));
            Ok((Bytes::from(chunk), (Some(rest), first)))
        });
        std::future::ready(chunk.transpose())
    })
}

/// The time now as objects carry it: whole seconds, `Z`.
pub fn now_text() -> String {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).map_or_else(|_| now.to_string(), |now| now.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_opaque_and_checked() {
        let text = Token::encode(7, "a/b");
        let token = Token::decode(&text).unwrap();
        assert_eq!((token.rv, token.start.as_str()), (7, "a/b"));
        for text in ["", "!", "e30", "eyJ2IjoieCIsInJ2IjoxLCJzdGFydCI6ImEifQ"] {
            assert_eq!(Token::decode(text).unwrap_err().code, 400, "{text}");
        }
    }
}
