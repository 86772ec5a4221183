//! Impersonation, and the reviews that ask what somebody may do.

use http::Method;
use kernelet_server::UserInfo;
use serde_json::{Value, json};

use crate::common::{Answer, Api, TestServer};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const SELF: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

fn user(name: &str) -> UserInfo {
    UserInfo::new(name, [] as [&str; 0])
}

/// A ClusterRole with these rules, and `bob` bound to it.
async fn allow(api: &Api, rules: Value) {
    let metadata = json!({"name": "r"});
    let kind = |kind: &str| json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata});
    let mut role = kind("ClusterRole");
    role["rules"] = rules;
    api.post(&format!("{RBAC}/clusterroles"), &role).await.ok();
    let mut binding = kind("ClusterRoleBinding");
    binding["roleRef"] =
        json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "r"});
    binding["subjects"] =
        json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}]);
    api.post(&format!("{RBAC}/clusterrolebindings"), &binding)
        .await
        .ok();
}

async fn as_whom(api: &Api, headers: &[(&str, &str)]) -> Answer {
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let mut all = vec![("content-type", "application/json")];
    all.extend_from_slice(headers);
    api.raw(Method::POST, SELF, &all, body.to_string()).await
}

#[tokio::test]
async fn each_part_of_an_impersonated_identity_needs_the_verb() {
    let server = TestServer::start().await;
    let admin = server.admin();
    allow(
        &admin,
        json!([
            {"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"], "resourceNames": ["eve", "system:anonymous"]},
            {"apiGroups": [""], "resources": ["groups"], "verbs": ["impersonate"], "resourceNames": ["dev"]},
            {"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["impersonate"], "resourceNames": ["sa"]},
            {"apiGroups": ["authentication.k8s.io"], "resources": ["uids"], "verbs": ["impersonate"], "resourceNames": ["7"]},
            {"apiGroups": ["authentication.k8s.io"], "resources": ["userextras/scopes"], "verbs": ["impersonate"], "resourceNames": ["read"]},
        ]),
    )
    .await;
    let bob = server.api(user("bob"));
    let whole = [
        ("impersonate-user", "eve"),
        ("impersonate-group", "dev"),
        ("impersonate-uid", "7"),
        ("impersonate-extra-scopes", "read"),
    ];
    let answer = as_whom(&bob, &whole).await.ok();
    assert_eq!(
        answer["status"]["userInfo"],
        json!({"username": "eve", "uid": "7", "groups": ["dev", "system:authenticated"], "extra": {"scopes": ["read"]}})
    );
    let account = [("impersonate-user", "system:serviceaccount:ns:sa")];
    let answer = as_whom(&bob, &account).await.ok();
    assert_eq!(
        answer["status"]["userInfo"]["groups"],
        json!([
            "system:serviceaccounts",
            "system:serviceaccounts:ns",
            "system:authenticated"
        ])
    );
    for (headers, expect) in [
        (
            vec![("impersonate-user", "mallory")],
            "403 Forbidden: users \"mallory\" is forbidden: User \"bob\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope",
        ),
        (
            vec![("impersonate-user", "eve"), ("impersonate-group", "ops")],
            "403 Forbidden: groups \"ops\" is forbidden: User \"bob\" cannot impersonate resource \"groups\" in API group \"\" at the cluster scope",
        ),
        (
            vec![("impersonate-user", "system:serviceaccount:ns:other")],
            "403 Forbidden: serviceaccounts \"other\" is forbidden: User \"bob\" cannot impersonate resource \"serviceaccounts\" in API group \"\" in the namespace \"ns\"",
        ),
        (
            vec![("impersonate-user", "eve"), ("impersonate-uid", "8")],
            "403 Forbidden: uids.authentication.k8s.io \"8\" is forbidden: User \"bob\" cannot impersonate resource \"uids\" in API group \"authentication.k8s.io\" at the cluster scope",
        ),
        (
            vec![
                ("impersonate-user", "eve"),
                ("impersonate-extra-scopes", "write"),
            ],
            "403 Forbidden: userextras.authentication.k8s.io \"write\" is forbidden: User \"bob\" cannot impersonate resource \"userextras/scopes\" in API group \"authentication.k8s.io\" at the cluster scope",
        ),
        (
            vec![("impersonate-group", "dev")],
            "400 BadRequest: requested [{Group  dev    }] without impersonating a user",
        ),
    ] {
        assert_eq!(as_whom(&bob, &headers).await.error(), expect);
    }
    server.stop().await;
}

#[tokio::test]
async fn reviews_are_validated_as_upstream_validates_them() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let group = "/apis/authorization.k8s.io/v1";
    let review = |kind: &str, spec: Value| json!({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec});
    let pods = json!({"verb": "list", "resource": "pods", "namespace": "dev"});
    for (path, kind, spec, expect) in [
        (
            "/subjectaccessreviews",
            "SubjectAccessReview",
            json!({"user": "bob"}),
            "SubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.resourceAttributes: Invalid value: \"null\": exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        (
            "/subjectaccessreviews",
            "SubjectAccessReview",
            json!({"resourceAttributes": pods}),
            "SubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.user: Invalid value: \"\": at least one of user or group must be specified",
        ),
        (
            "/namespaces/default/localsubjectaccessreviews",
            "LocalSubjectAccessReview",
            json!({"user": "bob", "resourceAttributes": pods}),
            "LocalSubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.resourceAttributes.namespace: Invalid value: \"dev\": must match metadata.namespace",
        ),
        (
            "/subjectaccessreviews",
            "SubjectAccessReview",
            json!({"user": "bob", "resourceAttributes": {"verb": "list", "resource": "pods", "fieldSelector": {}}}),
            "SubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.resourceAttributes.fieldSelector.requirements: Required value: when spec.resourceAttributes.fieldSelector is specified, requirements or rawSelector is required",
        ),
    ] {
        let answer = admin
            .post(&format!("{group}{path}"), &review(kind, spec))
            .await;
        assert_eq!(answer.error(), format!("422 Invalid: {expect}"));
    }
    // A node may list its own pods, and a review with the selector says so.
    let selector = |value: &str| json!({"requirements": [{"key": "spec.nodeName", "operator": "In", "values": [value]}]});
    for (node, allowed) in [("a", true), ("b", false)] {
        let spec = json!({
            "user": "system:node:a", "groups": ["system:nodes"],
            "resourceAttributes": {"verb": "list", "resource": "pods", "fieldSelector": selector(node)},
        });
        let path = format!("{group}/subjectaccessreviews");
        let answer = admin
            .post(&path, &review("SubjectAccessReview", spec))
            .await
            .ok();
        assert_eq!(answer["status"]["allowed"], allowed, "{node}");
    }
    server.stop().await;
}

#[tokio::test]
async fn one_is_told_ones_rules() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let review = |namespace: &str| json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": namespace}});
    let none = admin.post(path, &review("")).await;
    assert_eq!(none.error(), "400 BadRequest: no namespace on request");
    let own = admin.post(path, &review("default")).await.ok();
    assert_eq!(own["status"]["incomplete"], false);
    let everything = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]});
    let rules = own["status"]["resourceRules"].as_array().unwrap();
    assert_eq!(rules.iter().filter(|rule| **rule == everything).count(), 1);
    let node = server.api(UserInfo::node("a"));
    let own = node.post(path, &review("default")).await.ok();
    assert_eq!(own["status"]["incomplete"], true);
    assert_eq!(
        own["status"]["evaluationError"],
        "node authorizer does not support user rule resolution"
    );
    server.stop().await;
}
