//! `kube-public/cluster-info`: where the API is and who vouches for it, for machines that are about to join.
//!
//! The controllers sign it for each bootstrap token; whoever has such a token can trust what it reads here.

use std::{net::SocketAddr, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use kernelet_api::{Value, codec};
use serde_json::json;

use super::{Failed, ensure};
use crate::{state::State, user::UserInfo};

pub async fn publish(state: &Arc<State>, user: &UserInfo) -> Result<(), Failed> {
    let config = &state.config;
    let server = format!("https://{}", SocketAddr::new(config.advertise, config.port));
    // As kubeadm writes it: a cluster without a name, and no user.
    let kubeconfig = json!({
        "apiVersion": "v1",
        "clusters": [{
            "cluster": {
                "certificate-authority-data": STANDARD.encode(&config.cluster_ca_pem),
                "server": server,
            },
            "name": "",
        }],
        "contexts": null,
        "current-context": "",
        "kind": "Config",
        "users": null,
    });
    let text = String::from_utf8_lossy(&codec::encode_yaml(&kubeconfig)).into_owned();
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "cluster-info", "namespace": "kube-public"},
        "data": {"kubeconfig": text},
    });
    ensure(
        state,
        user,
        "",
        "configmaps",
        object,
        &move |old: &Value| {
            let mut new = old.clone();
            new["data"]["kubeconfig"] = text.as_str().into();
            Some(new)
        },
    )
    .await
}
