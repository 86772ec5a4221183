//! Admission: what the cluster adds to a request's object, and what it refuses whoever asks.
//!
//! Mutating first (ServiceAccount, DefaultTolerationSeconds, Priority), then, on
//! what defaulting and validation have made of it, validating (NamespaceLifecycle, NodeRestriction, privilege
//! escalation, certificate approval).

mod certificates;
mod escalation;
mod namespace;
mod node_restriction;
mod pods;
pub mod services;

use std::sync::Arc;

use kernelet_api::{ApiError, Resource, Value, meta};

use crate::{state::State, user::UserInfo};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
}

/// A request as admission sees it.
pub struct Request<'a> {
    pub state: &'a Arc<State>,
    pub user: &'a UserInfo,
    pub operation: Operation,
    pub resource: &'a Resource,
    /// Empty for the resource itself.
    pub subresource: &'a str,
    pub namespace: &'a str,
}

impl Request<'_> {
    fn is(&self, group: &str, plural: &str) -> bool {
        self.resource.group == group && self.resource.plural == plural
    }

    fn forbidden(&self, name: &str, why: impl std::fmt::Display) -> ApiError {
        ApiError::forbidden(&self.resource.group, &self.resource.plural, name, why)
    }

    /// Changes `new` before it is validated.
    pub async fn mutate(&self, new: &mut Value, old: Option<&Value>) -> Result<(), ApiError> {
        // Whether the namespace is there comes first: everything else would only hide that it isn't.
        namespace::check(self, meta::name(new)).await?;
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
        if let Some(node) = self.user.node_name() {
            node_restriction::check(self, node, new, old)?;
        }
        if self.is("", "pods") {
            pods::validate(self, new)?;
        }
        if self.resource.group == "rbac.authorization.k8s.io" {
            escalation::check(self, new, old)?;
        }
        if self.is("certificates.k8s.io", "certificatesigningrequests") {
            certificates::validate(self, new, old)?;
        }
        Ok(())
    }
}
