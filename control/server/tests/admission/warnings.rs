//! Warning headers of risky and deprecated fields.

use super::{NS, pod, start, warnings};
use serde_json::json;

#[tokio::test]
async fn a_write_tells_what_is_risky_and_a_refused_one_only_why() {
    let (server, api) = start().await;
    let pods = format!("{NS}/pods");
    let mut risky = pod(
        "a.b",
        json!({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}),
    );
    risky["spec"]["nodeSelector"] = json!({"beta.kubernetes.io/os": "linux"});
    let told = [
        "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]",
        "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
        "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
    ];
    let made = api.post(&format!("{pods}?dryRun=All"), &risky).await;
    assert_eq!(warnings(&made), told);
    made.ok();
    let made = api.post(&pods, &risky).await;
    assert_eq!(warnings(&made), told);
    made.ok();
    let changed = api
        .patch(
            &format!("{pods}/a.b"),
            "merge",
            &json!({"metadata": {"labels": {"a": "b"}}}),
        )
        .await;
    assert_eq!(warnings(&changed), [""; 0]);
    changed.ok();
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {
            "terminationGracePeriodSeconds": -1, "containers": [{"name": "c", "image": "x"}]}}}});
    let made = api
        .post("/apis/apps/v1/namespaces/default/deployments", &deployment)
        .await;
    assert_eq!(
        warnings(&made),
        [
            "spec.template.spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        ]
    );
    made.ok();
    server.stop().await;
}
