//! Watches: each change once, from where the client stands.

use super::*;

#[tokio::test]
async fn a_watch_tells_every_change_once() {
    let server = TestServer::start().await;
    let api = server.admin();
    let list = api.get(CMS).await.ok();
    let mut events = api
        .watch(&format!(
            "{CMS}?watch=true&resourceVersion={}",
            version(&list)
        ))
        .await;
    api.post(CMS, &cm("a")).await.ok();
    let patched = api
        .patch(&format!("{CMS}/a"), "merge", &json!({"data": {"a": "2"}}))
        .await
        .ok();
    api.post(
        "/api/v1/namespaces/kube-system/configmaps",
        &cm("elsewhere"),
    )
    .await
    .ok();
    api.delete(&format!("{CMS}/a")).await.ok();
    assert_eq!(events.told().await, "ADDED a");
    assert_eq!(events.told().await, "MODIFIED a");
    let deleted = events.next().await.unwrap();
    assert_eq!(
        (&deleted["type"], &deleted["object"]["data"]["a"]),
        (&json!("DELETED"), &json!("2"))
    );
    assert!(version(&deleted["object"]) > version(&patched));
    server.stop().await;
}

#[tokio::test]
async fn a_watch_with_a_selector_adds_and_deletes_as_labels_change() {
    let server = TestServer::start().await;
    let api = server.admin();
    let mut events = api
        .watch(&format!("{CMS}?watch=1&labelSelector=app%3Dx"))
        .await;
    api.post(CMS, &cm("a")).await.ok();
    let path = format!("{CMS}/a");
    api.patch(
        &path,
        "merge",
        &json!({"metadata": {"labels": {"app": "x"}}}),
    )
    .await
    .ok();
    api.patch(&path, "merge", &json!({"data": {"b": "1"}}))
        .await
        .ok();
    api.patch(
        &path,
        "merge",
        &json!({"metadata": {"labels": {"app": "y"}}}),
    )
    .await
    .ok();
    api.delete(&path).await.ok();
    api.post(CMS, &{
        let mut last = cm("last");
        last["metadata"]["labels"] = json!({"app": "x"});
        last
    })
    .await
    .ok();
    for expect in ["ADDED a", "MODIFIED a", "DELETED a", "ADDED last"] {
        assert_eq!(events.told().await, expect);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_watch_begins_with_what_is_there_and_marks_the_end_of_it() {
    let server = TestServer::start().await;
    let api = server.admin();
    api.post(CMS, &cm("a")).await.ok();
    let query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1";
    let mut events = api.watch(&format!("{CMS}?{query}")).await;
    assert_eq!(events.told().await, "ADDED a");
    let end = events.next().await.unwrap();
    assert_eq!(end["type"], "BOOKMARK");
    assert_eq!(
        end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    assert_eq!(end["object"]["kind"], "ConfigMap");
    assert!(version(&end["object"]) > 0);
    // Its time over, the watch says how far it came and ends.
    assert_eq!(events.told().await, "BOOKMARK -");
    assert_eq!(events.told().await, "END");
    // The legacy paths watch too.
    let mut legacy = api
        .watch("/api/v1/watch/namespaces/default/configmaps/a")
        .await;
    assert_eq!(legacy.told().await, "ADDED a");
    assert_eq!(
        api.get(&format!("{CMS}?watch=true&sendInitialEvents=true"))
            .await
            .status,
        422
    );
    server.stop().await;
}

#[tokio::test]
async fn a_watch_from_a_revision_that_is_gone_is_told_410() {
    let server = TestServer::start().await;
    let api = server.admin();
    let first = api.post(CMS, &cm("a")).await.ok();
    // More than the cache's ring of events holds.
    for n in 0..160 {
        api.patch(
            &format!("{CMS}/a"),
            "merge",
            &json!({"data": {"a": n.to_string().repeat(20_000)}}),
        )
        .await
        .ok();
    }
    let mut events = api
        .watch(&format!(
            "{CMS}?watch=true&resourceVersion={}",
            version(&first)
        ))
        .await;
    let event = events.next().await.unwrap();
    assert_eq!(event["type"], "ERROR");
    assert_eq!(
        (&event["object"]["code"], &event["object"]["reason"]),
        (&json!(410), &json!("Expired"))
    );
    assert_eq!(events.told().await, "END");
    server.stop().await;
}
