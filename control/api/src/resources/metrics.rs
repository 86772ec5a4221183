//! `metrics.k8s.io`: what nodes and pods use. Read only; made for each request from what the nodes tell.

use super::{Hooks, NameRule, Resource, Storage, Verb, Version, columns};
use crate::{Gvk, Schema, strategy::Strategy};

const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";

/// Nothing is ever written.
const NEVER: Strategy = Strategy {
    status: false,
    generation: false,
    graceful: false,
    create_on_update: false,
    unconditional_update: false,
    orphans_dependents: false,
};

pub(super) fn resources(schema: &Schema) -> Vec<Resource> {
    let resource = |kind: &str, plural: &str, namespaced| Resource {
        group: GROUP.to_owned(),
        plural: plural.to_owned(),
        // As metrics-server has it: the singular is the core resource's.
        singular: String::new(),
        kind: kind.to_owned(),
        list_kind: format!("{kind}List"),
        short_names: vec![],
        categories: vec![],
        namespaced,
        versions: vec![Version {
            name: VERSION.to_owned(),
            ty: schema
                .by_gvk(&Gvk::new(GROUP, VERSION, kind))
                .unwrap_or_else(|| panic!("{kind} is in the table of facts")),
        }],
        storage: Storage::Virtual,
        verbs: vec![Verb::Get, Verb::List],
        subresources: vec![],
        columns: columns::of(GROUP, kind),
        selectable_fields: vec![],
        converter: None,
        hooks: Hooks::none(NameRule::DnsSubdomain, NEVER),
    };
    vec![
        resource("NodeMetrics", "nodes", false),
        resource("PodMetrics", "pods", true),
    ]
}
