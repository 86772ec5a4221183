//! Delete: at once, with grace, or when the finalizers are done.
//!
//! ```text
//! present ──grace──► deletionTimestamp in the future ──last delete (grace 0)──► gone
//!    ├──finalizers──► deletionTimestamp, grace 0 ──update without finalizers──► gone
//!    └──────────────────────────────────────────────────────────────────────► gone
//! ```

mod options;
mod plan;

pub(super) use options::DeleteOptions;

use std::sync::Arc;

use http::{Response, StatusCode};
use jiff::Timestamp;
use kernelet_api::{ApiError, Value, meta, status};
use kernelet_store::{Compare, LeaseId, Op, Put, Range, Revision, Txn};
use serde_json::json;

use super::{
    Call, Failure, WriteRequest,
    commit::live_of,
    encode::partial,
    params::{DryRun, ListOptions, WriteOptions},
    read::{select, store_error},
    select::Filter,
};
use crate::{
    admission::{Operation, services::Claims},
    body::ResponseBody,
    cache::{self, CachedObject},
    http::negotiate::{Endpoint, Form},
    registry::Stored,
};
use plan::{Step, plan};

const ATTEMPTS: usize = 100;

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
    // Upstream names the kind here, not the resource.
    let resource = &request.served.resource;
    let conflict = |why: String| ApiError::conflict(&resource.group, &resource.kind, name, why);
    if let Some(uid) = &options.uid
        && uid != meta::uid(tree)
    {
        let found = meta::uid(tree);
        return Err(conflict(format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({found}). The object might have been deleted and then recreated"
        )));
    }
    if let Some(version) = &options.resource_version
        && version != meta::resource_version(tree)
    {
        let found = meta::resource_version(tree);
        return Err(conflict(format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({found}). The object might have been modified"
        )));
    }
    Ok(())
}

impl WriteRequest<'_> {
    async fn admit_delete(&self, old: &Value) -> Result<(), ApiError> {
        self.admission(Operation::Delete)
            .validate(old, Some(old))
            .await
    }
}
