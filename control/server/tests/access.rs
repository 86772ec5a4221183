//! Who may do what: identities, RBAC, nodes, escalation, tokens, impersonation.

mod common;

use common::{Api, TestServer};
use http::Method;
use kernelet_server::UserInfo;
use serde_json::{Value, json};

const NS: &str = "/api/v1/namespaces/default";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

fn user(name: &str) -> UserInfo {
    UserInfo::new(name, [] as [&str; 0])
}

async fn account(api: &Api, name: &str) -> Value {
    api.post(
        &format!("{NS}/serviceaccounts"),
        &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}),
    )
    .await
    .ok()
}

async fn bind(api: &Api, name: &str, role: &str, subject: Value) {
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}, "subjects": [subject],
    });
    api.post(&format!("{RBAC}/namespaces/default/rolebindings"), &binding)
        .await
        .ok();
}

fn named(name: &str) -> Value {
    json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name})
}

fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "x"}], "volumes": [
            {"name": "s", "secret": {"secretName": "mine"}}, {"name": "c", "configMap": {"name": "mine"}},
        ]},
    })
}

#[tokio::test]
async fn refusals_are_worded_as_upstream_words_them() {
    let server = TestServer::start().await;
    let bob = server.api(user("bob"));
    for (path, expect) in [
        (
            "/api/v1/namespaces/default/pods",
            "403 Forbidden: pods is forbidden: User \"bob\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"",
        ),
        (
            "/api/v1/pods",
            "403 Forbidden: pods is forbidden: User \"bob\" cannot list resource \"pods\" in API group \"\" at the cluster scope",
        ),
        (
            "/api/v1/namespaces/default/pods/x/log",
            "403 Forbidden: pods \"x\" is forbidden: User \"bob\" cannot get resource \"pods/log\" in API group \"\" in the namespace \"default\"",
        ),
        // A session needs more than reading, although a WebSocket begins with a GET.
        (
            "/api/v1/namespaces/default/pods/x/exec?command=id",
            "403 Forbidden: pods \"x\" is forbidden: User \"bob\" cannot create resource \"pods/exec\" in API group \"\" in the namespace \"default\"",
        ),
        (
            "/apis/apps/v1/namespaces/default/deployments/d",
            "403 Forbidden: deployments.apps \"d\" is forbidden: User \"bob\" cannot get resource \"deployments\" in API group \"apps\" in the namespace \"default\"",
        ),
        (
            "/metrics",
            "403 Forbidden: forbidden: User \"bob\" cannot get path \"/metrics\"",
        ),
    ] {
        assert_eq!(bob.get(path).await.error(), expect);
    }
    // What everybody may: discovery, health, asking about oneself.
    for path in [
        "/api",
        "/apis",
        "/version",
        "/healthz",
        "/openapi/v3",
        "/apis/apps/v1",
    ] {
        assert_eq!(bob.get(path).await.status, 200, "{path}");
    }
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "list", "resource": "pods"}}});
    let answer = bob
        .post(
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            &review,
        )
        .await
        .ok();
    assert_eq!(answer["status"]["allowed"], false);
    server.stop().await;
}

#[tokio::test]
async fn bindings_grant_and_their_removal_takes_away() {
    let server = TestServer::start().await;
    let (admin, bob) = (server.admin(), server.api(user("bob")));
    bind(&admin, "b", "view", named("bob")).await;
    assert_eq!(bob.get(&format!("{NS}/pods")).await.status, 200);
    assert_eq!(bob.get(&format!("{NS}/secrets")).await.status, 403);
    assert_eq!(
        bob.get("/api/v1/namespaces/kube-system/pods").await.status,
        403
    );
    assert_eq!(bob.get("/api/v1/pods").await.status, 403);
    admin
        .delete(&format!("{RBAC}/namespaces/default/rolebindings/b"))
        .await
        .ok();
    assert_eq!(bob.get(&format!("{NS}/pods")).await.status, 403);
    // A binding whose role doesn't exist says so.
    bind(&admin, "c", "none", named("bob")).await;
    assert!(
        bob.get(&format!("{NS}/pods"))
            .await
            .error()
            .ends_with(": RBAC: clusterrole.rbac.authorization.k8s.io \"none\" not found")
    );
    server.stop().await;
}

#[tokio::test]
async fn aggregated_roles_take_in_what_is_labelled_for_them() {
    let server = TestServer::start().await;
    let admin = server.admin();
    for (role, verb, resource) in [
        ("view", "list", "pods"),
        ("edit", "create", "deployments"),
        ("admin", "create", "rolebindings"),
    ] {
        let rules =
            admin.get(&format!("{RBAC}/clusterroles/{role}")).await.ok()["rules"].to_string();
        assert!(
            rules.contains(verb) && rules.contains(resource),
            "{role}: {rules}"
        );
    }
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "more", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
        "rules": [{"apiGroups": ["example.com"], "resources": ["things"], "verbs": ["get"]}]});
    admin
        .post(&format!("{RBAC}/clusterroles"), &role)
        .await
        .ok();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
    loop {
        let rules =
            admin.get(&format!("{RBAC}/clusterroles/admin")).await.ok()["rules"].to_string();
        if rules.contains("things") {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{rules}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn nobody_grants_what_he_does_not_hold() {
    let server = TestServer::start().await;
    let (admin, bob) = (server.admin(), server.api(user("bob")));
    bind(&admin, "b", "admin", named("bob")).await;
    let role = |resource: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": format!("r-{resource}")},
            "rules": [{"apiGroups": [""], "resources": [resource], "verbs": ["get", "delete"]}]})
    };
    let path = format!("{RBAC}/namespaces/default/roles");
    assert_eq!(bob.post(&path, &role("pods")).await.status, 201);
    let refused = bob.post(&path, &role("nodes")).await.error();
    assert_eq!(
        refused,
        "403 Forbidden: roles.rbac.authorization.k8s.io \"r-nodes\" is forbidden: user \"bob\" (groups=[\"system:authenticated\"]) \
         is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\" \"delete\"]}"
    );
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "up"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}, "subjects": [named("bob")],
    });
    assert_eq!(
        bob.post(&format!("{RBAC}/namespaces/default/rolebindings"), &binding)
            .await
            .status,
        403
    );
    server.stop().await;
}

#[tokio::test]
async fn a_node_reaches_what_its_pods_need_and_no_more() {
    let server = TestServer::start().await;
    let admin = server.admin();
    account(&admin, "default").await;
    for name in ["mine", "other"] {
        admin
            .post(
                &format!("{NS}/secrets"),
                &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}}),
            )
            .await
            .ok();
        admin
            .post(
                &format!("{NS}/configmaps"),
                &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}),
            )
            .await
            .ok();
    }
    let node = server.api(UserInfo::node("n1"));
    let object =
        |name: &str| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    node.post("/api/v1/nodes", &object("n1")).await.ok();
    assert!(
        node.post("/api/v1/nodes", &object("n2"))
            .await
            .error()
            .contains("node \"n1\" is not allowed to modify node \"n2\"")
    );
    assert_eq!(node.get(&format!("{NS}/secrets/mine")).await.status, 403);
    let made = admin
        .post(&format!("{NS}/pods"), &pod("p", "n1"))
        .await
        .ok();
    admin
        .post(&format!("{NS}/pods"), &pod("q", "n2"))
        .await
        .ok();
    assert_eq!(node.get(&format!("{NS}/secrets/mine")).await.status, 200);
    assert_eq!(node.get(&format!("{NS}/configmaps/mine")).await.status, 200);
    let refused = node.get(&format!("{NS}/secrets/other")).await.error();
    assert!(
        refused.ends_with(": no relationship found between node 'n1' and this object"),
        "{refused}"
    );
    assert_eq!(node.get(&format!("{NS}/secrets")).await.status, 403);
    assert_eq!(node.get("/api/v1/pods").await.status, 403);
    let own = node
        .get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1")
        .await
        .ok();
    assert_eq!(own["items"].as_array().unwrap().len(), 1);
    assert_eq!(node.get("/api/v1/nodes/n1").await.status, 200);
    assert_eq!(node.get("/api/v1/nodes").await.status, 403);
    let status = json!({"status": {"phase": "Running"}});
    assert_eq!(
        node.patch(&format!("{NS}/pods/p/status"), "merge", &status)
            .await
            .status,
        200
    );
    assert_eq!(
        node.patch(&format!("{NS}/pods/q/status"), "merge", &status)
            .await
            .status,
        403
    );
    assert_eq!(
        node.patch(
            "/api/v1/nodes/n1",
            "merge",
            &json!({"metadata": {"labels": {"node-role.kubernetes.io/x": ""}}})
        )
        .await
        .status,
        403
    );
    assert_eq!(
        node.patch(
            "/api/v1/nodes/n1",
            "merge",
            &json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}})
        )
        .await
        .status,
        403
    );
    assert_eq!(
        node.patch(
            "/api/v1/nodes/n1",
            "merge",
            &json!({"metadata": {"labels": {"kubernetes.io/hostname": "n1"}}})
        )
        .await
        .status,
        200
    );
    // Leases: its own.
    let lease = |name: &str| json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": {"holderIdentity": name}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    assert_eq!(node.post(leases, &lease("n1")).await.status, 201);
    assert_eq!(node.post(leases, &lease("n2")).await.status, 403);
    // Tokens: for its own pods.
    let token = |name: &str, uid: &Value| {
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid}}})
    };
    let path = format!("{NS}/serviceaccounts/default/token");
    let issued = node
        .post(&path, &token("p", &made["metadata"]["uid"]))
        .await
        .ok();
    assert!(issued["status"]["token"].is_string());
    assert_eq!(
        node.post(
            &path,
            &json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}})
        )
        .await
        .status,
        403
    );
    let other = admin.get(&format!("{NS}/pods/q")).await.ok();
    assert_eq!(
        node.post(&path, &token("q", &other["metadata"]["uid"]))
            .await
            .status,
        403
    );
    assert_eq!(node.delete(&format!("{NS}/pods/q")).await.status, 403);
    server.stop().await;
}

#[tokio::test]
async fn a_token_is_bound_to_its_account_pod_and_audience() {
    let server = TestServer::start().await;
    let admin = server.admin();
    account(&admin, "default").await;
    account(&admin, "robot").await;
    let mut object = pod("p", "");
    object["spec"].as_object_mut().unwrap().remove("nodeName");
    object["spec"]["serviceAccountName"] = "robot".into();
    let made = admin.post(&format!("{NS}/pods"), &object).await.ok();
    let request = |spec: Value| json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let path = format!("{NS}/serviceaccounts/robot/token");
    let bound = json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": made["metadata"]["uid"]}});
    let token = admin.post(&path, &request(bound.clone())).await.ok();
    let token = token["status"]["token"].as_str().unwrap().to_owned();
    let review = |token: String, audiences: Value| {
        let admin = admin.clone();
        async move {
            let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token, "audiences": audiences}});
            admin
                .post("/apis/authentication.k8s.io/v1/tokenreviews", &body)
                .await
                .ok()["status"]
                .clone()
        }
    };
    let status = review(token.clone(), json!([])).await;
    assert_eq!(
        (&status["authenticated"], &status["user"]["username"]),
        (&json!(true), &json!("system:serviceaccount:default:robot"))
    );
    assert_eq!(
        status["user"]["extra"]["authentication.kubernetes.io/pod-name"],
        json!(["p"])
    );
    assert_eq!(
        review(token.clone(), json!(["vault"]))
            .await
            .get("authenticated"),
        None
    );
    let vault = admin
        .post(&path, &request(json!({"audiences": ["vault"]})))
        .await
        .ok();
    let vault = vault["status"]["token"].as_str().unwrap().to_owned();
    assert_eq!(
        review(vault.clone(), json!(["vault"])).await["authenticated"],
        true
    );
    assert_eq!(review(vault, json!([])).await.get("authenticated"), None);
    // The pod gone, its token is nothing.
    admin.delete(&format!("{NS}/pods/p")).await.ok();
    assert_eq!(review(token, json!([])).await.get("authenticated"), None);
    assert_eq!(
        admin
            .post(&path, &request(json!({"expirationSeconds": 10})))
            .await
            .status,
        422
    );
    assert_eq!(admin.post(&path, &request(bound)).await.status, 404);
    assert_eq!(
        admin
            .post(
                &format!("{NS}/serviceaccounts/none/token"),
                &request(json!({}))
            )
            .await
            .status,
        404
    );
    server.stop().await;
}

#[tokio::test]
async fn impersonation_needs_the_verb() {
    let server = TestServer::start().await;
    let (admin, bob) = (server.admin(), server.api(user("bob")));
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let headers = [
        ("content-type", "application/json"),
        ("impersonate-user", "eve"),
        ("impersonate-group", "dev"),
        ("impersonate-extra-scopes", "a"),
    ];
    let eve = admin
        .raw(Method::POST, path, &headers, review.clone())
        .await
        .ok();
    assert_eq!(
        eve["status"]["userInfo"],
        json!({"username": "eve", "groups": ["dev", "system:authenticated"], "extra": {"scopes": ["a"]}})
    );
    assert_eq!(
        bob.raw(Method::POST, path, &headers, review).await.error(),
        "403 Forbidden: users \"eve\" is forbidden: User \"bob\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_certificate_request_carries_its_author_and_is_approved_by_whoever_may() {
    let server = TestServer::start().await;
    let (admin, node) = (server.admin(), server.api(UserInfo::node("n1")));
    let (csr, _key) = kernelet_pki_csr("system:node:n1", "system:nodes");
    use base64::{Engine, engine::general_purpose::STANDARD};
    let request = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "c"},
        "spec": {"request": STANDARD.encode(csr), "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            "usages": ["digital signature", "client auth"], "username": "forged"}});
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let made = node.post(path, &request).await.ok();
    assert_eq!(
        (&made["spec"]["username"], &made["spec"]["groups"][0]),
        (&json!("system:node:n1"), &json!("system:nodes"))
    );
    let approve = json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "r", "message": "m"}]}});
    assert_eq!(
        node.patch(&format!("{path}/c/approval"), "merge", &approve)
            .await
            .status,
        403
    );
    let approved = admin
        .patch(&format!("{path}/c/approval"), "merge", &approve)
        .await
        .ok();
    assert_eq!(approved["status"]["conditions"][0]["type"], "Approved");
    let controllers = server.api(UserInfo::controllers());
    let certificate = STANDARD.encode(server.ca.cert_pem());
    let signed = controllers
        .patch(
            &format!("{path}/c/status"),
            "merge",
            &json!({"status": {"certificate": certificate}}),
        )
        .await
        .ok();
    assert_eq!(signed["status"]["conditions"][0]["type"], "Approved");
    server.stop().await;
}

#[tokio::test]
async fn tokens_that_join_and_nodes_may_have_their_client_certificates_without_asking() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let allowed = async |groups: &[&str], subresource: &str| {
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": "u", "groups": groups, "resourceAttributes": {"group": "certificates.k8s.io",
                "resource": "certificatesigningrequests", "subresource": subresource, "verb": "create"}}});
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        admin.post(path, &review).await.ok()["status"]["allowed"] == true
    };
    for (group, subresource, expect) in [
        ("system:bootstrappers", "", true),
        ("system:bootstrappers", "nodeclient", true),
        ("system:bootstrappers", "selfnodeclient", false),
        ("system:nodes", "selfnodeclient", true),
        ("system:nodes", "nodeclient", false),
        ("system:authenticated", "nodeclient", false),
        ("system:authenticated", "selfnodeclient", false),
    ] {
        assert_eq!(
            allowed(&[group], subresource).await,
            expect,
            "{group} {subresource}"
        );
    }
    server.stop().await;
}

/// A certificate request for that subject, PEM.
fn kernelet_pki_csr(common_name: &str, organization: &str) -> (String, rcgen::KeyPair) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    let mut name = rcgen::DistinguishedName::new();
    name.push(rcgen::DnType::OrganizationName, organization);
    name.push(rcgen::DnType::CommonName, common_name);
    params.distinguished_name = name;
    (params.serialize_request(&key).unwrap().pem().unwrap(), key)
}

#[tokio::test]
async fn the_components_may_do_their_work() {
    let server = TestServer::start().await;
    let (admin, scheduler, controllers) = (
        server.admin(),
        server.api(UserInfo::scheduler()),
        server.api(UserInfo::controllers()),
    );
    account(&admin, "default").await;
    let mut object = pod("p", "");
    object["spec"].as_object_mut().unwrap().remove("nodeName");
    admin.post(&format!("{NS}/pods"), &object).await.ok();
    assert_eq!(scheduler.get("/api/v1/pods").await.status, 200);
    assert_eq!(scheduler.get("/api/v1/secrets").await.status, 403);
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"apiVersion": "v1", "kind": "Node", "name": "n1"}});
    let bound = scheduler
        .post(&format!("{NS}/pods/p/binding"), &binding)
        .await;
    assert_eq!(bound.status, 201);
    let pod = admin.get(&format!("{NS}/pods/p")).await.ok();
    assert_eq!(pod["spec"]["nodeName"], "n1");
    assert_eq!(pod["status"]["conditions"][0]["type"], "PodScheduled");
    assert!(
        scheduler
            .post(&format!("{NS}/pods/p/binding"), &binding)
            .await
            .error()
            .contains("pod p is already assigned to node \"n1\"")
    );
    for path in [
        "/apis/apps/v1/deployments",
        "/api/v1/secrets",
        "/apis/policy/v1/poddisruptionbudgets",
        "/api/v1/nodes",
    ] {
        assert_eq!(controllers.get(path).await.status, 200, "{path}");
    }
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "x"}, "rules": []});
    assert_eq!(
        controllers
            .post(&format!("{RBAC}/clusterroles"), &role)
            .await
            .status,
        403
    );
    server.stop().await;
}
