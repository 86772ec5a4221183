//! Aggregated ClusterRoles: their rules are the union of the roles their selectors choose, written as those change.

use std::sync::Arc;

use kernelet_api::{Value, selector::LabelSelector};

use crate::{
    cache::{Expired, KeyRange},
    handler::{Pipeline, WriteRequest, labels_match, params::DryRun},
    state::State,
    user::UserInfo,
};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Keeps every aggregated role current until shutdown.
pub async fn run(state: Arc<State>) {
    let snapshot = state.registry.load_full();
    let Some(stored) = snapshot
        .get(GROUP, "clusterroles")
        .and_then(|served| served.stored.as_ref())
    else {
        return;
    };
    let mut follower = stored.cache.follow(stored.cache.last());
    loop {
        settle(&state).await;
        let next = tokio::select! {
            () = state.shutdown.cancelled() => return,
            next = follower.next() => next,
        };
        if let Err(Expired { .. }) = next {
            follower = stored.cache.follow(stored.cache.last());
        }
    }
}

/// Writes the roles whose union differs from what they say. Aggregated roles aggregate each other (`admin` takes in
/// `edit`), so this repeats until nothing changes; each round only adds what a chain of selectors leads to.
pub async fn settle(state: &Arc<State>) {
    for _ in 0..8 {
        if !round(state).await {
            return;
        }
    }
}

async fn round(state: &Arc<State>) -> bool {
    let snapshot = state.registry.load_full();
    let Some(served) = snapshot.get(GROUP, "clusterroles") else {
        return false;
    };
    let Some(stored) = &served.stored else {
        return false;
    };
    let everything = KeyRange {
        namespace: "",
        after: "",
    };
    let (objects, _) = stored.cache.list(everything, 0, |_| true);
    let roles: Vec<(_, Value)> = objects
        .iter()
        .map(|object| (object.clone(), object.tree()))
        .collect();
    let user = UserInfo::apiserver();
    let mut changed = false;
    for (object, role) in &roles {
        let Some(selectors) = role
            .pointer("/aggregationRule/clusterRoleSelectors")
            .and_then(Value::as_array)
        else {
            continue;
        };
        let selectors: Vec<LabelSelector> = selectors
            .iter()
            .filter_map(|s| LabelSelector::from_object(Some(s)).ok().flatten())
            .collect();
        let mut rules: Vec<Value> = Vec::new();
        for (other, tree) in &roles {
            if other.key == object.key
                || !selectors
                    .iter()
                    .any(|selector| labels_match(selector, &other.index))
            {
                continue;
            }
            for rule in tree
                .get("rules")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
        if role
            .get("rules")
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice)
            == rules
        {
            continue;
        }
        let request = WriteRequest {
            state,
            snapshot: &snapshot,
            served,
            version: "v1",
            user: &user,
            namespace: "",
            subresource: None,
            dry_run: DryRun::No,
            manager: "clusterrole-aggregation-controller".to_owned(),
            pipeline: Pipeline::Full,
            notes: None,
        };
        let change = |old: &Value| {
            let mut new = old.clone();
            new["rules"] = rules.clone().into();
            Ok(new)
        };
        match request.update(object.name(), None, &change).await {
            Ok(_) => changed = true,
            Err(failure) => {
                tracing::warn!(role = object.name(), error = %failure.error, "aggregating a ClusterRole")
            }
        }
    }
    changed
}
