//! RBAC over the watch cache: which rules bind a user, and whether one of them allows a request.

use std::{ops::Bound, sync::Arc};

use serde::Deserialize;

use super::{Attributes, Decision, Target, rules::Rule};
use crate::{
    cache::{CachedObject, ResourceCache, View},
    user::UserInfo,
};

/// Parsed roles and bindings.
pub struct Rbac {
    roles: View<Vec<Rule>>,
    cluster_roles: View<Vec<Rule>>,
    role_bindings: View<Binding>,
    cluster_role_bindings: View<Binding>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Binding {
    #[serde(default)]
    subjects: Vec<Subject>,
    role_ref: RoleRef,
}

#[derive(Clone, Debug, Deserialize)]
struct Subject {
    kind: String,
    name: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RoleRef {
    pub kind: String,
    pub name: String,
}

/// The caches of the four kinds.
pub struct RbacCaches {
    pub roles: Arc<ResourceCache>,
    pub cluster_roles: Arc<ResourceCache>,
    pub role_bindings: Arc<ResourceCache>,
    pub cluster_role_bindings: Arc<ResourceCache>,
}

/// A rule that binds a user, and through what.
pub struct BoundRules<'a> {
    pub rules: &'a [Rule],
    /// As decisions tell it: `ClusterRoleBinding "x" of ClusterRole "y" to Group "z"`.
    pub source: &'a dyn Fn() -> String,
}

impl Subject {
    fn is(&self, user: &UserInfo) -> bool {
        match self.kind.as_str() {
            "User" => self.name == user.name,
            "Group" => user.in_group(&self.name),
            "ServiceAccount" => user
                .as_service_account()
                .is_some_and(|(namespace, name)| namespace == self.namespace && name == self.name),
            _ => false,
        }
    }

    fn told(&self) -> String {
        if self.kind == "ServiceAccount" {
            format!("{} \"{}/{}\"", self.kind, self.name, self.namespace)
        } else {
            format!("{} {:?}", self.kind, self.name)
        }
    }
}

fn rules_of(object: &CachedObject) -> Option<Vec<Rule>> {
    #[derive(Deserialize)]
    struct Role {
        // Upstream serves a ClusterRole without rules as `"rules": null`.
        rules: Option<Vec<Rule>>,
    }
    let role: Role = serde_json::from_slice(object.json()).ok()?;
    Some(role.rules.unwrap_or_default())
}

fn binding_of(object: &CachedObject) -> Option<Binding> {
    serde_json::from_slice(object.json()).ok()
}

impl Rbac {
    pub fn new(caches: RbacCaches) -> Rbac {
        Rbac {
            roles: View::new(caches.roles, rules_of),
            cluster_roles: View::new(caches.cluster_roles, rules_of),
            role_bindings: View::new(caches.role_bindings, binding_of),
            cluster_role_bindings: View::new(caches.cluster_role_bindings, binding_of),
        }
    }

    pub fn decide(&self, attributes: &Attributes<'_>) -> Decision {
        let namespace = match attributes.target {
            Target::Resource { namespace, .. } => namespace,
            Target::Path(_) => "",
        };
        let mut allowed = None;
        let missing = self.visit(attributes.user, namespace, &mut |bound| {
            if bound.rules.iter().any(|rule| rule.allows(attributes)) {
                allowed = Some(format!("RBAC: allowed by {}", (bound.source)()));
                return false;
            }
            true
        });
        match allowed {
            Some(reason) => Decision::Allow(reason),
            None if missing.is_empty() => Decision::No(String::new()),
            None => Decision::No(format!("RBAC: {}", told(&missing))),
        }
    }

    /// Every rule that the user holds in a namespace (and everywhere).
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> Vec<Rule> {
        self.rules_and_missing(user, namespace).0
    }

    /// The same, and the roles that the user's bindings refer to and that don't exist, told.
    pub fn rules_and_missing(&self, user: &UserInfo, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let mut rules = Vec::new();
        let missing = self.visit(user, namespace, &mut |bound| {
            rules.extend_from_slice(bound.rules);
            true
        });
        (rules, missing)
    }

    /// The rules of a role that a binding in `namespace` (empty: a ClusterRoleBinding) refers to.
    pub fn rules_of_role(&self, role: &RoleRef, namespace: &str) -> Option<Vec<Rule>> {
        match role.kind.as_str() {
            "ClusterRole" => self
                .cluster_roles
                .with(|roles| roles.get(role.name.as_str()).cloned()),
            "Role" => {
                let key = format!("{namespace}/{}", role.name);
                self.roles.with(|roles| roles.get(key.as_str()).cloned())
            }
            _ => None,
        }
    }

    /// Calls `f` with the rules of each binding of the user until it answers false; answers the roles that
    /// bindings refer to and that don't exist.
    fn visit(
        &self,
        user: &UserInfo,
        namespace: &str,
        f: &mut dyn FnMut(BoundRules<'_>) -> bool,
    ) -> Vec<String> {
        let mut missing = Vec::new();
        let go_on = self.cluster_role_bindings.with(|bindings| {
            self.cluster_roles.with(|roles| {
                bindings.iter().all(|(name, binding)| {
                    let Some(subject) = binding.subjects.iter().find(|subject| subject.is(user))
                    else {
                        return true;
                    };
                    let Some(rules) = roles.get(binding.role_ref.name.as_str()) else {
                        missing.push(not_found("clusterrole", &binding.role_ref.name));
                        return true;
                    };
                    f(BoundRules {
                        rules,
                        source: &|| {
                            let role = &binding.role_ref.name;
                            format!(
                                "ClusterRoleBinding {name:?} of ClusterRole {role:?} to {}",
                                subject.told()
                            )
                        },
                    })
                })
            })
        });
        if !go_on || namespace.is_empty() {
            return missing;
        }
        let prefix = format!("{namespace}/");
        self.role_bindings.with(|bindings| {
            let ours = bindings
                .range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded))
                .take_while(|(key, _)| key.starts_with(&prefix));
            for (key, binding) in ours {
                let Some(subject) = binding.subjects.iter().find(|subject| subject.is(user)) else {
                    continue;
                };
                let role = &binding.role_ref;
                let Some(rules) = self.rules_of_role(role, namespace) else {
                    missing.push(not_found(&role.kind.to_ascii_lowercase(), &role.name));
                    continue;
                };
                let go_on = f(BoundRules {
                    rules: &rules,
                    source: &|| {
                        let (kind, role, subject) = (&role.kind, &role.name, subject.told());
                        let name = &key[prefix.len()..];
                        format!(
                            "RoleBinding \"{name}/{namespace}\" of {kind} {role:?} to {subject}"
                        )
                    },
                });
                if !go_on {
                    break;
                }
            }
        });
        missing
    }
}

fn not_found(kind: &str, name: &str) -> String {
    format!("{kind}.rbac.authorization.k8s.io {name:?} not found")
}

/// One reason plain, several in brackets, as upstream aggregates errors.
fn told(reasons: &[String]) -> String {
    match reasons {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}
