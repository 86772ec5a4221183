//! The Node authorizer: a node may do to the API what its own pods need, and no more.
//!
//! What every node may do to everything is the `system:node` role's rules, which apply here without a binding.
//! Secrets, ConfigMaps, claims and ServiceAccounts are reached only where a pod bound to the node refers to them;
//! pods, Node, Lease and CSINode objects only where they are its own. What the authorizer can't see, the object that
//! is written, NodeRestriction judges.

mod refs;

pub use refs::{PodRefs, collect, is_mirror};

use std::{ops::Bound, sync::Arc};

use super::{Attributes, Decision, Target, policy, rules::Rule};
use crate::cache::{ResourceCache, View};

/// Where the nodes' leases are.
pub const LEASES: &str = "kube-node-lease";

pub struct NodeAuthorizer {
    pods: View<PodRefs>,
    rules: Vec<Rule>,
}

fn no(why: impl Into<String>) -> Decision {
    Decision::No(why.into())
}

fn yes() -> Decision {
    Decision::Allow(String::new())
}

/// The request, taken apart once.
struct Asked<'a> {
    node: &'a str,
    verb: &'a str,
    subresource: &'a str,
    namespace: &'a str,
    name: &'a str,
    field_selector: &'a str,
}

impl Asked<'_> {
    fn unrelated(&self) -> Decision {
        no(format!(
            "no relationship found between node '{}' and this object",
            self.node
        ))
    }

    /// The selector narrows the request to objects of this node.
    fn selects_own(&self) -> bool {
        self.field_selector.split(',').any(|term| {
            term.strip_prefix("spec.nodeName=")
                .is_some_and(|value| value.strip_prefix('=').unwrap_or(value) == self.node)
        })
    }
}

impl NodeAuthorizer {
    pub fn new(pods: Arc<ResourceCache>) -> NodeAuthorizer {
        NodeAuthorizer {
            pods: View::new(pods, refs::refs),
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
        let asked = Asked {
            node,
            verb: attributes.verb,
            subresource,
            namespace,
            name,
            field_selector,
        };
        match (group, resource) {
            ("", "secrets") => self.read(&asked, &|pod| pod.secrets.contains(name)),
            ("", "configmaps") => self.read(&asked, &|pod| pod.config_maps.contains(name)),
            ("", "persistentvolumeclaims") if subresource == "status" => {
                if !matches!(asked.verb, "update" | "patch") {
                    return no("can only get/update/patch this type");
                }
                self.related(&asked, &|pod| pod.claims.contains(name))
            }
            ("", "persistentvolumeclaims") => {
                self.get_one(&asked, &|pod| pod.claims.contains(name))
            }
            // Nothing relates these to nodes while their controllers don't run.
            ("", "persistentvolumes")
            | ("storage.k8s.io", "volumeattachments")
            | ("resource.k8s.io", "resourceclaims") => self.get_one(&asked, &|_| false),
            ("", "serviceaccounts") => self.service_accounts(&asked),
            ("", "pods") => self.pods(&asked),
            ("", "nodes") => nodes(&asked),
            ("coordination.k8s.io", "leases") => leases(&asked),
            ("storage.k8s.io", "csinodes") => csi_nodes(&asked),
            ("resource.k8s.io", "resourceslices") => slices(&asked),
            ("certificates.k8s.io", "podcertificaterequests") => no(""),
            _ => self.by_rules(attributes),
        }
    }

    fn by_rules(&self, attributes: &Attributes<'_>) -> Decision {
        if self.rules.iter().any(|rule| rule.allows(attributes)) {
            yes()
        } else {
            no("")
        }
    }

    /// Reading of single objects that a pod on the node refers to.
    fn read(&self, asked: &Asked<'_>, is: &dyn Fn(&PodRefs) -> bool) -> Decision {
        if !matches!(asked.verb, "get" | "list" | "watch") {
            return no("can only read resources of this type");
        }
        if !asked.subresource.is_empty() {
            return no("cannot read subresource");
        }
        if asked.namespace.is_empty() {
            return no("can only read namespaced object of this type");
        }
        self.related(asked, is)
    }

    fn get_one(&self, asked: &Asked<'_>, is: &dyn Fn(&PodRefs) -> bool) -> Decision {
        if asked.verb != "get" {
            return no("can only get individual resources of this type");
        }
        if !asked.subresource.is_empty() {
            return no("cannot get subresource");
        }
        self.related(asked, is)
    }

    fn related(&self, asked: &Asked<'_>, is: &dyn Fn(&PodRefs) -> bool) -> Decision {
        if asked.name.is_empty() {
            return no("No Object name found");
        }
        if self.refers(asked, is) {
            yes()
        } else {
            asked.unrelated()
        }
    }

    fn service_accounts(&self, asked: &Asked<'_>) -> Decision {
        let is = |pod: &PodRefs| pod.service_account == asked.name;
        if asked.verb == "get" && asked.subresource.is_empty() {
            return self.read(asked, &is);
        }
        if asked.verb != "create" || asked.name.is_empty() {
            return no("can only create tokens for individual service accounts");
        }
        if asked.subresource != "token" {
            return no("can only create token subresource of serviceaccount");
        }
        self.related(asked, &is)
    }

    fn pods(&self, asked: &Asked<'_>) -> Decision {
        let own = || {
            let key = format!("{}/{}", asked.namespace, asked.name);
            let runs_here = |pod: &PodRefs| pod.node == asked.node;
            let found = self
                .pods
                .with(|pods| pods.get(key.as_str()).is_some_and(runs_here));
            if found { yes() } else { asked.unrelated() }
        };
        match (asked.subresource, asked.verb) {
            ("", "get") => own(),
            ("", "list" | "watch") if asked.selects_own() => yes(),
            ("", "list" | "watch") if !asked.name.is_empty() => own(),
            ("", "list" | "watch") => {
                no("can only list/watch pods with spec.nodeName field selector")
            }
            // Which of them, NodeRestriction says.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => {
                yes()
            }
            _ => no(""),
        }
    }

    fn refers(&self, asked: &Asked<'_>, is: &dyn Fn(&PodRefs) -> bool) -> bool {
        let prefix = format!("{}/", asked.namespace);
        self.pods.with(|pods| {
            pods.range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded))
                .take_while(|(key, _)| key.starts_with(&prefix))
                .any(|(_, pod)| pod.node == asked.node && is(pod))
        })
    }
}

fn nodes(asked: &Asked<'_>) -> Decision {
    let (node, name) = (asked.node, asked.name);
    match (asked.subresource, asked.verb) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => yes(),
        // By name alone: a node looks for its object before it makes it.
        ("", "get" | "list" | "watch") if name == node => yes(),
        ("", "get" | "list" | "watch") if name.is_empty() => no(format!(
            "node '{node}' cannot read all nodes, only its own Node object"
        )),
        ("", "get" | "list" | "watch") => no(format!(
            "node '{node}' cannot read '{name}', only its own Node object"
        )),
        _ => no(""),
    }
}

fn is_single(verb: &str) -> bool {
    matches!(verb, "get" | "create" | "update" | "patch" | "delete")
}

fn leases(asked: &Asked<'_>) -> Decision {
    if !is_single(asked.verb) {
        return no("can only get, create, update, patch, or delete a node lease");
    }
    if asked.namespace != LEASES {
        return no(format!(
            "can only access leases in the {LEASES:?} system namespace"
        ));
    }
    if asked.verb != "create" && asked.name != asked.node {
        return no("can only access node lease with the same name as the requesting node");
    }
    yes()
}

fn csi_nodes(asked: &Asked<'_>) -> Decision {
    if !is_single(asked.verb) {
        return no("can only get, create, update, patch, or delete a CSINode");
    }
    if !asked.subresource.is_empty() {
        return no("cannot authorize CSINode subresources");
    }
    if asked.verb != "create" && asked.name != asked.node {
        return no("can only access CSINode with the same name as the requesting node");
    }
    yes()
}

fn slices(asked: &Asked<'_>) -> Decision {
    if !asked.subresource.is_empty() {
        return no("cannot authorize ResourceSlice subresources");
    }
    match asked.verb {
        "create" => yes(),
        "watch" | "list" | "deletecollection" if asked.selects_own() => yes(),
        "watch" | "list" | "deletecollection" => {
            no("can only list/watch/deletecollection resourceslices with nodeName field selector")
        }
        "get" | "update" | "patch" | "delete" => asked.unrelated(),
        _ => no(
            "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, \
             delete, deletecollection",
        ),
    }
}
