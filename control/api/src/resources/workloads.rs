//! What keeps pods: ReplicationControllers, and the group `apps`.

use super::{
    Hooks, NameRule, Resource,
    builtin::{CONTROLLED, PLAIN, stored},
};
use crate::{Schema, defaults, strategy::Strategy, validate};

pub(super) fn replication_controller(schema: &Schema) -> Resource {
    let hooks = Hooks {
        default: defaults::replication_controller,
        validate: validate::replication::replication_controller,
        validate_update: validate::replication::replication_controller_update,
        validate_status: validate::replication::replication_controller_status,
        ..Hooks::none(
            NameRule::DnsSubdomain,
            Strategy {
                orphans_dependents: true,
                ..CONTROLLED
            },
        )
    };
    stored(
        schema,
        "",
        "ReplicationController",
        "replicationcontrollers",
        hooks,
    )
    .short(&["rc"])
    .in_all()
    .scale()
    .status()
    .select(&["metadata.name", "metadata.namespace", "status.replicas"])
}

pub(super) fn apps(schema: &Schema) -> Vec<Resource> {
    let base = Hooks::none(NameRule::DnsSubdomain, CONTROLLED);
    let stored =
        |kind: &str, plural: &str, hooks: Hooks| stored(schema, "apps", kind, plural, hooks);
    vec![
        stored(
            "ControllerRevision",
            "controllerrevisions",
            Hooks {
                validate: validate::daemonset::controller_revision,
                validate_update: validate::daemonset::controller_revision_update,
                strategy: PLAIN,
                ..base
            },
        ),
        stored(
            "DaemonSet",
            "daemonsets",
            Hooks {
                default: defaults::daemon_set,
                validate: validate::daemonset::daemon_set,
                validate_update: validate::daemonset::daemon_set_update,
                validate_status: validate::daemonset::daemon_set_status,
                ..base
            },
        )
        .short(&["ds"])
        .in_all()
        .status(),
        stored(
            "Deployment",
            "deployments",
            Hooks {
                default: defaults::deployment,
                validate: validate::apps::deployment,
                validate_update: validate::apps::deployment_update,
                validate_status: validate::apps::deployment_status,
                ..base
            },
        )
        .short(&["deploy"])
        .in_all()
        .scale()
        .status(),
        stored(
            "ReplicaSet",
            "replicasets",
            Hooks {
                default: defaults::replica_set,
                validate: validate::apps::replica_set,
                validate_update: validate::apps::replica_set_update,
                validate_status: validate::apps::replica_set_status,
                ..base
            },
        )
        .short(&["rs"])
        .in_all()
        .scale()
        .status()
        .select(&["metadata.name", "metadata.namespace", "status.replicas"]),
    ]
}
