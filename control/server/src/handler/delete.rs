//! Delete: at once, with grace, or when the finalizers are done.
//!
//! ```text
//! present ──grace──► deletionTimestamp in the future ──last delete (grace 0)──► gone
//!    ├──finalizers──► deletionTimestamp, grace 0 ──update without finalizers──► gone
//!    └──────────────────────────────────────────────────────────────────────► gone
//! ```

use std::sync::Arc;

use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use kernelet_api::{
    ApiError, FieldError, Gvk, Value, codec::FieldValidation, meta, resources::Resource, status,
};
use kernelet_store::{Compare, LeaseId, Op, Put, Range, Revision, Txn};
use serde_json::json;

use super::{
    Call, Failure, WriteRequest,
    encode::partial,
    params::{DryRun, ListOptions, WriteOptions, boolean, dry_run, integer},
    read::{select, store_error},
    select::Filter,
    write::{live_of, uid_precondition},
};
use crate::{
    admission::{Operation, services::Claims},
    body::ResponseBody,
    cache::{self, CachedObject},
    http::negotiate::{Endpoint, Form},
    registry::Stored,
};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const ATTEMPTS: usize = 100;

/// `meta/v1` DeleteOptions.
#[derive(Clone, Debug, Default)]
pub(super) struct DeleteOptions {
    pub grace_period_seconds: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub propagation: Option<Propagation>,
    pub dry_run: DryRun,
    /// `orphanDependents` or foreground was asked for: what isn't gone at once is 202.
    accepted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Propagation {
    Orphan,
    Background,
    Foreground,
}

impl DeleteOptions {
    pub(super) fn parse(call: &Call) -> Result<DeleteOptions, ApiError> {
        let mut options = if call.body.is_empty() {
            DeleteOptions {
                grace_period_seconds: integer(&call.query, "gracePeriodSeconds")?,
                dry_run: dry_run(call.query.all("dryRun"), "DeleteOptions")?,
                ..DeleteOptions::default()
            }
            .with_propagation(
                call.query.non_empty("propagationPolicy"),
                boolean(&call.query, "orphanDependents")?,
            )?
        } else {
            let body = call.decode(
                &Gvk::new("", "v1", "DeleteOptions"),
                FieldValidation::Ignore,
            )?;
            DeleteOptions::of(&body)?
        };
        // The query may say so too, whatever the body says.
        if dry_run(call.query.all("dryRun"), "DeleteOptions")? == DryRun::All {
            options.dry_run = DryRun::All;
        }
        Ok(options)
    }

    /// From an object of that kind.
    pub(super) fn of(body: &Value) -> Result<DeleteOptions, ApiError> {
        let text = |pointer: &str| {
            body.pointer(pointer)
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        let dry: Vec<&str> = body
            .get("dryRun")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        DeleteOptions {
            grace_period_seconds: body.get("gracePeriodSeconds").and_then(Value::as_i64),
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
            dry_run: dry_run(dry.into_iter(), "DeleteOptions")?,
            ..DeleteOptions::default()
        }
        .with_propagation(
            text("/propagationPolicy").as_deref(),
            body.get("orphanDependents").and_then(Value::as_bool),
        )
    }

    fn with_propagation(
        mut self,
        policy: Option<&str>,
        orphan: Option<bool>,
    ) -> Result<DeleteOptions, ApiError> {
        let invalid = |error| {
            Err(ApiError::invalid(
                "meta.k8s.io",
                "DeleteOptions",
                "",
                &[error],
            ))
        };
        if policy.is_some() && orphan.is_some() {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            return invalid(FieldError::invalid(
                "propagationPolicy",
                policy.unwrap_or_default(),
                why,
            ));
        }
        self.propagation = match (policy, orphan) {
            (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
            (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
            (Some("Foreground"), _) => Some(Propagation::Foreground),
            (None, None) => None,
            (Some(other), _) => {
                let supported = ["Foreground", "Background", "Orphan", "nil"];
                return invalid(FieldError::not_supported(
                    "propagationPolicy",
                    other,
                    &supported,
                ));
            }
        };
        self.accepted = orphan == Some(false) || self.propagation == Some(Propagation::Foreground);
        Ok(self)
    }
}

/// What became of an object.
pub(super) enum Deleted {
    /// It is gone; this was its last state.
    Gone(Arc<CachedObject>),
    /// It goes when its grace or finalizers have ended.
    Pending(Arc<CachedObject>),
}

pub async fn delete(call: &Call) -> Result<Response<ResponseBody>, Failure> {
    let output = call.output(Endpoint::Object)?;
    let options = DeleteOptions::parse(call)?;
    let deleted = delete_one(call, &call.target.name, &options).await?;
    let (group, plural) = call.served.names();
    match deleted {
        Deleted::Pending(object) => {
            let status = if options.accepted {
                StatusCode::ACCEPTED
            } else {
                StatusCode::OK
            };
            call.answer_cached(status, output, &object)
        }
        // Upstream answers some kinds' deletion with the object, the others' with a Status.
        Deleted::Gone(object)
            if matches!(
                (group, plural),
                ("", "pods" | "services" | "serviceaccounts")
            ) =>
        {
            call.answer_cached(StatusCode::OK, output, &object)
        }
        Deleted::Gone(object) => {
            let value = status::success(group, plural, object.name(), &object.index.uid);
            Ok(call.answer_value(StatusCode::OK, output, &value))
        }
    }
}

pub async fn delete_collection(call: &Call) -> Result<Response<ResponseBody>, Failure> {
    let output = call.output(Endpoint::List)?;
    let options = DeleteOptions::parse(call)?;
    let list = ListOptions::parse(&call.query, false)?;
    let filter = Filter::parse(&call.served, &call.target.namespace, &call.query)?;
    let listed = select(call, &filter, &list).await?;
    let view = call.view();
    let mut items = Vec::new();
    for object in &listed.objects {
        match delete_one_of(call, object.namespace(), object.name(), &options).await {
            Ok(Deleted::Gone(object) | Deleted::Pending(object)) => items.push(match output.form {
                Form::Metadata(version) => partial(&object.tree(), version),
                Form::Full | Form::Table(_) => view.tree(&object)?,
            }),
            // Somebody else deleted it meanwhile.
            Err(failure) if failure.error.code == 404 => {}
            Err(failure) => return Err(failure),
        }
    }
    let form = match output.form {
        Form::Table(_) => Form::Full,
        form => form,
    };
    let (kind, api_version) = view.list_kind(form);
    let value = json!({"kind": kind, "apiVersion": api_version, "metadata": listed.meta.to_value(), "items": items});
    Ok(call.answer_value(StatusCode::OK, output, &value))
}

async fn delete_one(call: &Call, name: &str, options: &DeleteOptions) -> Result<Deleted, Failure> {
    let namespace = if call.served.resource.namespaced {
        &call.target.namespace
    } else {
        ""
    };
    delete_one_of(call, namespace, name, options).await
}

/// Deletes one object, as often anew as others change it.
pub(super) async fn delete_one_of(
    call: &Call,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> Result<Deleted, Failure> {
    let write = WriteOptions {
        dry_run: options.dry_run,
        ..WriteOptions::default()
    };
    let request = WriteRequest {
        namespace,
        ..WriteRequest::of(call, &write, None)
    };
    let stored = request.stored()?;
    let key = Stored::cache_key(namespace, name);
    let store_key = stored.store_key(&key);
    let (group, plural) = call.served.names();
    let not_found = || ApiError::not_found(group, plural, name);
    let mut old = request.live(&key).await?;
    for _ in 0..ATTEMPTS {
        let current = old.ok_or_else(not_found)?;
        let tree = current.tree();
        check_preconditions(&request, name, &tree, options)?;
        request.admit_delete(&tree).await?;
        let step = plan(&call.served.resource, &tree, options, Timestamp::now());
        let (write, claims, bytes) = match step {
            Step::Nothing => return Ok(Deleted::Pending(current)),
            Step::Remove => (
                Op::Delete(kernelet_store::Delete::key(store_key.clone())),
                Claims::of_delete(&request, &tree),
                None,
            ),
            Step::Mark(marked) => {
                let bytes = request.stored_bytes(marked)?;
                let put = Put::new(store_key.clone(), bytes.clone()).lease(LeaseId(current.lease));
                (Op::Put(put), Claims::default(), Some(bytes))
            }
        };
        if options.dry_run == DryRun::All {
            return Ok(match bytes {
                None => Deleted::Gone(current),
                Some(_) => Deleted::Pending(current),
            });
        }
        let mut txn = Txn {
            compares: vec![Compare::mod_revision(
                store_key.clone(),
                Revision(current.revision),
            )],
            success: vec![write],
            failure: vec![Op::Range(Range::key(store_key.clone()))],
        };
        claims.add_to(&mut txn);
        let response = call.state.store.txn(txn).await.map_err(store_error)?;
        if !response.succeeded {
            old = live_of(&response).and_then(|kv| cache::from_kv(kv, &key, &stored.indexer));
            continue;
        }
        return match bytes {
            Some(bytes) => {
                let lease = LeaseId(current.lease);
                let object = request
                    .committed(stored, &key, &bytes, response.revision, lease)
                    .await?;
                Ok(Deleted::Pending(object))
            }
            None => {
                request.caught_up(response.revision).await;
                Ok(Deleted::Gone(Arc::new(
                    current.at_revision(response.revision.0),
                )))
            }
        };
    }
    Err(request
        .conflict(name, "too many concurrent changes; please try again")
        .into())
}

fn check_preconditions(
    request: &WriteRequest<'_>,
    name: &str,
    tree: &Value,
    options: &DeleteOptions,
) -> Result<(), ApiError> {
    if let Some(uid) = &options.uid
        && uid != meta::uid(tree)
    {
        return Err(request.conflict(name, uid_precondition(uid, meta::uid(tree))));
    }
    if let Some(version) = &options.resource_version
        && version != meta::resource_version(tree)
    {
        let found = meta::resource_version(tree);
        let why = format!(
            "Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in object meta: {found}"
        );
        return Err(request.conflict(name, why));
    }
    Ok(())
}

/// What a deletion does to an object as it stands.
enum Step {
    /// Its deletion has begun and this one doesn't hurry it.
    Nothing,
    Mark(Value),
    Remove,
}

fn plan(resource: &Resource, old: &Value, options: &DeleteOptions, now: Timestamp) -> Step {
    let finalizers = finalizers_after(old, options.propagation);
    let namespace = resource.kind == "Namespace" && resource.group.is_empty();
    let held = !finalizers.is_empty()
        || namespace
            && old
                .pointer("/spec/finalizers")
                .and_then(Value::as_array)
                .is_some_and(|list| !list.is_empty());
    let current_grace = old
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64);
    let deleting = !meta::deletion_timestamp(old).is_empty();
    let grace = if resource.hooks.strategy.graceful {
        grace_of(old, options)
    } else {
        0
    };
    if deleting {
        let finalizers_changed = finalizers != meta::finalizers(old);
        return match current_grace.filter(|grace| *grace > 0) {
            // Its grace runs. Only a shorter one changes that.
            Some(running) => match options.grace_period_seconds {
                Some(_) if grace >= running => Step::Nothing,
                None => Step::Nothing,
                Some(_) if grace == 0 && !held => Step::Remove,
                Some(_) => {
                    let began = meta::deletion_timestamp(old)
                        .parse::<Timestamp>()
                        .ok()
                        .and_then(|timestamp| {
                            timestamp
                                .checked_sub(SignedDuration::from_secs(running))
                                .ok()
                        });
                    Step::Mark(marked(old, &finalizers, began.unwrap_or(now), grace))
                }
            },
            None if !held => Step::Remove,
            None if finalizers_changed => {
                let mut new = old.clone();
                set_finalizers(&mut new, &finalizers);
                Step::Mark(new)
            }
            None => Step::Nothing,
        };
    }
    if grace == 0 && !held {
        return Step::Remove;
    }
    let mut new = marked(old, &finalizers, now, grace);
    let generation = meta::generation(old);
    if generation > 0 {
        meta::set_generation(&mut new, generation + 1);
    }
    if namespace {
        meta::child_mut(&mut new, "status").insert("phase".to_owned(), "Terminating".into());
    }
    Step::Mark(new)
}

fn marked(old: &Value, finalizers: &[&str], began: Timestamp, grace: i64) -> Value {
    let mut new = old.clone();
    set_finalizers(&mut new, finalizers);
    let end = began
        .checked_add(SignedDuration::from_secs(grace))
        .unwrap_or(began);
    let end = Timestamp::from_second(end.as_second()).unwrap_or(end);
    meta::set(&mut new, "deletionTimestamp", &end.to_string());
    meta::metadata_mut(&mut new).insert("deletionGracePeriodSeconds".to_owned(), grace.into());
    new
}

fn set_finalizers(object: &mut Value, finalizers: &[&str]) {
    let finalizers = json!(finalizers);
    if finalizers.as_array().is_some_and(Vec::is_empty) {
        meta::metadata_mut(object).remove("finalizers");
    } else {
        meta::metadata_mut(object).insert("finalizers".to_owned(), finalizers);
    }
}

/// A pod's grace: what is asked for, else its own; none where there is nothing to end.
fn grace_of(pod: &Value, options: &DeleteOptions) -> i64 {
    let text = |pointer: &str| {
        pod.pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    if text("/spec/nodeName").is_empty() || matches!(text("/status/phase"), "Failed" | "Succeeded")
    {
        return 0;
    }
    let own = pod
        .pointer("/spec/terminationGracePeriodSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(30);
    match options.grace_period_seconds.unwrap_or(own) {
        // A negative period means "as short as a graceful end can be".
        period if period < 0 => 1,
        period => period,
    }
}

/// The finalizers with those that the propagation policy asks the garbage collector for.
fn finalizers_after(old: &Value, propagation: Option<Propagation>) -> Vec<&str> {
    let mut finalizers = meta::finalizers(old);
    let wanted = match propagation {
        // Unless asked otherwise, what was decided before stays.
        None => return finalizers,
        Some(Propagation::Background) => None,
        Some(Propagation::Orphan) => Some(ORPHAN),
        Some(Propagation::Foreground) => Some(FOREGROUND),
    };
    finalizers.retain(|finalizer| {
        Some(*finalizer) == wanted || ![ORPHAN, FOREGROUND].contains(finalizer)
    });
    if let Some(wanted) = wanted
        && !finalizers.contains(&wanted)
    {
        finalizers.push(wanted);
    }
    finalizers
}

impl WriteRequest<'_> {
    async fn admit_delete(&self, old: &Value) -> Result<(), ApiError> {
        self.admission(Operation::Delete)
            .validate(old, Some(old))
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernelet_api::Registry;

    fn step(plural: &str, object: &Value, options: &DeleteOptions) -> String {
        let resource = Registry::builtin().by_resource("", plural).unwrap();
        match plan(
            resource,
            object,
            options,
            Timestamp::from_second(1000).unwrap(),
        ) {
            Step::Nothing => "nothing".to_owned(),
            Step::Remove => "remove".to_owned(),
            Step::Mark(new) => format!(
                "mark {} {} {:?}",
                meta::deletion_timestamp(&new),
                new.pointer("/metadata/deletionGracePeriodSeconds")
                    .unwrap_or(&Value::Null),
                meta::finalizers(&new)
            ),
        }
    }

    fn grace(seconds: i64) -> DeleteOptions {
        DeleteOptions {
            grace_period_seconds: Some(seconds),
            ..DeleteOptions::default()
        }
    }

    #[test]
    fn a_running_pod_gets_its_grace_and_others_go_at_once() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}});
        assert_eq!(
            step("pods", &pod, &DeleteOptions::default()),
            "mark 1970-01-01T00:17:10Z 30 []"
        );
        assert_eq!(
            step("pods", &pod, &grace(5)),
            "mark 1970-01-01T00:16:45Z 5 []"
        );
        assert_eq!(step("pods", &pod, &grace(0)), "remove");
        assert_eq!(
            step("pods", &pod, &grace(-1)),
            "mark 1970-01-01T00:16:41Z 1 []"
        );
        let unscheduled = json!({"metadata": {"name": "p"}, "spec": {}});
        assert_eq!(
            step("pods", &unscheduled, &DeleteOptions::default()),
            "remove"
        );
        assert_eq!(
            step(
                "configmaps",
                &json!({"metadata": {"name": "c"}}),
                &DeleteOptions::default()
            ),
            "remove"
        );
    }

    #[test]
    fn a_running_grace_can_only_be_shortened() {
        let pod = json!({
            "metadata": {"deletionTimestamp": "1970-01-01T00:17:10Z", "deletionGracePeriodSeconds": 30},
            "spec": {"nodeName": "n"},
        });
        assert_eq!(step("pods", &pod, &DeleteOptions::default()), "nothing");
        assert_eq!(step("pods", &pod, &grace(60)), "nothing");
        assert_eq!(
            step("pods", &pod, &grace(10)),
            "mark 1970-01-01T00:16:50Z 10 []"
        );
        assert_eq!(step("pods", &pod, &grace(0)), "remove");
    }

    #[test]
    fn finalizers_hold_an_object_and_propagation_adds_them() {
        let object = json!({"metadata": {"finalizers": ["x/y"]}});
        assert_eq!(
            step("configmaps", &object, &DeleteOptions::default()),
            "mark 1970-01-01T00:16:40Z 0 [\"x/y\"]"
        );
        let with = |propagation| DeleteOptions {
            propagation: Some(propagation),
            ..DeleteOptions::default()
        };
        let plain = json!({"metadata": {}});
        assert_eq!(
            step("configmaps", &plain, &with(Propagation::Foreground)),
            "mark 1970-01-01T00:16:40Z 0 [\"foregroundDeletion\"]"
        );
        assert_eq!(
            step("configmaps", &plain, &with(Propagation::Orphan)),
            "mark 1970-01-01T00:16:40Z 0 [\"orphan\"]"
        );
        let orphaned = json!({"metadata": {"finalizers": ["orphan"]}});
        assert_eq!(
            step("configmaps", &orphaned, &with(Propagation::Background)),
            "remove"
        );
        let deleting = json!({"metadata": {"deletionTimestamp": "1970-01-01T00:16:40Z", "deletionGracePeriodSeconds": 0, "finalizers": ["x/y"]}});
        assert_eq!(
            step("configmaps", &deleting, &DeleteOptions::default()),
            "nothing"
        );
    }

    #[test]
    fn a_namespace_is_held_by_its_spec() {
        let namespace = json!({"metadata": {}, "spec": {"finalizers": ["kubernetes"]}});
        assert!(step("namespaces", &namespace, &DeleteOptions::default()).starts_with("mark"));
        let empty = json!({"metadata": {"deletionTimestamp": "1970-01-01T00:16:40Z"}, "spec": {}});
        assert_eq!(
            step("namespaces", &empty, &DeleteOptions::default()),
            "remove"
        );
    }
}
