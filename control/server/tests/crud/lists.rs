//! Lists: pages, revisions and selectors.

use super::*;

#[tokio::test]
async fn a_list_is_paged_at_one_revision() {
    let server = TestServer::start().await;
    let api = server.admin();
    for n in 0..7 {
        api.post(CMS, &cm(&format!("c{n}"))).await.ok();
    }
    let mut token = String::new();
    let (mut names, mut revisions) = (Vec::new(), Vec::new());
    loop {
        let page = api
            .get(&format!("{CMS}?limit=3&continue={token}"))
            .await
            .ok();
        revisions.push(
            page["metadata"]["resourceVersion"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
        names.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()),
        );
        if names.len() == 3 {
            assert_eq!(page["metadata"]["remainingItemCount"], 4);
            // What changes meanwhile isn't in the pages.
            api.delete(&format!("{CMS}/c6")).await.ok();
            api.post(CMS, &cm("c3a")).await.ok();
        }
        match page["metadata"].get("continue") {
            Some(next) => token = next.as_str().unwrap().to_owned(),
            None => break,
        }
    }
    assert_eq!(names, ["c0", "c1", "c2", "c3", "c4", "c5", "c6"]);
    assert!(
        revisions.iter().all(|revision| *revision == revisions[0]),
        "{revisions:?}"
    );
    // Compacted: 410, with a token that goes on without consistency.
    let first = api.get(&format!("{CMS}?limit=3")).await.ok();
    let token = first["metadata"]["continue"].as_str().unwrap();
    api.post(CMS, &cm("later")).await.ok();
    let now = server.store.revision().await.unwrap();
    server.store.compact(now).await.unwrap();
    let expired = api.get(&format!("{CMS}?limit=3&continue={token}")).await;
    assert!(
        expired
            .error()
            .starts_with("410 Expired: The provided continue parameter is too old"),
        "{}",
        expired.error()
    );
    let token = expired.json()["metadata"]["continue"]
        .as_str()
        .unwrap()
        .to_owned();
    let rest = api
        .get(&format!("{CMS}?limit=30&continue={token}"))
        .await
        .ok();
    assert_eq!(rest["items"][0]["metadata"]["name"], "c3");
    assert_eq!(
        api.get(&format!("{CMS}?continue=garbage")).await.status,
        400
    );
    server.stop().await;
}

#[tokio::test]
async fn lists_keep_to_revisions_and_selectors() {
    let server = TestServer::start().await;
    let api = server.admin();
    let first = api.post(CMS, &cm("a")).await.ok();
    let mut labelled = cm("b");
    labelled["metadata"]["labels"] = json!({"app": "x", "n": "5"});
    api.post(CMS, &labelled).await.ok();
    let names = |list: Value| -> Vec<String> {
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| i["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    for (query, expect) in [
        ("labelSelector=app%3Dx", vec!["b"]),
        ("labelSelector=app", vec!["b"]),
        ("labelSelector=!app", vec!["a"]),
        ("labelSelector=app%20in%20(x,y),n%20notin%20(6)", vec!["b"]),
        ("labelSelector=n%3E4", vec!["b"]),
        ("labelSelector=app!%3Dx", vec!["a"]),
        ("fieldSelector=metadata.name%3Da", vec!["a"]),
        (
            "fieldSelector=metadata.name!%3Da,metadata.namespace%3Ddefault",
            vec!["b"],
        ),
        ("fieldSelector=metadata.namespace%3Dnone", vec![]),
    ] {
        assert_eq!(
            names(api.get(&format!("{CMS}?{query}")).await.ok()),
            expect,
            "{query}"
        );
    }
    assert!(
        api.get(&format!("{CMS}?fieldSelector=data.a%3D1"))
            .await
            .error()
            .starts_with("400 BadRequest: \"data.a\" is not a known field selector: only")
    );
    assert_eq!(
        api.get(&format!("{CMS}?labelSelector=a%20b")).await.status,
        400
    );
    let at = version(&first);
    let exact = api
        .get(&format!(
            "{CMS}?resourceVersion={at}&resourceVersionMatch=Exact"
        ))
        .await
        .ok();
    assert_eq!(
        (names(exact.clone()), version(&exact)),
        (vec!["a".to_owned()], at)
    );
    let newer = api
        .get(&format!(
            "{CMS}?resourceVersion={at}&resourceVersionMatch=NotOlderThan"
        ))
        .await
        .ok();
    assert_eq!(names(newer), ["a", "b"]);
    let cached = api.get(&format!("{CMS}?resourceVersion=0")).await.ok();
    assert!(version(&cached) > 0);
    let future = api.get(&format!("{CMS}?resourceVersion=100000")).await;
    assert!(
        future
            .error()
            .starts_with("504 Timeout: Timeout: Too large resource version: 100000, current: "),
        "{}",
        future.error()
    );
    assert_eq!(
        future.json()["details"]["causes"][0]["reason"],
        "ResourceVersionTooLarge"
    );
    server.stop().await;
}
