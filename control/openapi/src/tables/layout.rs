//! The columns of every built-in kind.

use jiff::Timestamp;
use kernelet_api::Value;

use super::{Column, core, pod, workloads};

/// A kind's columns and how its cells are computed.
pub(super) struct Layout {
    pub columns: &'static [Column],
    pub cells: fn(&Value, Timestamp) -> Vec<Value>,
    /// The row's conditions, which tell kubectl what is done with.
    pub conditions: Option<fn(&Value) -> Option<Value>>,
}

pub(super) fn layout(group: &str, kind: &str) -> Option<&'static Layout> {
    Some(match (group, kind) {
        ("", "Pod") => &POD,
        ("", "Service") => &SERVICE,
        ("", "Endpoints") => &ENDPOINTS,
        ("", "Node") => &NODE,
        ("", "Namespace") => &NAMESPACE,
        ("", "Secret") => &SECRET,
        ("", "ConfigMap") => &CONFIG_MAP,
        ("", "ServiceAccount") => &SERVICE_ACCOUNT,
        ("" | "events.k8s.io", "Event") => &EVENT,
        ("apps", "Deployment") => &DEPLOYMENT,
        ("apps", "ReplicaSet") => &REPLICA_SET,
        ("discovery.k8s.io", "EndpointSlice") => &ENDPOINT_SLICE,
        ("coordination.k8s.io", "Lease") => &LEASE,
        ("certificates.k8s.io", "CertificateSigningRequest") => &CSR,
        ("policy", "PodDisruptionBudget") => &PDB,
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => &CREATED_AT,
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => &BINDING,
        _ => return None,
    })
}

const fn column(name: &'static str, ty: &'static str, description: &'static str) -> Column {
    Column {
        name,
        ty,
        format: "",
        description,
        priority: 0,
    }
}

const fn wide(name: &'static str, description: &'static str) -> Column {
    Column {
        name,
        ty: "string",
        format: "",
        description,
        priority: 1,
    }
}

const NAME: Column = Column {
    name: "Name",
    ty: "string",
    format: "name",
    description: "The object's name, unique in its namespace.",
    priority: 0,
};
const AGE: Column = column("Age", "string", "The time since the object was created.");
const CONTAINERS: Column = wide("Containers", "Names of each container in the template.");
const IMAGES: Column = wide(
    "Images",
    "Images referenced by each container in the template.",
);
const SELECTOR: Column = wide("Selector", "The labels of the pods that are meant.");

pub(super) const NAME_AND_AGE: &[Column] = &[NAME, AGE];

const fn plain(columns: &'static [Column], cells: fn(&Value, Timestamp) -> Vec<Value>) -> Layout {
    Layout {
        columns,
        cells,
        conditions: None,
    }
}

static POD: Layout = Layout {
    columns: &[
        NAME,
        column(
            "Ready",
            "string",
            "The aggregate readiness state of this pod for accepting traffic.",
        ),
        column(
            "Status",
            "string",
            "The aggregate status of the containers in this pod.",
        ),
        column(
            "Restarts",
            "string",
            "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
        ),
        AGE,
        wide("IP", "The pod's first address."),
        wide("Node", "The node that the pod is bound to."),
        wide(
            "Nominated Node",
            "The node that is being made free for the pod.",
        ),
        wide(
            "Readiness Gates",
            "How many of the pod's extra conditions hold.",
        ),
    ],
    cells: pod::cells,
    conditions: Some(pod::conditions),
};

static SERVICE: Layout = plain(
    &[
        NAME,
        column("Type", "string", "How the service is exposed."),
        column(
            "Cluster-IP",
            "string",
            "The service's first virtual address.",
        ),
        column(
            "External-IP",
            "string",
            "Addresses outside the cluster that lead to the service.",
        ),
        column("Port(s)", "string", "The service's ports."),
        AGE,
        SELECTOR,
    ],
    core::service,
);

static ENDPOINTS: Layout = plain(
    &[
        NAME,
        column(
            "Endpoints",
            "string",
            "The ready addresses with their ports.",
        ),
        AGE,
    ],
    core::endpoints,
);

static ENDPOINT_SLICE: Layout = plain(
    &[
        NAME,
        column("AddressType", "string", "What the addresses are."),
        column("Ports", "string", "The ports of every endpoint."),
        column("Endpoints", "string", "The addresses."),
        AGE,
    ],
    core::endpoint_slice,
);

static NODE: Layout = plain(
    &[
        NAME,
        column("Status", "string", "The status of the node"),
        column("Roles", "string", "The roles of the node"),
        AGE,
        column(
            "Version",
            "string",
            "The version of the kubelet API that the node reports.",
        ),
        wide("Internal-IP", "The node's address inside the cluster."),
        wide("External-IP", "The node's address outside the cluster."),
        wide("OS-Image", "The node's operating system."),
        wide("Kernel-Version", "The node's kernel."),
        wide(
            "Container-Runtime",
            "The node's container runtime and its version.",
        ),
    ],
    core::node,
);

static NAMESPACE: Layout = plain(
    &[
        NAME,
        column("Status", "string", "The status of the namespace"),
        AGE,
    ],
    core::namespace,
);

static SECRET: Layout = plain(
    &[
        NAME,
        column("Type", "string", "What the secret is for."),
        column("Data", "string", "How many keys there are."),
        AGE,
    ],
    core::secret,
);

static CONFIG_MAP: Layout = plain(
    &[
        NAME,
        column("Data", "string", "How many keys there are."),
        AGE,
    ],
    core::config_map,
);

static SERVICE_ACCOUNT: Layout = plain(NAME_AND_AGE, |object, now| {
    vec![super::cells::name(object), super::cells::age(object, now)]
});

static EVENT: Layout = plain(
    &[
        column("Last Seen", "string", "When it last happened."),
        column("Type", "string", "Normal or Warning."),
        column("Reason", "string", "Why the event was made, in a word."),
        column("Object", "string", "The object that the event is about."),
        wide(
            "Subobject",
            "The part of the object that the event is about.",
        ),
        wide("Source", "Who reported the event."),
        column("Message", "string", "What happened."),
        wide("First Seen", "When it first happened."),
        wide("Count", "How often it happened."),
        Column {
            priority: 1,
            ..NAME
        },
    ],
    core::event,
);

static LEASE: Layout = plain(
    &[
        NAME,
        column("Holder", "string", "Who holds the lease."),
        AGE,
    ],
    core::lease,
);

static CSR: Layout = plain(
    &[
        NAME,
        AGE,
        column("SignerName", "string", "Who is asked to sign."),
        column("Requestor", "string", "Who asks."),
        column(
            "RequestedDuration",
            "string",
            "How long the certificate shall be valid.",
        ),
        column("Condition", "string", "What became of the request."),
    ],
    core::certificate_signing_request,
);

static DEPLOYMENT: Layout = plain(
    &[
        NAME,
        column("Ready", "string", "Number of the pod with ready state"),
        column("Up-to-date", "string", "Pods of the current template."),
        column(
            "Available",
            "string",
            "Pods that have been ready for long enough.",
        ),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    workloads::deployment,
);

static REPLICA_SET: Layout = plain(
    &[
        NAME,
        column("Desired", "integer", "How many pods there shall be."),
        column("Current", "integer", "How many pods there are."),
        column("Ready", "integer", "How many pods are ready."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    workloads::replica_set,
);

static PDB: Layout = plain(
    &[
        NAME,
        column(
            "Min Available",
            "string",
            "The minimum number of pods that must be available.",
        ),
        column(
            "Max Unavailable",
            "string",
            "The maximum number of pods that may be unavailable.",
        ),
        column(
            "Allowed Disruptions",
            "integer",
            "Calculated number of pods that may be disrupted at this time.",
        ),
        AGE,
    ],
    workloads::disruption_budget,
);

static CREATED_AT: Layout = plain(
    &[
        NAME,
        column("Created At", "date", "When the object was created."),
    ],
    core::created_at,
);

static BINDING: Layout = plain(
    &[
        NAME,
        column("Role", "string", "The role that is given."),
        AGE,
        wide("Users", "Users to whom it is given."),
        wide("Groups", "Groups to which it is given."),
        wide("ServiceAccounts", "ServiceAccounts to which it is given."),
    ],
    core::role_binding,
);
