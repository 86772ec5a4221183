//! Bootstrap tokens and tokens kept in Secrets, against a server; with kubeadm where it is on the PATH.

mod common;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use common::{Cluster, wait_for};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use ring::hmac;
use serde_json::json;
use std::process::Command;

const ID: &str = "abcdef";
const SECRET: &str = "0123456789abcdef";

fn token(expiration: Option<&str>) -> Secret {
    let mut data = json!({
        "token-id": ID, "token-secret": SECRET, "usage-bootstrap-signing": "true",
        "usage-bootstrap-authentication": "true",
    });
    if let Some(expiration) = expiration {
        data["expiration"] = expiration.into();
    }
    serde_json::from_value(json!({
        "metadata": {"name": format!("bootstrap-token-{ID}"), "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token", "stringData": data,
    }))
    .unwrap()
}

fn infos(cluster: &Cluster) -> Api<ConfigMap> {
    Api::namespaced(cluster.admin.clone(), "kube-public")
}

async fn signature(cluster: &Cluster) -> Option<(String, String)> {
    let info = infos(cluster).get("cluster-info").await.unwrap();
    let data = info.data.unwrap();
    let signature = data.get(&format!("jws-kubeconfig-{ID}"))?.clone();
    Some((data["kubeconfig"].clone(), signature))
}

#[tokio::test]
async fn cluster_info_is_signed_for_each_token_and_for_no_expired_one() {
    let cluster = Cluster::start().await;
    assert_eq!(signature(&cluster).await, None);
    let secrets: Api<Secret> = Api::namespaced(cluster.admin.clone(), "kube-system");
    secrets
        .create(&PostParams::default(), &token(None))
        .await
        .unwrap();
    let (content, signature_) = wait_for("a signature", || signature(&cluster)).await;
    assert!(
        content.contains("server: https://192.0.2.10:6443"),
        "{content}"
    );
    assert!(
        content.contains("certificate-authority-data: "),
        "{content}"
    );
    let (header, tag) = signature_.split_once("..").unwrap();
    let decoded = URL_SAFE_NO_PAD.decode(header).unwrap();
    assert_eq!(decoded, br#"{"alg":"HS256","kid":"abcdef"}"#);
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(&content));
    let tag = URL_SAFE_NO_PAD.decode(tag).unwrap();
    hmac::verify(&key, signed.as_bytes(), &tag).expect("the signature is of the token");
    secrets
        .delete(&format!("bootstrap-token-{ID}"), &DeleteParams::default())
        .await
        .unwrap();
    wait_for("no signature", || async {
        signature(&cluster).await.is_none().then_some(())
    })
    .await;
    // One that ends in a moment is deleted then.
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(2);
    let soon = soon.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    secrets
        .create(&PostParams::default(), &token(Some(&soon)))
        .await
        .unwrap();
    wait_for("the token to go", || async {
        let found = secrets
            .get_opt(&format!("bootstrap-token-{ID}"))
            .await
            .unwrap();
        found.is_none().then_some(())
    })
    .await;
    wait_for("no signature", || async {
        signature(&cluster).await.is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_secret_for_a_service_account_gets_a_token_that_is_good_while_both_are_there() {
    let cluster = Cluster::start().await;
    let accounts: Api<ServiceAccount> = cluster.api();
    let account: ServiceAccount =
        serde_json::from_value(json!({"metadata": {"name": "sa"}})).unwrap();
    let account = accounts
        .create(&PostParams::default(), &account)
        .await
        .unwrap();
    let secret = |account: &str, name: &str| -> Secret {
        serde_json::from_value(json!({
            "metadata": {"name": name, "annotations": {"kubernetes.io/service-account.name": account}},
            "type": "kubernetes.io/service-account-token",
        }))
        .unwrap()
    };
    let secrets: Api<Secret> = cluster.api();
    secrets
        .create(&PostParams::default(), &secret("sa", "t"))
        .await
        .unwrap();
    let filled = wait_for("a token", || async {
        let found = secrets.get("t").await.unwrap();
        found.data.as_ref()?.get("token")?;
        Some(found)
    })
    .await;
    let data = filled.data.unwrap();
    assert_eq!(data["namespace"].0, b"default");
    assert_eq!(data["ca.crt"].0, cluster.ca.cert_pem().as_bytes());
    let annotations = filled.metadata.annotations.unwrap();
    assert_eq!(
        annotations.get("kubernetes.io/service-account.uid"),
        account.metadata.uid.as_ref()
    );
    let token = String::from_utf8(data["token"].0.clone()).unwrap();
    let status = review(&cluster, &token).await;
    assert_eq!(status["authenticated"], true, "{status}");
    assert_eq!(
        status["user"]["username"],
        "system:serviceaccount:default:sa"
    );
    // Whose account isn't there goes at once.
    secrets
        .create(&PostParams::default(), &secret("nobody", "u"))
        .await
        .unwrap();
    wait_for("the Secret of nobody to go", || async {
        secrets.get_opt("u").await.unwrap().is_none().then_some(())
    })
    .await;
    accounts
        .delete("sa", &DeleteParams::default())
        .await
        .unwrap();
    wait_for("the Secret to go", || async {
        secrets.get_opt("t").await.unwrap().is_none().then_some(())
    })
    .await;
    let status = review(&cluster, &token).await;
    assert_eq!(
        status["error"],
        "[invalid bearer token, Token has been invalidated]"
    );
}

async fn review(cluster: &Cluster, token: &str) -> serde_json::Value {
    let review: k8s_openapi::api::authentication::v1::TokenReview =
        serde_json::from_value(json!({"spec": {"token": token}})).unwrap();
    let api: Api<k8s_openapi::api::authentication::v1::TokenReview> =
        Api::all(cluster.admin.clone());
    let answer = api.create(&PostParams::default(), &review).await.unwrap();
    serde_json::to_value(answer.status).unwrap()
}

#[tokio::test]
async fn kubeadm_makes_lists_and_deletes_tokens() {
    if Command::new("kubeadm").arg("version").output().is_err() {
        eprintln!("SKIP: kubeadm is not on the PATH");
        return;
    }
    let cluster = Cluster::start().await;
    let kubectl = cluster.kubectl().await;
    let run = async |arguments: &str| -> String {
        let output = tokio::process::Command::new("kubeadm")
            .args(arguments.split_whitespace())
            .arg("--kubeconfig")
            .arg(kubectl.config())
            .output()
            .await
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "kubeadm {arguments}: {text}{error}"
        );
        text
    };
    let made = run("token create --ttl 1h --description mine").await;
    let made = made.trim().to_owned();
    let (id, _) = made.split_once('.').unwrap();
    let listed = run("token list").await;
    assert!(
        listed.contains(&made) && listed.contains("authentication,signing"),
        "{listed}"
    );
    wait_for("its signature", || async {
        let info = infos(&cluster).get("cluster-info").await.unwrap();
        info.data?.get(&format!("jws-kubeconfig-{id}")).cloned()
    })
    .await;
    run(&format!("token delete {id}")).await;
    assert!(!run("token list").await.contains(id));
}
