//! Admission: what the cluster adds to a request's object, and what it refuses whoever asks.
//!
//! Mutating first (LimitRanger, ServiceAccount, Priority, DefaultTolerationSeconds), then, on what defaulting and
//! validation have made of it, validating (NamespaceLifecycle, LimitRanger, NodeRestriction, PodSecurity,
//! Priority, privilege escalation, certificate approval), and last, in the transaction that stores it, ResourceQuota.

mod certificates;
mod configuration;
mod escalation;
mod limit_ranger;
mod namespace;
mod node_restriction;
mod pod_security;
mod pods;
mod priority;
pub mod quota;
mod service_account;
pub mod services;

use std::sync::{Arc, Mutex, PoisonError};

use kernelet_api::{ApiError, Resource, Value, meta};

pub use configuration::{AdmissionConfigError, PodSecurityConfig};

use crate::{cache::KeyRange, handler::Notes, state::State, user::UserInfo};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
}

/// A request as admission sees it.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub state: &'a Arc<State>,
    pub user: &'a UserInfo,
    pub operation: Operation,
    pub resource: &'a Resource,
    /// Empty for the resource itself.
    pub subresource: &'a str,
    pub namespace: &'a str,
    /// Where what the client and the audit log should be told is noted; nowhere, for what the server does by itself.
    pub notes: Option<&'a Mutex<Notes>>,
}

impl Request<'_> {
    fn is(&self, group: &str, plural: &str) -> bool {
        self.resource.group == group && self.resource.plural == plural
    }

    fn forbidden(&self, name: &str, why: impl std::fmt::Display) -> ApiError {
        ApiError::forbidden(&self.resource.group, &self.resource.plural, name, why)
    }

    fn warn(&self, text: String) {
        self.note(|notes| notes.warnings.push(text));
    }

    /// For the audit log.
    fn annotate(&self, key: &str, value: String) {
        self.note(|notes| drop(notes.annotations.insert(key.to_owned(), value)));
    }

    fn note(&self, note: impl FnOnce(&mut Notes)) {
        if let Some(notes) = self.notes {
            note(&mut notes.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Changes `new` before it is validated.
    pub async fn mutate(&self, new: &mut Value, old: Option<&Value>) -> Result<(), ApiError> {
        // Whether the namespace is there comes first: everything else would only hide that it isn't.
        namespace::check(self, meta::name(new)).await?;
        limit_ranger::mutate(self, new, old)?;
        if self.subresource.is_empty() && self.is("", "pods") {
            pods::mutate(self, new, old).await?;
        }
        Ok(())
    }

    /// Sets what a client may not, once the strategy has stripped it, and brings twins in line.
    pub fn complete(&self, new: &mut Value, old: Option<&Value>) {
        if self.is("", "services") && self.subresource.is_empty() {
            services::normalize(new, old);
        }
        if self.operation == Operation::Create
            && self.is("certificates.k8s.io", "certificatesigningrequests")
        {
            certificates::stamp(self, new);
        }
    }

    /// Judges `new` (for deletions: the object that is to go).
    pub async fn validate(&self, new: &Value, old: Option<&Value>) -> Result<(), ApiError> {
        if self.operation == Operation::Delete {
            namespace::check(self, meta::name(new)).await?;
        }
        self.restrict_node(new, old)?;
        if self.is("", "pods") {
            service_account::validate(self, new).await?;
        }
        limit_ranger::validate(self, new, old)?;
        pod_security::validate(self, new, old)?;
        priority::validate(self, new)?;
        if self.resource.group == "rbac.authorization.k8s.io" {
            escalation::check(self, new, old)?;
        }
        if self.is("certificates.k8s.io", "certificatesigningrequests") {
            certificates::validate(self, new, old)?;
        }
        Ok(())
    }

    /// NodeRestriction alone: for evictions, of which the pod is to be judged.
    pub fn restrict_node(&self, new: &Value, old: Option<&Value>) -> Result<(), ApiError> {
        match self.user.node_name() {
            Some(node) => node_restriction::check(self, node, new, old),
            None => Ok(()),
        }
    }
}

/// The objects of a namespaced core resource in the request's namespace.
fn listed(request: &Request<'_>, plural: &str) -> Vec<Value> {
    let Some(cache) = request.state.cache.resource(plural) else {
        return vec![];
    };
    let range = KeyRange {
        namespace: request.namespace,
        after: "",
    };
    let (objects, _) = cache.list(range, 0, |_| true);
    objects.iter().map(|object| object.tree()).collect()
}

/// Several reasons as upstream joins them: each once, in brackets if they are more than one.
fn aggregate(errors: Vec<String>) -> String {
    let mut told: Vec<String> = Vec::new();
    for error in errors {
        if !told.contains(&error) {
            told.push(error);
        }
    }
    match told.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// The name by which mutating admission calls a new object: one that is still to be generated isn't told yet.
fn shown_name(object: &Value) -> &str {
    const SUFFIX: usize = 5;
    let (name, base) = (meta::name(object), meta::generate_name(object));
    let made_of_it = !base.is_empty()
        && name
            .len()
            .checked_sub(SUFFIX)
            .is_some_and(|end| name.is_char_boundary(end) && base.starts_with(&name[..end]));
    if made_of_it { base } else { name }
}
