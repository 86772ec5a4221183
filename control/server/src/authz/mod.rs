//! Authorisation: may this identity do that? The Node authorizer, then RBAC; what nobody allows is forbidden.

pub mod aggregate;
pub mod node;
pub mod policy;
pub mod rbac;
pub mod rules;

use kernelet_api::ApiError;

use crate::{
    request::RequestInfo,
    user::{SYSTEM_MASTERS, UserInfo},
};
use node::NodeAuthorizer;
use rbac::Rbac;

/// What is to be decided: upstream's authorizer attributes.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    pub user: &'a UserInfo,
    pub verb: &'a str,
    pub target: Target<'a>,
}

#[derive(Clone, Debug)]
pub enum Target<'a> {
    Resource {
        group: &'a str,
        resource: &'a str,
        subresource: &'a str,
        namespace: &'a str,
        name: &'a str,
        /// Of a list, watch or deletecollection: the terms `field=value` that narrow it.
        field_selector: &'a str,
    },
    Path(&'a str),
}

/// What an authorizer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// With the reason, as SubjectAccessReviews tell it.
    Allow(String),
    /// Not allowed; why, where there is more to say than "no rule allows it".
    No(String),
}

/// Node authorizer and RBAC.
pub struct Authorizer {
    pub rbac: Rbac,
    pub node: NodeAuthorizer,
}

impl Authorizer {
    pub fn decide(&self, attributes: &Attributes<'_>) -> Decision {
        if attributes.user.in_group(SYSTEM_MASTERS) {
            return Decision::Allow(String::new());
        }
        let mut why = String::new();
        if let Some(node) = attributes.user.node_name() {
            match self.node.decide(node, attributes) {
                allow @ Decision::Allow(_) => return allow,
                Decision::No(reason) => why = reason,
            }
        }
        match self.rbac.decide(attributes) {
            Decision::No(reason) => {
                // Upstream joins the reasons of every authorizer in the chain.
                let reasons: Vec<String> = [why, reason]
                    .into_iter()
                    .filter(|r| !r.is_empty())
                    .collect();
                Decision::No(reasons.join(", "))
            }
            allow => allow,
        }
    }

    /// The request's own authorisation: the reason, or the 403 and the reason for it.
    pub fn check(
        &self,
        user: &UserInfo,
        info: &RequestInfo,
        field_selector: &str,
    ) -> Result<String, (ApiError, String)> {
        let attributes = info.attributes(user, field_selector);
        match self.decide(&attributes) {
            Decision::Allow(reason) => Ok(reason),
            Decision::No(reason) => Err((attributes.forbidden(&reason), reason)),
        }
    }
}

impl RequestInfo {
    /// The request as authorisation sees it.
    pub fn attributes<'a>(&'a self, user: &'a UserInfo, field_selector: &'a str) -> Attributes<'a> {
        let target = match &self.resource {
            None => Target::Path(&self.path),
            Some(resource) => Target::Resource {
                group: &resource.gvr.group,
                resource: &resource.gvr.resource,
                subresource: &resource.subresource,
                namespace: &resource.namespace,
                name: &resource.name,
                field_selector,
            },
        };
        // Whoever opens a session does something in the pod, also when the upgrade has to come as a GET.
        let verb = match &self.resource {
            Some(resource) if self.verb == "get" && resource.is_session() => "create",
            _ => self.verb,
        };
        Attributes { user, verb, target }
    }
}

impl Attributes<'_> {
    /// The 403 in upstream's words.
    pub fn forbidden(&self, reason: &str) -> ApiError {
        let Attributes { user, verb, target } = self;
        let tail = if reason.is_empty() {
            String::new()
        } else {
            format!(": {reason}")
        };
        let user = &user.name;
        match target {
            Target::Path(path) => ApiError::forbidden(
                "",
                "",
                "",
                format!("User {user:?} cannot {verb} path {path:?}{tail}"),
            ),
            Target::Resource {
                group,
                resource,
                subresource,
                namespace,
                name,
                ..
            } => {
                let what = if subresource.is_empty() {
                    (*resource).to_owned()
                } else {
                    format!("{resource}/{subresource}")
                };
                let place = if namespace.is_empty() {
                    "at the cluster scope".to_owned()
                } else {
                    format!("in the namespace {namespace:?}")
                };
                ApiError::forbidden(
                    group,
                    resource,
                    name,
                    format!(
                        "User {user:?} cannot {verb} resource {what:?} in API group {group:?} {place}{tail}"
                    ),
                )
            }
        }
    }
}
