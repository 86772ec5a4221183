//! Nobody grants what they don't hold: roles and bindings are checked against the writer's own rules.

use kernelet_api::{ApiError, Value, meta};
use serde::Deserialize;

use super::{Operation, Request};
use crate::{
    authz::{
        Attributes, Decision, Target, policy,
        rbac::RoleRef,
        rules::{Rule, quoted, uncovered},
    },
    user::SYSTEM_MASTERS,
};

pub fn check(request: &Request<'_>, new: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    if request.operation == Operation::Delete || request.user.in_group(SYSTEM_MASTERS) {
        return Ok(());
    }
    let name = meta::name(new);
    let plural = request.resource.plural.as_str();
    let rules = match plural {
        "roles" | "clusterroles" => {
            let unchanged = old.is_some_and(|old| {
                old.get("rules") == new.get("rules")
                    && old.get("aggregationRule") == new.get("aggregationRule")
            });
            if unchanged || may(request, "escalate", plural, name) {
                return Ok(());
            }
            if new
                .get("aggregationRule")
                .is_some_and(|rule| !rule.is_null())
            {
                // What will be aggregated can't be known: only who holds everything may say so.
                let held = request.state.authz.rbac.rules_for(request.user, "");
                let missing = uncovered(&held, &[Rule::everything()]);
                if !missing.is_empty() {
                    return Err(request.forbidden(
                        name,
                        "must have cluster-admin privileges to use the aggregationRule",
                    ));
                }
            }
            policy::rules_of(new)
        }
        "rolebindings" | "clusterrolebindings" => {
            if old.is_some_and(|old| {
                old.get("roleRef") == new.get("roleRef")
                    && old.get("subjects") == new.get("subjects")
            }) {
                return Ok(());
            }
            let Some(role) = new
                .get("roleRef")
                .and_then(|role| RoleRef::deserialize(role).ok())
            else {
                return Ok(());
            };
            let roles = if role.kind == "ClusterRole" {
                "clusterroles"
            } else {
                "roles"
            };
            if may(request, "bind", roles, &role.name) {
                return Ok(());
            }
            request
                .state
                .authz
                .rbac
                .rules_of_role(&role, request.namespace)
                .ok_or_else(|| {
                    ApiError::not_found("rbac.authorization.k8s.io", roles, &role.name)
                })?
        }
        _ => return Ok(()),
    };
    let (held, unresolved) = request
        .state
        .authz
        .rbac
        .rules_and_missing(request.user, request.namespace);
    let missing = uncovered(&held, &rules);
    if missing.is_empty() {
        return Ok(());
    }
    let mut why = format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        request.user.name,
        quoted(&request.user.groups),
        missing.join("\n")
    );
    if !unresolved.is_empty() {
        why += &format!("; resolution errors: [{}]", unresolved.join(" "));
    }
    Err(request.forbidden(name, why))
}

/// Whether the user holds the verb that waives the check.
fn may(request: &Request<'_>, verb: &str, resource: &str, name: &str) -> bool {
    let attributes = Attributes {
        user: request.user,
        verb,
        target: Target::Resource {
            group: "rbac.authorization.k8s.io",
            resource,
            subresource: "",
            namespace: request.namespace,
            name,
            field_selector: "",
        },
    };
    matches!(request.state.authz.decide(&attributes), Decision::Allow(_))
}
