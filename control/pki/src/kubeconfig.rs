//! Kubeconfigs, written as upstream's `kubeadm` writes them (YAML's JSON subset, which every client reads).

use std::{io, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::files::{Identity, write_private};

/// How the user of a kubeconfig proves who it is.
#[derive(Clone, Debug)]
pub enum Login {
    Certificate(Identity),
    Token(String),
}

/// One cluster, one user, one context.
#[derive(Clone, Debug)]
pub struct KubeConfig {
    pub cluster: String,
    /// `https://address:port`.
    pub server: String,
    pub ca_pem: String,
    pub user: String,
    pub login: Login,
}

impl KubeConfig {
    pub fn to_yaml(&self) -> String {
        let user = match &self.login {
            Login::Certificate(identity) => json!({
                "client-certificate-data": STANDARD.encode(&identity.cert_pem),
                "client-key-data": STANDARD.encode(&identity.key_pem),
            }),
            Login::Token(token) => json!({ "token": token }),
        };
        let context = format!("{}@{}", self.user, self.cluster);
        let field = |value: &serde_json::Value| value.to_string();
        let mut text = String::from("apiVersion: v1\nkind: Config\npreferences: {}\n");
        text += &format!("current-context: {}\n", field(&json!(context)));
        text += &format!(
            "clusters:\n- name: {}\n  cluster:\n    server: {}\n    certificate-authority-data: {}\n",
            field(&json!(self.cluster)),
            field(&json!(self.server)),
            STANDARD.encode(&self.ca_pem)
        );
        text += &format!(
            "contexts:\n- name: {}\n  context:\n    cluster: {}\n    user: {}\n",
            field(&json!(context)),
            field(&json!(self.cluster)),
            field(&json!(self.user))
        );
        text += &format!("users:\n- name: {}\n  user:\n", field(&json!(self.user)));
        if let Some(map) = user.as_object() {
            for (key, value) in map {
                text += &format!("    {key}: {}\n", field(value));
            }
        }
        text
    }

    /// Writes it at `path`, mode 0600.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        write_private(path, self.to_yaml().as_bytes())
    }
}
