//! What is known of a request, and the Event made of it.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Response, header, request::Parts};
use jiff::Timestamp;
use kernelet_api::{
    Value,
    codec::{self, FieldValidation, Format},
};
use kernelet_pki::RemoteAddr;
use serde_json::{Map, json};

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

/// An Event, but for the stage.
pub struct Event {
    fields: Map<String, Value>,
    level: Level,
    omit_managed_fields: bool,
}

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

fn user_value(user: &UserInfo) -> Value {
    let mut value = json!({"username": user.name});
    if !user.uid.is_empty() {
        value["uid"] = user.uid.as_str().into();
    }
    if !user.groups.is_empty() {
        value["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        value["extra"] = json!(user.extra);
    }
    value
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
        let mut fields = Map::new();
        let mut set = |key: &str, value: Value| fields.insert(key.to_owned(), value);
        set("kind", "Event".into());
        set("apiVersion", "audit.k8s.io/v1".into());
        set("level", level.name().into());
        let uri = parts.uri.path_and_query().map_or("", |uri| uri.as_str());
        set("requestURI", uri.into());
        let verb = match trail.verb() {
            "" => parts.method.as_str().to_ascii_lowercase(),
            verb => verb.to_owned(),
        };
        set("verb", verb.into());
        set(
            "user",
            trail.user.as_deref().map_or_else(|| json!({}), user_value),
        );
        if let Some(other) = &trail.impersonated {
            set("impersonatedUser", user_value(other));
        }
        if let Some(address) = parts.extensions.get::<RemoteAddr>() {
            set("sourceIPs", json!([address.0.ip().to_string()]));
        }
        if let Some(agent) = text(&parts.headers, header::USER_AGENT) {
            set("userAgent", agent.into());
        }
        if let Some(target) = trail.info.as_ref().and_then(|info| info.resource.as_ref()) {
            let mut object = Map::new();
            for (key, value) in [
                ("resource", &target.gvr.resource),
                ("namespace", &target.namespace),
                ("name", &target.name),
                ("apiGroup", &target.gvr.group),
                ("apiVersion", &target.gvr.version),
                ("subresource", &target.subresource),
            ] {
                if !value.is_empty() {
                    object.insert(key.to_owned(), value.as_str().into());
                }
            }
            set("objectRef", object.into());
        }
        set("requestReceivedTimestamp", time(trail.received).into());
        let mut annotations = trail.annotations;
        if let Some((allowed, reason)) = trail.decision {
            let decision = if allowed { "allow" } else { "forbid" };
            annotations.insert(
                "authorization.k8s.io/decision".to_owned(),
                decision.to_owned(),
            );
            annotations.insert("authorization.k8s.io/reason".to_owned(), reason);
        }
        if !annotations.is_empty() {
            set("annotations", json!(annotations));
        }
        set("auditID", trail.id.into());
        let mut event = Event {
            fields,
            level,
            omit_managed_fields,
        };
        if level >= Level::Request && !trail.body.is_empty() {
            let body = object(state, &parts.headers, &trail.body);
            event.set_object("requestObject", body);
        }
        event
    }

    fn set_object(&mut self, key: &str, object: Option<Value>) {
        let Some(mut object) = object else {
            return;
        };
        if self.omit_managed_fields {
            let items = object.get_mut("items").and_then(Value::as_array_mut);
            for item in items.into_iter().flatten() {
                without_managed_fields(item);
            }
            without_managed_fields(&mut object);
        }
        self.fields.insert(key.to_owned(), object);
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
            object if self.level >= Level::RequestResponse => {
                self.set_object("responseObject", object);
            }
            _ => {}
        }
        self.fields.insert("responseStatus".to_owned(), status);
    }

    /// The Event as a line.
    pub fn line(&self, stage: Stage) -> Vec<u8> {
        let mut fields = self.fields.clone();
        fields.insert("stage".to_owned(), stage.name().into());
        fields.insert("stageTimestamp".to_owned(), time(Timestamp::now()).into());
        if stage == Stage::RequestReceived {
            fields.remove("responseStatus");
            fields.remove("annotations");
        }
        let mut line = codec::encode_json(&Value::Object(fields));
        line.push(b'\n');
        line
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
