//! The built-in resources, a row each, in upstream's order of groups.

use super::{Hooks, NameRule, Resource, Storage, Subresource, Verb, Version, columns, workloads};
use crate::{Gvk, Schema, defaults, strategy::Strategy, validate};

const ALL_VERBS: [Verb; 8] = [
    Verb::Create,
    Verb::Delete,
    Verb::DeleteCollection,
    Verb::Get,
    Verb::List,
    Verb::Patch,
    Verb::Update,
    Verb::Watch,
];
/// A proxy takes every method.
const PROXY_VERBS: [Verb; 5] = [
    Verb::Create,
    Verb::Delete,
    Verb::Get,
    Verb::Patch,
    Verb::Update,
];
const STATUS_VERBS: [Verb; 3] = [Verb::Get, Verb::Patch, Verb::Update];

/// A stored resource with all verbs, to be completed by its row.
pub(super) fn stored(
    schema: &Schema,
    group: &str,
    kind: &str,
    plural: &str,
    hooks: Hooks,
) -> Resource {
    let gvk = Gvk::new(group, "v1", kind);
    let ty = schema
        .by_gvk(&gvk)
        .unwrap_or_else(|| panic!("{kind} is in the table of facts"));
    Resource {
        group: group.to_owned(),
        plural: plural.to_owned(),
        singular: kind.to_lowercase(),
        kind: kind.to_owned(),
        list_kind: format!("{kind}List"),
        short_names: vec![],
        categories: vec![],
        namespaced: true,
        versions: vec![Version {
            name: "v1".to_owned(),
            ty,
        }],
        storage: Storage::Stored {
            gvk,
            group: group.to_owned(),
            resource: plural.to_owned(),
        },
        verbs: ALL_VERBS.to_vec(),
        subresources: vec![],
        columns: columns::of(group, kind),
        selectable_fields: vec![],
        converter: None,
        hooks,
    }
}

/// A review: created, answered, never stored.
fn review(schema: &Schema, group: &str, kind: &str, plural: &str, hooks: Hooks) -> Resource {
    Resource {
        storage: Storage::Virtual,
        verbs: vec![Verb::Create],
        columns: vec![],
        namespaced: false,
        ..stored(schema, group, kind, plural, hooks)
    }
}

impl Resource {
    fn cluster(mut self) -> Self {
        self.namespaced = false;
        self
    }

    pub(super) fn short(mut self, names: &[&str]) -> Self {
        self.short_names = names.iter().map(|s| (*s).to_owned()).collect();
        self
    }

    /// Listed by `kubectl get all`.
    pub(super) fn in_all(mut self) -> Self {
        self.categories = vec!["all".to_owned()];
        self
    }

    pub(super) fn select(mut self, fields: &[&'static str]) -> Self {
        self.selectable_fields = fields.to_vec();
        self
    }

    fn without(mut self, verb: Verb) -> Self {
        self.verbs.retain(|v| *v != verb);
        self
    }

    /// A subresource with the parent's own kind.
    fn own(self, name: &str, verbs: &[Verb]) -> Self {
        let gvk = self.gvk("v1");
        self.sub(name, gvk, verbs)
    }

    fn sub(mut self, name: &str, gvk: Gvk, verbs: &[Verb]) -> Self {
        self.subresources.push(Subresource {
            name: name.to_owned(),
            gvk,
            verbs: verbs.to_vec(),
        });
        self
    }

    pub(super) fn status(self) -> Self {
        self.own("status", &STATUS_VERBS)
    }

    pub(super) fn scale(self) -> Self {
        self.sub(
            "scale",
            Gvk::new("autoscaling", "v1", "Scale"),
            &STATUS_VERBS,
        )
    }
}

pub(super) const PLAIN: Strategy = Strategy {
    status: false,
    generation: false,
    graceful: false,
    create_on_update: false,
    unconditional_update: true,
    orphans_dependents: false,
};
const WITH_STATUS: Strategy = Strategy {
    status: true,
    ..PLAIN
};
pub(super) const CONTROLLED: Strategy = Strategy {
    generation: true,
    ..WITH_STATUS
};
const UPSERT: Strategy = Strategy {
    create_on_update: true,
    ..PLAIN
};

pub(super) fn resources(schema: &Schema) -> Vec<Resource> {
    let mut all = core(schema);
    all.extend(workloads::apps(schema));
    all.extend(events(schema));
    all.extend(reviews(schema));
    all.extend(rest(schema));
    all.extend(super::metrics::resources(schema));
    all
}

fn core(schema: &Schema) -> Vec<Resource> {
    let base = Hooks::none(NameRule::DnsSubdomain, PLAIN);
    let stored = |kind: &str, plural: &str, hooks: Hooks| stored(schema, "", kind, plural, hooks);
    vec![
        Resource {
            storage: Storage::Virtual,
            verbs: vec![Verb::Create],
            columns: vec![],
            ..stored(
                "Binding",
                "bindings",
                Hooks {
                    validate: validate::core::binding,
                    ..base
                },
            )
        },
        stored(
            "ConfigMap",
            "configmaps",
            Hooks {
                validate: validate::core::config_map,
                validate_update: validate::core::config_map_update,
                ..base
            },
        )
        .short(&["cm"]),
        stored(
            "Endpoints",
            "endpoints",
            Hooks {
                default: defaults::endpoints,
                validate: validate::endpoints::endpoints,
                validate_update: validate::endpoints::endpoints_update,
                strategy: UPSERT,
                ..base
            },
        )
        .short(&["ep"]),
        event(stored("Event", "events", event_hooks(base))),
        stored(
            "LimitRange",
            "limitranges",
            Hooks {
                default: defaults::limit_range,
                validate: validate::quota::limit_range,
                validate_update: validate::quota::limit_range_update,
                strategy: UPSERT,
                ..base
            },
        )
        .short(&["limits"]),
        stored(
            "Namespace",
            "namespaces",
            Hooks {
                default: defaults::namespace,
                validate: validate::core::namespace,
                validate_status: validate::core::namespace_status,
                name: NameRule::DnsLabel,
                strategy: WITH_STATUS,
                ..base
            },
        )
        .cluster()
        .short(&["ns"])
        .without(Verb::DeleteCollection)
        .status()
        .own("finalize", &[Verb::Update])
        .select(&["metadata.name", "name", "status.phase"]),
        stored(
            "Node",
            "nodes",
            Hooks {
                default: defaults::node,
                validate: validate::core::node,
                validate_update: validate::core::node_update,
                validate_status: validate::core::node_status,
                strategy: WITH_STATUS,
                ..base
            },
        )
        .cluster()
        .short(&["no"])
        .sub(
            "proxy",
            Gvk::new("", "v1", "NodeProxyOptions"),
            &PROXY_VERBS,
        )
        .status()
        .select(&["metadata.name", "spec.unschedulable"]),
        stored(
            "Pod",
            "pods",
            Hooks {
                default: defaults::pod,
                validate: validate::pod::pod,
                validate_update: validate::pod::pod_update,
                validate_status: validate::pod::pod_status_update,
                strategy: Strategy {
                    graceful: true,
                    ..CONTROLLED
                },
                ..base
            },
        )
        .short(&["po"])
        .in_all()
        .sub(
            "attach",
            Gvk::new("", "v1", "PodAttachOptions"),
            &[Verb::Create, Verb::Get],
        )
        .sub("binding", Gvk::new("", "v1", "Binding"), &[Verb::Create])
        .own("ephemeralcontainers", &STATUS_VERBS)
        .sub(
            "eviction",
            Gvk::new("policy", "v1", "Eviction"),
            &[Verb::Create],
        )
        .sub(
            "exec",
            Gvk::new("", "v1", "PodExecOptions"),
            &[Verb::Create, Verb::Get],
        )
        .own("log", &[Verb::Get])
        .own("resize", &STATUS_VERBS)
        .sub(
            "portforward",
            Gvk::new("", "v1", "PodPortForwardOptions"),
            &[Verb::Create, Verb::Get],
        )
        .sub("proxy", Gvk::new("", "v1", "PodProxyOptions"), &PROXY_VERBS)
        .status()
        .select(&[
            "metadata.name",
            "metadata.namespace",
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ]),
        workloads::replication_controller(schema),
        stored(
            "ResourceQuota",
            "resourcequotas",
            Hooks {
                default: defaults::resource_quota,
                validate: validate::quota::resource_quota,
                validate_update: validate::quota::resource_quota_update,
                validate_status: validate::quota::resource_quota_status,
                strategy: WITH_STATUS,
                ..base
            },
        )
        .short(&["quota"])
        .status(),
        stored(
            "Secret",
            "secrets",
            Hooks {
                default: defaults::secret,
                validate: validate::core::secret,
                validate_update: validate::core::secret_update,
                ..base
            },
        )
        .select(&["metadata.name", "metadata.namespace", "type"]),
        stored(
            "ServiceAccount",
            "serviceaccounts",
            Hooks {
                strategy: Strategy {
                    unconditional_update: false,
                    ..PLAIN
                },
                ..base
            },
        )
        .short(&["sa"])
        .sub(
            "token",
            Gvk::new("authentication.k8s.io", "v1", "TokenRequest"),
            &[Verb::Create],
        ),
        stored(
            "Service",
            "services",
            Hooks {
                default: defaults::service,
                validate: validate::service::service,
                validate_update: validate::service::service_update,
                name: NameRule::Dns1035Label,
                strategy: Strategy {
                    create_on_update: true,
                    ..WITH_STATUS
                },
                ..base
            },
        )
        .short(&["svc"])
        .in_all()
        .sub(
            "proxy",
            Gvk::new("", "v1", "ServiceProxyOptions"),
            &PROXY_VERBS,
        )
        .status()
        .select(&[
            "metadata.name",
            "metadata.namespace",
            "spec.clusterIP",
            "spec.type",
        ]),
    ]
}

fn event_hooks(base: Hooks) -> Hooks {
    Hooks {
        validate: validate::core::event,
        validate_update: validate::core::event_update,
        strategy: UPSERT,
        ..base
    }
}

/// Core's events and `events.k8s.io`'s are one stored object.
fn event(resource: Resource) -> Resource {
    let mut resource = resource.short(&["ev"]).select(&[
        "metadata.name",
        "metadata.namespace",
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ]);
    resource.converter = Some(crate::convert::event);
    resource
}

fn events(schema: &Schema) -> Vec<Resource> {
    let hooks = Hooks {
        validate: validate::core::new_event,
        validate_update: validate::core::new_event_update,
        ..Hooks::none(NameRule::DnsSubdomain, UPSERT)
    };
    let mut resource = event(stored(schema, "events.k8s.io", "Event", "events", hooks)).select(&[
        "metadata.name",
        "metadata.namespace",
        "regarding.kind",
        "regarding.namespace",
        "regarding.name",
        "regarding.uid",
        "regarding.apiVersion",
        "regarding.resourceVersion",
        "regarding.fieldPath",
        "reason",
        "reportingController",
        "type",
    ]);
    resource.storage = Storage::Stored {
        gvk: Gvk::new("", "v1", "Event"),
        group: String::new(),
        resource: "events".to_owned(),
    };
    vec![resource]
}

fn reviews(schema: &Schema) -> Vec<Resource> {
    let with = |validate| Hooks {
        validate,
        ..Hooks::none(NameRule::DnsSubdomain, PLAIN)
    };
    let (authn, authz) = ("authentication.k8s.io", "authorization.k8s.io");
    let none = |_: &crate::Value| vec![];
    let mut local = review(
        schema,
        authz,
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        with(validate::reviews::local_subject_access_review),
    );
    local.namespaced = true;
    vec![
        review(
            schema,
            authn,
            "SelfSubjectReview",
            "selfsubjectreviews",
            with(none),
        ),
        review(
            schema,
            authn,
            "TokenReview",
            "tokenreviews",
            with(validate::reviews::token_review),
        ),
        local,
        review(
            schema,
            authz,
            "SelfSubjectAccessReview",
            "selfsubjectaccessreviews",
            with(validate::reviews::self_subject_access_review),
        ),
        review(
            schema,
            authz,
            "SelfSubjectRulesReview",
            "selfsubjectrulesreviews",
            with(validate::reviews::self_subject_rules_review),
        ),
        review(
            schema,
            authz,
            "SubjectAccessReview",
            "subjectaccessreviews",
            with(validate::reviews::subject_access_review),
        ),
    ]
}

fn rest(schema: &Schema) -> Vec<Resource> {
    let base = Hooks::none(NameRule::DnsSubdomain, PLAIN);
    let rbac = Hooks {
        name: NameRule::PathSegment,
        strategy: UPSERT,
        ..base
    };
    let group = "rbac.authorization.k8s.io";
    let role = Hooks {
        validate: validate::rbac::role,
        validate_update: validate::rbac::role_update,
        ..rbac
    };
    let cluster_role = Hooks {
        validate: validate::rbac::cluster_role,
        validate_update: validate::rbac::cluster_role_update,
        ..rbac
    };
    let binding = Hooks {
        default: defaults::role_binding,
        validate: validate::rbac::role_binding,
        validate_update: validate::rbac::role_binding_update,
        ..rbac
    };
    let cluster_binding = Hooks {
        validate: validate::rbac::cluster_role_binding,
        validate_update: validate::rbac::cluster_role_binding_update,
        ..binding
    };
    vec![
        stored(
            schema,
            "certificates.k8s.io",
            "CertificateSigningRequest",
            "certificatesigningrequests",
            Hooks {
                validate: validate::certificates::csr,
                validate_update: validate::certificates::csr_update,
                validate_status: validate::certificates::csr_status,
                name: NameRule::Any,
                strategy: WITH_STATUS,
                ..base
            },
        )
        .cluster()
        .short(&["csr"])
        .own("approval", &STATUS_VERBS)
        .status()
        .select(&["metadata.name", "spec.signerName"]),
        stored(
            schema,
            "policy",
            "PodDisruptionBudget",
            "poddisruptionbudgets",
            Hooks {
                validate: validate::policy::pdb,
                validate_update: validate::policy::pdb_update,
                validate_status: validate::policy::pdb_status,
                strategy: Strategy {
                    unconditional_update: false,
                    ..CONTROLLED
                },
                ..base
            },
        )
        .short(&["pdb"])
        .status(),
        stored(
            schema,
            group,
            "ClusterRoleBinding",
            "clusterrolebindings",
            cluster_binding,
        )
        .cluster(),
        stored(schema, group, "ClusterRole", "clusterroles", cluster_role).cluster(),
        stored(schema, group, "RoleBinding", "rolebindings", binding),
        stored(schema, group, "Role", "roles", role),
        stored(
            schema,
            "scheduling.k8s.io",
            "PriorityClass",
            "priorityclasses",
            Hooks {
                default: defaults::priority_class,
                validate: validate::policy::priority_class,
                validate_update: validate::policy::priority_class_update,
                strategy: Strategy {
                    generation: true,
                    ..UPSERT
                },
                ..base
            },
        )
        .cluster()
        .short(&["pc"]),
        stored(
            schema,
            "coordination.k8s.io",
            "Lease",
            "leases",
            Hooks {
                validate: validate::core::lease,
                validate_update: validate::core::lease_update,
                strategy: Strategy {
                    unconditional_update: false,
                    ..UPSERT
                },
                ..base
            },
        ),
        stored(
            schema,
            "discovery.k8s.io",
            "EndpointSlice",
            "endpointslices",
            Hooks {
                default: defaults::endpoint_slice,
                validate: validate::endpoints::endpoint_slice,
                validate_update: validate::endpoints::endpoint_slice_update,
                strategy: Strategy {
                    generation: true,
                    ..PLAIN
                },
                ..base
            },
        ),
        stored(
            schema,
            crate::flowcontrol::GROUP,
            "FlowSchema",
            "flowschemas",
            Hooks {
                default: defaults::flow_schema,
                validate: validate::flowcontrol::flow_schema,
                validate_update: validate::flowcontrol::flow_schema_update,
                validate_status: validate::flowcontrol::status,
                strategy: CONTROLLED,
                ..base
            },
        )
        .cluster()
        .status(),
        stored(
            schema,
            crate::flowcontrol::GROUP,
            "PriorityLevelConfiguration",
            "prioritylevelconfigurations",
            Hooks {
                default: defaults::priority_level,
                validate: validate::flowcontrol::priority_level,
                validate_update: validate::flowcontrol::priority_level_update,
                validate_status: validate::flowcontrol::status,
                strategy: CONTROLLED,
                ..base
            },
        )
        .cluster()
        .status(),
    ]
}
