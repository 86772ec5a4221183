//! Create and update: the one pipeline that every write takes, whoever asks.
//!
//! ```text
//! create: decode → default → managedFields → mutating admission → default → system fields → validate
//!         → validating admission → allocate and charge → store
//! update: (new object from the old one) → preconditions → the same, again from the newest object when the
//!         compare is lost → store
//! ```
//!
//! The first attempt of an update takes the old object from the cache; before any refusal that the old object
//! could have caused, the store's own is read and the attempt made again.

use std::sync::{Arc, Mutex};

use http::{Response, StatusCode};
use kernelet_api::{ApiError, FieldError, Gvk, Value, meta, prune, warn};
use kernelet_patch::{FieldManager, keep_unchanged_times};
use kernelet_store::{Compare, LeaseId, Op, Put, Range, Revision, Txn};
use rand::RngExt;

use super::{
    Call, Failure, Notes,
    commit::live_of,
    params::{DryRun, WriteOptions},
    read::{now_text, store_error},
};
use crate::{
    admission::{self, Operation, quota::Charges, services::Claims},
    body::ResponseBody,
    cache::{self, CachedObject},
    http::negotiate::{Endpoint, Form},
    registry::{Served, Snapshot, Stored},
    state::State,
    user::UserInfo,
};

/// How often a write is made again when others were faster.
const ATTEMPTS: usize = 100;
/// How often a name is made from generateName before giving up; upstream's figure.
const NAMES: usize = 8;

/// What a write is about, apart from the object.
pub struct Request<'a> {
    pub state: &'a Arc<State>,
    pub snapshot: &'a Arc<Snapshot>,
    pub served: &'a Served,
    pub version: &'a str,
    pub user: &'a UserInfo,
    pub namespace: &'a str,
    pub subresource: Option<&'a str>,
    pub dry_run: DryRun,
    pub manager: String,
    pub pipeline: Pipeline,
    /// Where what the client should be told is noted; nowhere, for what the server does by itself.
    pub notes: Option<&'a Mutex<Notes>>,
}

/// How much of the pipeline a write goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pipeline {
    Full,
    /// Server-side apply has booked the managed fields already.
    Booked,
    /// The server's own change of an object that was validated before: it is only stored.
    Raw,
}

/// A write's outcome.
pub struct Written {
    pub object: Arc<CachedObject>,
    pub created: bool,
}

pub async fn create(call: &Call) -> Result<Response<ResponseBody>, Failure> {
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let output = call.output(Endpoint::Object)?;
    let object = call.decode(&call.gvk(), options.field_validation)?;
    let request = Request::of(call, &options, None);
    let written = request.create(object).await?;
    if options.dry_run == DryRun::All && output.form == Form::Full {
        // Nothing was stored, so there is no revision to tell.
        let mut tree = call.view().tree(&written.object)?;
        meta::set(&mut tree, "resourceVersion", "");
        return Ok(call.answer_value(StatusCode::CREATED, output, &tree));
    }
    call.answer_cached(StatusCode::CREATED, output, &written.object)
}

pub async fn update(
    call: &Call,
    subresource: Option<&str>,
) -> Result<Response<ResponseBody>, Failure> {
    let options = WriteOptions::parse(&call.query, "UpdateOptions")?;
    let output = call.output(Endpoint::Object)?;
    let object = call.decode(&call.gvk(), options.field_validation)?;
    let request = Request::of(call, &options, subresource);
    request.check_name(&object, &call.target.name)?;
    let written = request
        .update(&call.target.name, Some(&object), &|_| Ok(object.clone()))
        .await?;
    let status = if written.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    call.answer_cached(status, output, &written.object)
}

impl<'a> Request<'a> {
    pub fn of(call: &'a Call, options: &WriteOptions, subresource: Option<&'a str>) -> Request<'a> {
        Request {
            state: &call.state,
            snapshot: &call.snapshot,
            served: &call.served,
            version: &call.target.gvr.version,
            user: &call.user,
            namespace: if call.served.resource.namespaced {
                &call.target.namespace
            } else {
                ""
            },
            subresource,
            dry_run: options.dry_run,
            manager: call.manager(&options.field_manager),
            pipeline: Pipeline::Full,
            notes: Some(&call.notes),
        }
    }

    pub(super) fn stored(&self) -> Result<&'a Stored, ApiError> {
        self.served
            .stored
            .as_ref()
            .ok_or_else(ApiError::method_not_allowed)
    }

    pub(super) fn gvk(&self) -> Gvk {
        self.served.gvk(self.version)
    }

    pub(super) fn admission(&self, operation: Operation) -> admission::Request<'_> {
        admission::Request {
            state: self.state,
            user: self.user,
            operation,
            resource: &self.served.resource,
            subresource: self.subresource.unwrap_or_default(),
            namespace: self.namespace,
            notes: self.notes,
        }
    }

    pub(super) fn invalid(&self, name: &str, errors: &[FieldError]) -> ApiError {
        ApiError::invalid(
            &self.served.resource.group,
            &self.served.resource.kind,
            name,
            errors,
        )
    }

    /// The name (and namespace) of a body must be those of the path.
    pub fn check_name(&self, object: &Value, name: &str) -> Result<(), ApiError> {
        let own = meta::name(object);
        if own.is_empty() {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name} based on URL) was undeterminable: name must be provided"
            )));
        }
        if own != name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({own}) does not match the name on the URL ({name})"
            )));
        }
        self.check_namespace(object)
    }

    fn check_namespace(&self, object: &Value) -> Result<(), ApiError> {
        let own = meta::namespace(object);
        if self.served.resource.namespaced && !own.is_empty() && own != self.namespace {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        Ok(())
    }

    /// Creates `object`, which is of the requested version.
    pub async fn create(&self, mut object: Value) -> Result<Written, Failure> {
        let stored = self.stored()?;
        let resource = &self.served.resource;
        self.check_namespace(&object)?;
        if !meta::resource_version(&object).is_empty() {
            // Upstream gives it no code of its own.
            let why = "resourceVersion should not be set on objects to be created";
            return Err(ApiError::new(500, "", why).into());
        }
        if resource.namespaced {
            meta::set(&mut object, "namespace", self.namespace);
        }
        resource.default(&mut object);
        self.warn(|| warn::dedup_owner_references(&mut object, warn::Stage::Request));
        self.book(None, &mut object);
        let generate = meta::generate_name(&object).to_owned();
        let generates = meta::name(&object).is_empty() && !generate.is_empty();
        for attempt in 1.. {
            let mut new = object.clone();
            if generates {
                meta::set(&mut new, "name", &generated(&generate));
            }
            self.admission(Operation::Create)
                .mutate(&mut new, None)
                .await?;
            resource.default(&mut new);
            resource.prepare_for_create(&mut new);
            self.admission(Operation::Create).complete(&mut new, None);
            system_fields(&mut new);
            let name = meta::name(&new).to_owned();
            let errors = resource.validate_create(&new);
            if !errors.is_empty() {
                return Err(self.invalid(&name, &errors).into());
            }
            self.warn(|| warn::on_create(resource, &new));
            self.admission(Operation::Create)
                .validate(&new, None)
                .await?;
            let claims = Claims::of_create(self, &mut new).await?;
            let charges = Charges::of(self, &new, None).await?;
            let key = Stored::cache_key(self.namespace, &name);
            let bytes = self.stored_bytes(new)?;
            let exists = || {
                let (group, plural) = self.served.names();
                if generates {
                    ApiError::generate_name_conflict(group, plural, &name)
                } else {
                    ApiError::already_exists(group, plural, &name)
                }
            };
            if self.dry_run == DryRun::All {
                if self.live(&key).await?.is_some() {
                    return Err(exists().into());
                }
                return Ok(Written::new(self.transient(stored, &key, &bytes)?, true));
            }
            let lease = self.lease().await?;
            let store_key = stored.store_key(&key);
            let mut txn = Txn {
                compares: vec![Compare::absent(store_key.clone())],
                success: vec![Op::Put(
                    Put::new(store_key.clone(), bytes.clone()).lease(lease),
                )],
                failure: vec![Op::Range(Range::key(store_key))],
            };
            claims.add_to(&mut txn);
            charges.add_to(&mut txn);
            let response = self.state.store.txn(txn).await.map_err(store_error)?;
            // Whoever waits to be charged need not wait for the cache too.
            drop(charges);
            if response.succeeded {
                let object = self
                    .committed(stored, &key, &bytes, response.revision, lease)
                    .await?;
                return Ok(Written::new(object, true));
            }
            let taken = live_of(&response).is_some();
            if taken && !(generates && attempt < NAMES) || attempt >= ATTEMPTS {
                return Err(exists().into());
            }
        }
        unreachable!("the loop ends by returning")
    }

    /// Writes what `change` makes of the old object (in the requested version), again and again until nobody else
    /// was faster. `fallback` is created where the object doesn't exist and the kind allows it.
    pub async fn update(
        &self,
        name: &str,
        fallback: Option<&Value>,
        change: &(dyn Fn(&Value) -> Result<Value, ApiError> + Send + Sync),
    ) -> Result<Written, Failure> {
        let stored = self.stored()?;
        let key = Stored::cache_key(self.namespace, name);
        let mut old = stored.cache.get(&key);
        let mut is_live = false;
        for _ in 0..ATTEMPTS {
            let Some(current) = old.clone() else {
                if !is_live {
                    (old, is_live) = (self.live(&key).await?, true);
                    continue;
                }
                if let Some(object) = fallback
                    && self.served.resource.hooks.strategy.create_on_update
                    && self.subresource.is_none()
                {
                    let mut object = object.clone();
                    // A revision or uid names an object that should have been there.
                    if !meta::uid(&object).is_empty() {
                        return Err(self
                            .conflict(name, uid_precondition(meta::uid(&object), ""))
                            .into());
                    }
                    meta::set(&mut object, "resourceVersion", "");
                    return self.create(object).await;
                }
                let (group, plural) = self.served.names();
                return Err(ApiError::not_found(group, plural, name).into());
            };
            let attempt = self.attempt(&current, name, change).await;
            let done = match attempt {
                Ok(Attempt::Unchanged) => Ok(Written::new(current.clone(), false)),
                Err(error) => Err(error),
                Ok(Attempt::Write {
                    bytes,
                    claims,
                    charges,
                    delete,
                }) => {
                    if self.dry_run == DryRun::All {
                        // Nothing is written: it keeps its revision.
                        let object = self.transient_at(stored, &key, &bytes, current.revision)?;
                        return Ok(Written::new(object, false));
                    }
                    let store_key = stored.store_key(&key);
                    let write = if delete {
                        Op::Delete(kernelet_store::Delete::key(store_key.clone()))
                    } else {
                        let lease = LeaseId(current.lease);
                        Op::Put(Put::new(store_key.clone(), bytes.clone()).lease(lease))
                    };
                    let mut txn = Txn {
                        compares: vec![Compare::mod_revision(
                            store_key.clone(),
                            Revision(current.revision),
                        )],
                        success: vec![write],
                        failure: vec![Op::Range(Range::key(store_key))],
                    };
                    claims.add_to(&mut txn);
                    charges.add_to(&mut txn);
                    let response = self.state.store.txn(txn).await.map_err(store_error)?;
                    drop(charges);
                    if !response.succeeded {
                        old = match live_of(&response) {
                            Some(kv) => cache::from_kv(kv, &key, &stored.indexer),
                            None => None,
                        };
                        is_live = true;
                        continue;
                    }
                    let lease = LeaseId(current.lease);
                    let object = self
                        .committed(stored, &key, &bytes, response.revision, lease)
                        .await?;
                    return Ok(Written::new(object, false));
                }
            };
            if is_live {
                return done.map_err(Failure::from);
            }
            // It was judged by a cached object: only the newest counts.
            let live = self.live(&key).await?;
            if live
                .as_ref()
                .is_some_and(|live| live.revision == current.revision)
            {
                return done.map_err(Failure::from);
            }
            (old, is_live) = (live, true);
        }
        Err(self
            .conflict(name, "too many concurrent changes; please try again")
            .into())
    }

    async fn attempt(
        &self,
        current: &CachedObject,
        name: &str,
        change: &(dyn Fn(&Value) -> Result<Value, ApiError> + Send + Sync),
    ) -> Result<Attempt, ApiError> {
        let resource = &self.served.resource;
        let mut old = self
            .served
            .resource
            .convert(current.tree(), &self.gvk())
            .map_err(ApiError::internal)?;
        // What is stored has the nulls that Go writes; here, what is null is absent.
        let schema = &self.snapshot.api.schema;
        if let Some(ty) = schema.by_gvk(&self.gvk()) {
            prune::prune(schema, ty, &mut old);
        }
        let mut new = change(&old)?;
        if self.pipeline == Pipeline::Raw {
            let bytes = self.stored_bytes(new)?;
            if current.stored_equals(&bytes) {
                return Ok(Attempt::Unchanged);
            }
            return Ok(Attempt::Write {
                bytes,
                claims: Claims::default(),
                charges: Charges::default(),
                delete: false,
            });
        }
        let uid = meta::uid(&new);
        if !uid.is_empty() && uid != meta::uid(&old) {
            return Err(self.conflict(name, uid_precondition(uid, meta::uid(&old))));
        }
        match meta::resource_version(&new) {
            "" | "0" if resource.hooks.strategy.unconditional_update => {}
            "" | "0" => {
                let error = FieldError::invalid(
                    "metadata.resourceVersion",
                    0,
                    "must be specified for an update",
                );
                return Err(self.invalid(name, &[error]));
            }
            version if version == meta::resource_version(&old) => {}
            _ => {
                let (group, plural) = self.served.names();
                return Err(ApiError::modified(group, plural, name));
            }
        }
        if resource.namespaced {
            meta::set(&mut new, "namespace", self.namespace);
        }
        resource.default(&mut new);
        self.book(Some(&old), &mut new);
        self.admission(Operation::Update)
            .mutate(&mut new, Some(&old))
            .await?;
        self.warn(|| warn::dedup_owner_references(&mut new, warn::Stage::Admitted));
        resource.default(&mut new);
        resource.prepare_for_update(&mut new, &old, self.subresource);
        self.admission(Operation::Update)
            .complete(&mut new, Some(&old));
        keep_system_fields(&mut new, &old);
        let errors = resource.validate_update(&new, &old, self.subresource);
        if !errors.is_empty() {
            return Err(self.invalid(name, &errors));
        }
        self.warn(|| warn::on_update(resource, &new, &old, self.subresource));
        self.admission(Operation::Update)
            .validate(&new, Some(&old))
            .await?;
        keep_unchanged_times(&old, &mut new);
        let delete = is_finished(resource, &new, &old);
        let claims = if delete {
            Claims::of_delete(self, &old)
        } else {
            Claims::of_update(self, &old, &mut new).await?
        };
        let charges = if delete {
            Charges::default()
        } else {
            Charges::of(self, &new, Some(&old)).await?
        };
        let bytes = self.stored_bytes(new)?;
        if !delete && current.stored_equals(&bytes) {
            return Ok(Attempt::Unchanged);
        }
        Ok(Attempt::Write {
            bytes,
            claims,
            charges,
            delete,
        })
    }

    /// Books who manages what; an object whose books can't be kept is stored without them, as upstream does.
    fn book(&self, old: Option<&Value>, new: &mut Value) {
        if self.pipeline == Pipeline::Booked {
            return;
        }
        let now = now_text();
        let manager = FieldManager::new(
            &self.snapshot.api,
            &self.served.resource,
            &self.gvk(),
            self.subresource,
            &now,
        );
        if let Some(manager) = manager
            && let Err(error) = manager.update(old, new, &self.manager)
        {
            tracing::debug!(%error, "managedFields were dropped");
        }
    }
}

impl Written {
    fn new(object: Arc<CachedObject>, created: bool) -> Written {
        Written { object, created }
    }
}

/// What an attempt of an update came to.
enum Attempt {
    Unchanged,
    Write {
        bytes: Vec<u8>,
        claims: Claims,
        charges: Charges,
        delete: bool,
    },
}

pub(super) fn uid_precondition(wanted: &str, found: &str) -> String {
    format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}")
}

/// What only the server sets.
fn system_fields(new: &mut Value) {
    for field in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "resourceVersion",
    ] {
        meta::metadata_mut(new).remove(field);
    }
    meta::set(new, "uid", &uuid::Uuid::new_v4().to_string());
    meta::set(new, "creationTimestamp", &now_text());
}

/// What an update can't change, and what it may leave out.
fn keep_system_fields(new: &mut Value, old: &Value) {
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        match old.pointer(&format!("/metadata/{field}")) {
            Some(value) => {
                meta::metadata_mut(new)
                    .entry(field)
                    .or_insert_with(|| value.clone());
            }
            None if field.starts_with("deletion") => {
                meta::metadata_mut(new).remove(field);
            }
            None => {}
        }
    }
}

/// The update took what kept a deleted object alive.
fn is_finished(resource: &kernelet_api::Resource, new: &Value, old: &Value) -> bool {
    if meta::deletion_timestamp(new).is_empty() || !meta::finalizers(new).is_empty() {
        return false;
    }
    if resource.kind == "Namespace" && resource.group.is_empty() {
        let spec = new.pointer("/spec/finalizers").and_then(Value::as_array);
        return spec.is_none_or(Vec::is_empty);
    }
    // A pod within its grace is ended by its node's last delete.
    let grace = old
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64)
        .unwrap_or_default();
    grace == 0
}

/// A name from generateName: five letters that make no words; long bases are cut.
fn generated(base: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    const LENGTH: usize = 5;
    let mut end = base.len().min(63 - LENGTH);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = base[..end].to_owned();
    let mut rng = rand::rng();
    for _ in 0..LENGTH {
        name.push(char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]));
    }
    name
}
