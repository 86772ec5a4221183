//! The columns of each kind's Table, in upstream's order.

use super::{Cell, Column};

const fn column(
    name: &'static str,
    ty: &'static str,
    description: &'static str,
    cell: Cell,
) -> Column {
    Column {
        name,
        ty,
        format: "",
        description,
        priority: 0,
        cell,
    }
}

const fn text(name: &'static str, description: &'static str, path: &'static str) -> Column {
    column(name, "string", description, Cell::Path(path))
}

const fn computed(name: &'static str, description: &'static str, how: &'static str) -> Column {
    column(name, "string", description, Cell::Computed(how))
}

const fn integer(name: &'static str, description: &'static str, path: &'static str) -> Column {
    column(name, "integer", description, Cell::Path(path))
}

const fn wide(column: Column) -> Column {
    Column {
        priority: 1,
        ..column
    }
}

const NAME: Column = Column {
    format: "name",
    ..column(
        "Name",
        "string",
        "The object's name, unique within its namespace.",
        Cell::Path("metadata.name"),
    )
};
const AGE: Column = column(
    "Age",
    "string",
    "The time since the object was created.",
    Cell::Age("metadata.creationTimestamp"),
);
const CONTAINERS: Column = wide(computed(
    "Containers",
    "Names of the template's containers.",
    "template.containers",
));
const IMAGES: Column = wide(computed(
    "Images",
    "Images of the template's containers.",
    "template.images",
));
const LABEL_SELECTOR: Column = wide(computed(
    "Selector",
    "Which pods are counted.",
    "selector.labels",
));

/// The columns of a kind; name and age for a kind without columns of its own.
pub(super) fn of(group: &str, kind: &str) -> Vec<Column> {
    match (group, kind) {
        ("", "Pod") => vec![
            NAME,
            computed("Ready", "Ready containers of all.", "pod.ready"),
            computed(
                "Status",
                "What the pod does, or why it does not.",
                "pod.status",
            ),
            computed(
                "Restarts",
                "How often containers were restarted, and when last.",
                "pod.restarts",
            ),
            AGE,
            wide(computed("IP", "The pod's address.", "pod.ip")),
            wide(computed("Node", "The node that runs the pod.", "pod.node")),
            wide(computed(
                "Nominated Node",
                "The node where room is being made.",
                "pod.nominatedNode",
            )),
            wide(computed(
                "Readiness Gates",
                "Passed gates of all.",
                "pod.readinessGates",
            )),
        ],
        ("", "Service") => vec![
            NAME,
            text("Type", "How the service is exposed.", "spec.type"),
            computed(
                "Cluster-IP",
                "The service's address within the cluster.",
                "service.clusterIP",
            ),
            computed(
                "External-IP",
                "Addresses from outside the cluster.",
                "service.externalIP",
            ),
            computed("Port(s)", "Ports and their protocols.", "service.ports"),
            AGE,
            wide(computed(
                "Selector",
                "Which pods the service routes to.",
                "selector.map",
            )),
        ],
        ("", "Endpoints") => vec![
            NAME,
            computed(
                "Endpoints",
                "Ready addresses and ports.",
                "endpoints.addresses",
            ),
            AGE,
        ],
        ("", "Node") => vec![
            NAME,
            computed("Status", "Whether the node is ready.", "node.status"),
            computed("Roles", "From the node's role labels.", "node.roles"),
            AGE,
            text(
                "Version",
                "The node agent's version.",
                "status.nodeInfo.kubeletVersion",
            ),
            wide(computed(
                "Internal-IP",
                "The address within the cluster.",
                "node.internalIP",
            )),
            wide(computed(
                "External-IP",
                "The address from outside.",
                "node.externalIP",
            )),
            wide(computed(
                "OS-Image",
                "The operating system.",
                "node.osImage",
            )),
            wide(computed(
                "Kernel-Version",
                "The kernel.",
                "node.kernelVersion",
            )),
            wide(computed(
                "Container-Runtime",
                "What runs the containers.",
                "node.containerRuntime",
            )),
        ],
        ("" | "events.k8s.io", "Event") => vec![
            computed(
                "Last Seen",
                "The time since it last happened.",
                "event.lastSeen",
            ),
            text("Type", "Normal or Warning.", "type"),
            text("Reason", "One word why.", "reason"),
            computed("Object", "The object it is about.", "event.object"),
            wide(computed(
                "Subobject",
                "The part of the object.",
                "event.subobject",
            )),
            wide(computed("Source", "Who reports it.", "event.source")),
            computed("Message", "What happened.", "event.message"),
            wide(computed(
                "First Seen",
                "The time since it first happened.",
                "event.firstSeen",
            )),
            wide(column(
                "Count",
                "string",
                "How often it happened.",
                Cell::Computed("event.count"),
            )),
            wide(NAME),
        ],
        ("", "Namespace") => vec![
            NAME,
            text("Status", "Active or Terminating.", "status.phase"),
            AGE,
        ],
        ("", "Secret") => vec![
            NAME,
            text("Type", "What the secret holds.", "type"),
            computed("Data", "How many keys it has.", "data.count"),
            AGE,
        ],
        ("", "ConfigMap") => {
            vec![
                NAME,
                computed("Data", "How many keys it has.", "data.count"),
                AGE,
            ]
        }
        ("", "ServiceAccount") => vec![NAME, AGE],
        ("apps", "Deployment") => vec![
            NAME,
            computed("Ready", "Ready pods of those wanted.", "deployment.ready"),
            computed(
                "Up-to-date",
                "Pods of the newest template.",
                "deployment.upToDate",
            ),
            computed(
                "Available",
                "Pods that were ready long enough.",
                "deployment.available",
            ),
            AGE,
            CONTAINERS,
            IMAGES,
            LABEL_SELECTOR,
        ],
        ("apps", "ControllerRevision") => vec![
            NAME,
            computed("Controller", "Whose revision it is.", "revision.controller"),
            text("Revision", "Which of its revisions.", "revision"),
            AGE,
        ],
        ("apps", "DaemonSet") => vec![
            NAME,
            integer(
                "Desired",
                "Nodes that should run a pod.",
                "status.desiredNumberScheduled",
            ),
            integer(
                "Current",
                "Those that have one.",
                "status.currentNumberScheduled",
            ),
            integer("Ready", "Those whose pod is ready.", "status.numberReady"),
            integer(
                "Up-to-date",
                "Those whose pod is of the newest template.",
                "status.updatedNumberScheduled",
            ),
            integer(
                "Available",
                "Those whose pod was ready long enough.",
                "status.numberAvailable",
            ),
            computed(
                "Node Selector",
                "Which nodes are meant.",
                "template.nodeSelector",
            ),
            AGE,
            CONTAINERS,
            IMAGES,
            LABEL_SELECTOR,
        ],
        ("apps", "ReplicaSet") | ("", "ReplicationController") => vec![
            NAME,
            integer("Desired", "Pods wanted.", "spec.replicas"),
            integer("Current", "Pods there are.", "status.replicas"),
            integer("Ready", "Pods that are ready.", "status.readyReplicas"),
            AGE,
            CONTAINERS,
            IMAGES,
            if group.is_empty() {
                wide(computed(
                    "Selector",
                    "Which pods are counted.",
                    "selector.map",
                ))
            } else {
                LABEL_SELECTOR
            },
        ],
        ("", "ResourceQuota") => vec![
            NAME,
            computed(
                "Request",
                "What is used of what may be requested.",
                "quota.request",
            ),
            computed(
                "Limit",
                "What is used of what limits may be.",
                "quota.limit",
            ),
            AGE,
        ],
        ("", "LimitRange") | ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => vec![
            NAME,
            column(
                "Created At",
                "date",
                "When it was created.",
                Cell::Path("metadata.creationTimestamp"),
            ),
        ],
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => vec![
            NAME,
            computed("Role", "The role that is granted.", "binding.role"),
            AGE,
            wide(computed(
                "Users",
                "Users it is granted to.",
                "binding.users",
            )),
            wide(computed(
                "Groups",
                "Groups it is granted to.",
                "binding.groups",
            )),
            wide(computed(
                "ServiceAccounts",
                "Service accounts it is granted to.",
                "binding.serviceAccounts",
            )),
        ],
        ("certificates.k8s.io", "CertificateSigningRequest") => vec![
            NAME,
            AGE,
            text("SignerName", "Who should sign.", "spec.signerName"),
            text("Requestor", "Who asked.", "spec.username"),
            computed(
                "RequestedDuration",
                "How long the certificate should last.",
                "csr.duration",
            ),
            computed("Condition", "What became of the request.", "csr.condition"),
        ],
        ("coordination.k8s.io", "Lease") => vec![
            NAME,
            text("Holder", "Who holds the lease.", "spec.holderIdentity"),
            AGE,
        ],
        ("discovery.k8s.io", "EndpointSlice") => vec![
            NAME,
            text("AddressType", "IPv4, IPv6 or FQDN.", "addressType"),
            computed("Ports", "Ports of every endpoint.", "slice.ports"),
            computed("Endpoints", "Addresses.", "slice.endpoints"),
            AGE,
        ],
        ("policy", "PodDisruptionBudget") => vec![
            NAME,
            computed("Min Available", "Pods that must stay.", "pdb.minAvailable"),
            computed(
                "Max Unavailable",
                "Pods that may be missing.",
                "pdb.maxUnavailable",
            ),
            integer(
                "Allowed Disruptions",
                "Pods that may be evicted now.",
                "status.disruptionsAllowed",
            ),
            AGE,
        ],
        ("scheduling.k8s.io", "PriorityClass") => vec![
            NAME,
            integer("Value", "The priority.", "value"),
            column(
                "Global-Default",
                "boolean",
                "Whether pods without a class get it.",
                Cell::Path("globalDefault"),
            ),
            AGE,
            text(
                "PreemptionPolicy",
                "Whether its pods push others out.",
                "preemptionPolicy",
            ),
        ],
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => vec![
            NAME,
            text(
                "PriorityLevel",
                "The level that its requests are handled at.",
                "spec.priorityLevelConfiguration.name",
            ),
            text(
                "MatchingPrecedence",
                "The lowest of those that match a request is chosen.",
                "spec.matchingPrecedence",
            ),
            computed(
                "DistinguisherMethod",
                "How its requests are split into flows.",
                "flow.distinguisher",
            ),
            AGE,
            computed(
                "MissingPL",
                "Whether it references a priority level that is missing or broken.",
                "flow.dangling",
            ),
        ],
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => vec![
            NAME,
            text("Type", "Limited or Exempt.", "spec.type"),
            computed(
                "NominalConcurrencyShares",
                "Its part of the server's seats, against the other levels' shares.",
                "flow.shares",
            ),
            computed("Queues", "How many queues it has.", "flow.queues"),
            computed(
                "HandSize",
                "How many queues one flow may be put in.",
                "flow.handSize",
            ),
            computed(
                "QueueLengthLimit",
                "How many requests may wait in a queue.",
                "flow.queueLength",
            ),
            AGE,
        ],
        ("metrics.k8s.io", _) => vec![
            Column {
                description: "Name of the resource",
                ..NAME
            },
            Column {
                format: "quantity",
                ..computed("cpu", "", "metrics.cpu")
            },
            Column {
                format: "quantity",
                ..computed("memory", "", "metrics.memory")
            },
            Column {
                format: "duration",
                ..text("Window", "", "window")
            },
        ],
        _ => vec![NAME, AGE],
    }
}
