//! What is known of a request, and the Event made of it.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Response, header, request::Parts};
use jiff::Timestamp;
use kernelet_api::{
    Value,
    codec::{self, FieldValidation, Format},
};
use kernelet_pki::RemoteAddr;
use serde::{Serialize, Serializer};
use serde_json::json;

use super::{Level, Stage};
use crate::{body::ResponseBody, request::RequestInfo, state::State, user::UserInfo};

/// What the pipeline finds out about a request on its way.
pub struct Trail {
    pub id: String,
    pub received: Timestamp,
    /// Who proved to ask; none where nobody did.
    pub user: Option<Arc<UserInfo>>,
    /// As whom, where that is another.
    pub impersonated: Option<Arc<UserInfo>>,
    pub info: Option<RequestInfo>,
    /// What authorisation decided, and why.
    pub decision: Option<(bool, String)>,
    /// What admission found.
    pub annotations: BTreeMap<String, String>,
    pub body: Bytes,
    pub panicked: bool,
}

impl Trail {
    /// `id`: the client's `Audit-ID`, if it gave one.
    pub fn new(id: Option<String>) -> Trail {
        Trail {
            id: id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
            received: Timestamp::now(),
            user: None,
            impersonated: None,
            info: None,
            decision: None,
            annotations: BTreeMap::new(),
            body: Bytes::new(),
            panicked: false,
        }
    }

    pub fn verb(&self) -> &str {
        self.info.as_ref().map_or("", |info| info.verb)
    }

    pub fn path(&self) -> &str {
        self.info.as_ref().map_or("", |info| info.path.as_str())
    }

    /// The body is of those that no log may hold.
    fn is_secret(&self) -> bool {
        let Some(target) = self.info.as_ref().and_then(|info| info.resource.as_ref()) else {
            return false;
        };
        let (group, resource) = (target.gvr.group.as_str(), target.gvr.resource.as_str());
        matches!(
            (group, resource, target.subresource.as_str()),
            ("", "secrets", _)
                | ("", "serviceaccounts", "token")
                | ("authentication.k8s.io", "tokenreviews", _)
        )
    }
}

/// An Event, but for the stage. It is written as a line straight from what the request left behind: nothing else is
/// made for every request, and read by nobody, so often.
pub struct Event {
    trail: Trail,
    level: Level,
    omit_managed_fields: bool,
    uri: String,
    verb: String,
    source: Option<IpAddr>,
    agent: Option<String>,
    request: Option<Value>,
    response: Option<Value>,
    status: Option<Value>,
}

/// The Event as upstream's audit.k8s.io/v1 has it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    kind: &'static str,
    api_version: &'static str,
    level: &'static str,
    #[serde(rename = "auditID")]
    audit_id: &'a str,
    stage: &'static str,
    #[serde(rename = "requestURI")]
    request_uri: &'a str,
    verb: &'a str,
    user: User<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_user: Option<User<'a>>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "Option::is_none")]
    source_ips: Option<[IpAddr; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_ref: Option<ObjectRef<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_object: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_object: Option<&'a Value>,
    request_received_timestamp: Micros,
    stage_timestamp: Micros,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<Annotations<'a>>,
}

#[derive(Default, Serialize)]
struct User<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    username: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    uid: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    groups: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    extra: Option<&'a BTreeMap<String, Vec<String>>>,
}

impl<'a> User<'a> {
    fn of(user: &'a Arc<UserInfo>) -> User<'a> {
        User {
            username: &user.name,
            uid: &user.uid,
            groups: &user.groups,
            extra: Some(&user.extra).filter(|extra| !extra.is_empty()),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ObjectRef<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    resource: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    api_group: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    api_version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    subresource: &'a str,
}

#[derive(Serialize)]
struct Annotations<'a> {
    #[serde(
        rename = "authorization.k8s.io/decision",
        skip_serializing_if = "Option::is_none"
    )]
    decision: Option<&'static str>,
    #[serde(
        rename = "authorization.k8s.io/reason",
        skip_serializing_if = "Option::is_none"
    )]
    reason: Option<&'a str>,
    /// Admission's.
    #[serde(flatten)]
    others: &'a BTreeMap<String, String>,
}

impl<'a> Annotations<'a> {
    fn of(trail: &'a Trail) -> Option<Annotations<'a>> {
        let decision = trail.decision.as_ref();
        if decision.is_none() && trail.annotations.is_empty() {
            return None;
        }
        Some(Annotations {
            decision: decision.map(|(allowed, _)| if *allowed { "allow" } else { "forbid" }),
            reason: decision.map(|(_, reason)| reason.as_str()),
            others: &trail.annotations,
        })
    }
}

/// A time with six digits of the second, as upstream's MicroTime.
struct Micros(Timestamp);

impl Serialize for Micros {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:.6}", self.0))
    }
}

fn text(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

impl Event {
    pub fn new(
        state: &State,
        trail: Trail,
        parts: &Parts,
        level: Level,
        omit_managed_fields: bool,
    ) -> Event {
        let level = if trail.is_secret() {
            level.min(Level::Metadata)
        } else {
            level
        };
        let uri = parts.uri.path_and_query().map_or("", |uri| uri.as_str());
        let verb = match trail.verb() {
            "" => parts.method.as_str().to_ascii_lowercase(),
            verb => verb.to_owned(),
        };
        let source = parts.extensions.get::<RemoteAddr>();
        let mut event = Event {
            level,
            omit_managed_fields,
            uri: uri.to_owned(),
            verb,
            source: source.map(|address| address.0.ip()),
            agent: text(&parts.headers, header::USER_AGENT).map(str::to_owned),
            request: None,
            response: None,
            status: None,
            trail,
        };
        if level >= Level::Request && !event.trail.body.is_empty() {
            let body = object(state, &parts.headers, &event.trail.body);
            event.request = event.told(body);
        }
        // It may be a watch's, which lives long.
        event.trail.body = Bytes::new();
        event
    }

    /// An object as the log has it.
    fn told(&self, object: Option<Value>) -> Option<Value> {
        let mut object = object?;
        if self.omit_managed_fields {
            let items = object.get_mut("items").and_then(Value::as_array_mut);
            for item in items.into_iter().flatten() {
                without_managed_fields(item);
            }
            without_managed_fields(&mut object);
        }
        Some(object)
    }

    /// Adds how it went.
    pub fn answered(&mut self, state: &State, response: &Response<ResponseBody>) {
        let code = response.status().as_u16();
        let body = response.body().bytes();
        let failed = code >= 400;
        let object = body
            .filter(|_| failed || self.level >= Level::RequestResponse)
            .and_then(|bytes| object(state, response.headers(), bytes));
        let mut status = json!({"metadata": {}, "code": code});
        match object {
            Some(told) if failed => {
                for field in ["status", "message", "reason", "details"] {
                    if let Some(value) = told.get(field) {
                        status[field] = value.clone();
                    }
                }
            }
            object if self.level >= Level::RequestResponse => self.response = self.told(object),
            _ => {}
        }
        self.status = Some(status);
    }

    /// The Event as a line.
    pub fn line(&self, stage: Stage) -> Vec<u8> {
        let trail = &self.trail;
        let target = trail.info.as_ref().and_then(|info| info.resource.as_ref());
        let judged = stage != Stage::RequestReceived;
        let line = Line {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: self.level.name(),
            audit_id: &trail.id,
            stage: stage.name(),
            request_uri: &self.uri,
            verb: &self.verb,
            user: trail.user.as_ref().map(User::of).unwrap_or_default(),
            impersonated_user: trail.impersonated.as_ref().map(User::of),
            source_ips: self.source.map(|source| [source]),
            user_agent: self.agent.as_deref(),
            object_ref: target.map(|target| ObjectRef {
                resource: &target.gvr.resource,
                namespace: &target.namespace,
                name: &target.name,
                api_group: &target.gvr.group,
                api_version: &target.gvr.version,
                subresource: &target.subresource,
            }),
            response_status: self.status.as_ref().filter(|_| judged),
            request_object: self.request.as_ref(),
            response_object: self.response.as_ref(),
            request_received_timestamp: Micros(trail.received),
            stage_timestamp: Micros(Timestamp::now()),
            annotations: Annotations::of(trail).filter(|_| judged),
        };
        // Maps of texts and trees of values: nothing in it can fail to be written.
        let mut text = serde_json::to_vec(&line).unwrap_or_default();
        text.push(b'\n');
        text
    }
}

fn without_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

/// A body as a tree, whatever form it was sent in. Patches are told as they are.
fn object(state: &State, headers: &HeaderMap, body: &[u8]) -> Option<Value> {
    let kind = text(headers, header::CONTENT_TYPE).unwrap_or_default();
    if kind.contains("protobuf") {
        let schema = &state.registry.load().api.schema;
        let decoded =
            codec::decode_any(schema, Format::Protobuf, body, FieldValidation::Ignore).ok()?;
        return Some(decoded.value);
    }
    if kind.contains("yaml") {
        return codec::parse_yaml(body).ok().map(|(value, _)| value);
    }
    serde_json::from_slice(body).ok()
}
