//! Who is asking: the identity that authentication establishes and authorisation and admission judge.

use std::collections::BTreeMap;

/// An authenticated identity, in Kubernetes' own terms (`authentication.k8s.io/v1` UserInfo).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Members may do everything; RBAC isn't asked.
pub const SYSTEM_MASTERS: &str = "system:masters";
/// Every identity that authentication has accepted is in this group.
pub const SYSTEM_AUTHENTICATED: &str = "system:authenticated";
/// The group of requests without an identity, where those are let in.
pub const SYSTEM_UNAUTHENTICATED: &str = "system:unauthenticated";
/// The user name of requests without an identity.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group of every node's identity.
pub const SYSTEM_NODES: &str = "system:nodes";
/// What a node's user name starts with; the node's name follows.
pub const NODE_USER_PREFIX: &str = "system:node:";
/// What a ServiceAccount's user name starts with; `namespace:name` follows.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

impl UserInfo {
    /// An identity of that name in those groups; `system:authenticated` is added.
    pub fn new(
        name: impl Into<String>,
        groups: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        let mut user = UserInfo {
            name: name.into(),
            groups: groups.into_iter().map(Into::into).collect(),
            ..UserInfo::default()
        };
        user.authenticated();
        user
    }

    /// `kubernetes-admin` in `system:masters`.
    pub fn admin() -> Self {
        UserInfo::new("kubernetes-admin", [SYSTEM_MASTERS])
    }

    pub fn scheduler() -> Self {
        UserInfo::new("system:kube-scheduler", [] as [&str; 0])
    }

    pub fn controllers() -> Self {
        UserInfo::new("system:kube-controller-manager", [] as [&str; 0])
    }

    /// The identity of the node of that name.
    pub fn node(name: &str) -> Self {
        UserInfo::new(format!("{NODE_USER_PREFIX}{name}"), [SYSTEM_NODES])
    }

    /// The server's own identity, for what it does to itself.
    pub(crate) fn apiserver() -> Self {
        UserInfo::new("system:apiserver", [SYSTEM_MASTERS])
    }

    /// The identity of a ServiceAccount.
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        let mut user = UserInfo::new(
            format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"),
            [
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
            ],
        );
        user.uid = uid.to_owned();
        user
    }

    /// Adds the group that says that authentication succeeded.
    pub(crate) fn authenticated(&mut self) {
        if !self.in_group(SYSTEM_AUTHENTICATED) {
            self.groups.push(SYSTEM_AUTHENTICATED.to_owned());
        }
    }

    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The node's name if this is a node's identity (`system:node:<name>` in `system:nodes`).
    pub fn node_name(&self) -> Option<&str> {
        self.name
            .strip_prefix(NODE_USER_PREFIX)
            .filter(|name| !name.is_empty() && self.in_group(SYSTEM_NODES))
    }

    /// What the component of this identity is called, if it is one of a cluster's own.
    pub(crate) fn component(&self) -> Option<&str> {
        match self.name.strip_prefix("system:")? {
            name @ ("kube-scheduler" | "kube-controller-manager") => Some(name),
            "apiserver" => Some("kube-apiserver"),
            _ => self.node_name().map(|_| "kubelet"),
        }
    }

    /// `(namespace, name)` if this is a ServiceAccount's user name.
    pub fn as_service_account(&self) -> Option<(&str, &str)> {
        self.name
            .strip_prefix(SERVICE_ACCOUNT_PREFIX)?
            .split_once(':')
    }
}
