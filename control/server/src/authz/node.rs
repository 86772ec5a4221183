//! The Node authorizer: a node may do to the API what its own pods need, and no more.
//!
//! What every node may do to everything is the `system:node` role's rules, which apply here without a binding.
//! Secrets, ConfigMaps and ServiceAccount tokens are allowed only where a pod bound to the node refers to them;
//! pods and Node objects only where they are its own.

use std::{collections::BTreeSet, ops::Bound, sync::Arc};

use kernelet_api::Value;

use super::{Attributes, Decision, Target, policy, rules::Rule};
use crate::cache::{CachedObject, ResourceCache, View};

pub struct NodeAuthorizer {
    pods: View<PodRefs>,
    rules: Vec<Rule>,
}

/// What a pod on a node refers to.
struct PodRefs {
    node: String,
    service_account: String,
    secrets: BTreeSet<String>,
    config_maps: BTreeSet<String>,
}

impl NodeAuthorizer {
    pub fn new(pods: Arc<ResourceCache>) -> NodeAuthorizer {
        NodeAuthorizer {
            pods: View::new(pods, refs),
            rules: policy::node_rules(),
        }
    }

    pub fn decide(&self, node: &str, attributes: &Attributes<'_>) -> Decision {
        let Target::Resource {
            group,
            resource,
            subresource,
            namespace,
            name,
            field_selector,
        } = attributes.target
        else {
            return self.by_rules(attributes);
        };
        let verb = attributes.verb;
        let unrelated = || {
            Decision::No(format!(
                "no relationship found between node '{node}' and this object"
            ))
        };
        let related = |is: &dyn Fn(&PodRefs) -> bool| {
            if self.refers(node, namespace, is) {
                Decision::Allow(String::new())
            } else {
                unrelated()
            }
        };
        match (group, resource, subresource) {
            ("", "secrets" | "configmaps", _) => {
                if !matches!(verb, "get" | "list" | "watch") || !subresource.is_empty() {
                    return Decision::No("can only read resources of this type".to_owned());
                }
                if name.is_empty() {
                    return Decision::No("No Object name found".to_owned());
                }
                if resource == "secrets" {
                    related(&|pod| pod.secrets.contains(name))
                } else {
                    related(&|pod| pod.config_maps.contains(name))
                }
            }
            ("", "serviceaccounts", "token") => {
                if verb != "create" || name.is_empty() {
                    return Decision::No(
                        "can only create tokens for individual service accounts".to_owned(),
                    );
                }
                related(&|pod| pod.service_account == name)
            }
            ("", "pods", "") if matches!(verb, "list" | "watch" | "deletecollection") => {
                let own = field_selector.split(',').any(|term| {
                    term.strip_prefix("spec.nodeName=")
                        .is_some_and(|v| v.strip_prefix('=').unwrap_or(v) == node)
                });
                if own && verb != "deletecollection" {
                    self.by_rules(attributes)
                } else {
                    Decision::No(format!(
                        "can only list/watch pods with spec.nodeName field selector '{node}'"
                    ))
                }
            }
            ("", "pods", "") if verb == "get" => {
                let key = format!("{namespace}/{name}");
                if self
                    .pods
                    .with(|pods| pods.get(key.as_str()).is_some_and(|pod| pod.node == node))
                {
                    Decision::Allow(String::new())
                } else {
                    unrelated()
                }
            }
            ("", "nodes", "") if matches!(verb, "get" | "list" | "watch") && name != node => {
                Decision::No(format!(
                    "node '{node}' cannot read '{name}', only its own Node object"
                ))
            }
            ("coordination.k8s.io", "leases", _) => {
                if namespace != "kube-node-lease" {
                    return Decision::No(format!(
                        "can only access leases in the \"{}\" system namespace",
                        "kube-node-lease"
                    ));
                }
                if !subresource.is_empty()
                    || !matches!(verb, "get" | "create" | "update" | "patch" | "delete")
                {
                    return Decision::No(
                        "can only get, create, update, patch, or delete a node lease".to_owned(),
                    );
                }
                if verb != "create" && name != node {
                    return Decision::No(
                        "can only access node lease with the same name as the requesting node"
                            .to_owned(),
                    );
                }
                Decision::Allow(String::new())
            }
            _ => self.by_rules(attributes),
        }
    }

    fn by_rules(&self, attributes: &Attributes<'_>) -> Decision {
        if self.rules.iter().any(|rule| rule.allows(attributes)) {
            Decision::Allow(String::new())
        } else {
            Decision::No(String::new())
        }
    }

    fn refers(&self, node: &str, namespace: &str, is: &dyn Fn(&PodRefs) -> bool) -> bool {
        let prefix = format!("{namespace}/");
        self.pods.with(|pods| {
            pods.range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded))
                .take_while(|(key, _)| key.starts_with(&prefix))
                .any(|(_, pod)| pod.node == node && is(pod))
        })
    }
}

fn refs(object: &CachedObject) -> Option<PodRefs> {
    let tree = object.tree();
    let spec = tree.get("spec")?;
    let text = |value: &Value, path: &str| {
        value
            .pointer(path)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let node = text(spec, "/nodeName").filter(|node| !node.is_empty())?;
    let (mut secrets, mut config_maps) = (BTreeSet::new(), BTreeSet::new());
    let list = |value: &Value, key: &str| {
        value
            .get(key)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    for pull in list(spec, "imagePullSecrets") {
        secrets.extend(text(&pull, "/name"));
    }
    for volume in list(spec, "volumes") {
        secrets.extend(text(&volume, "/secret/secretName"));
        config_maps.extend(text(&volume, "/configMap/name"));
        for source in volume
            .get("projected")
            .map(|p| list(p, "sources"))
            .unwrap_or_default()
        {
            secrets.extend(text(&source, "/secret/name"));
            config_maps.extend(text(&source, "/configMap/name"));
        }
    }
    for containers in ["containers", "initContainers", "ephemeralContainers"] {
        for container in list(spec, containers) {
            for from in list(&container, "envFrom") {
                secrets.extend(text(&from, "/secretRef/name"));
                config_maps.extend(text(&from, "/configMapRef/name"));
            }
            for env in list(&container, "env") {
                secrets.extend(text(&env, "/valueFrom/secretKeyRef/name"));
                config_maps.extend(text(&env, "/valueFrom/configMapKeyRef/name"));
            }
        }
    }
    Some(PodRefs {
        node,
        service_account: text(spec, "/serviceAccountName").unwrap_or_default(),
        secrets,
        config_maps,
    })
}
