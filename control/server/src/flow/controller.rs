//! Keeps the configuration in step with the stored objects, and the stored objects with what must be there.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use kernelet_api::{
    Value,
    flowcontrol::{CATCH_ALL, EXEMPT, GROUP},
    meta,
};
use serde_json::json;
use tokio::time;

use super::{
    Flows,
    config::{Config, level_of},
    shares::Demand,
};
use crate::{
    bootstrap,
    cache::{KeyRange, ResourceCache},
    handler::{Pipeline, WriteRequest, params::DryRun},
    state::State,
    user::UserInfo,
};

const SCHEMAS: &str = "flowschemas";
const LEVELS: &str = "prioritylevelconfigurations";
/// Upstream's period of lending and borrowing.
const ADJUST_EVERY: Duration = Duration::from_secs(10);

fn cache(state: &State, plural: &str) -> Option<Arc<ResourceCache>> {
    state.cache.resource(&format!("{GROUP}/{plural}"))
}

fn objects(cache: &ResourceCache) -> Vec<Value> {
    let everything = KeyRange {
        namespace: "",
        after: "",
    };
    let (objects, _) = cache.list(everything, 0, |_| true);
    objects.iter().map(|object| object.tree()).collect()
}

/// Reads the stored objects and puts them in force.
pub async fn settle(state: &Arc<State>) {
    let (Some(schemas), Some(levels)) = (cache(state, SCHEMAS), cache(state, LEVELS)) else {
        return;
    };
    let (schemas, levels) = (objects(&schemas), objects(&levels));
    state.flows.rebuild(&schemas, &levels);
    for schema in &schemas {
        note_reference(state, schema, &levels).await;
    }
}

impl Flows {
    fn rebuild(&self, schemas: &[Value], levels: &[Value]) {
        let _one_at_a_time = self
            .building
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = self.config.load_full();
        let config = Config::build(
            schemas,
            levels,
            Some(&before),
            self.seats,
            &self.metrics,
            &self.pressure,
        );
        self.config.store(Arc::new(config));
    }
}

/// Follows the stored objects until shutdown.
pub async fn run(state: Arc<State>) {
    let (Some(schemas), Some(levels)) = (cache(&state, SCHEMAS), cache(&state, LEVELS)) else {
        return;
    };
    tokio::spawn(lend(state.clone()));
    let follow = |cache: &Arc<ResourceCache>| cache.follow(cache.last());
    let (mut of_schemas, mut of_levels) = (follow(&schemas), follow(&levels));
    loop {
        settle(&state).await;
        tokio::select! {
            () = state.shutdown.cancelled() => return,
            next = of_schemas.next() => if next.is_err() { of_schemas = follow(&schemas) },
            next = of_levels.next() => if next.is_err() { of_levels = follow(&levels) },
        }
        // What was deleted or changed and must be there comes back.
        if let Err(failed) = bootstrap::flow::reconcile(&state, &UserInfo::apiserver()).await {
            tracing::warn!(what = failed.what, error = %failed.error, "restoring flow control's own objects");
        }
    }
}

/// Lends seats between levels while some level has none free; otherwise it sleeps.
async fn lend(state: Arc<State>) {
    let flows = &state.flows;
    loop {
        tokio::select! {
            () = state.shutdown.cancelled() => return,
            () = flows.pressure.notified() => {}
        }
        let mut demands: BTreeMap<String, Demand> = BTreeMap::new();
        loop {
            tokio::select! {
                () = state.shutdown.cancelled() => return,
                () = time::sleep(ADJUST_EVERY) => {}
            }
            let config = flows.config.load_full();
            let mut pressed = false;
            for (name, entry) in &config.levels {
                let (peak, waiting) = entry.level.take_peak();
                let demand = demands.entry(name.clone()).or_default();
                *demand = demand.after(peak);
                pressed |= !entry.exempt && (waiting || peak >= entry.bounds.nominal.max(1));
            }
            if !pressed {
                demands.clear();
            }
            config.allot(&demands, &flows.metrics);
            if !pressed {
                break;
            }
        }
    }
}

/// Tells in a schema's status whether its level exists.
async fn note_reference(state: &Arc<State>, schema: &Value, levels: &[Value]) {
    let level = level_of(schema);
    let found =
        matches!(level, EXEMPT | CATCH_ALL) || levels.iter().any(|l| meta::name(l) == level);
    let named =
        format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?}");
    let (status, reason, message) = if found {
        ("False", "Found", format!("{named} and it exists"))
    } else {
        (
            "True",
            "NotFound",
            format!("{named} but there is no such object"),
        )
    };
    let same = |condition: &Value| {
        condition["type"] == "Dangling"
            && condition["status"] == status
            && condition["reason"] == reason
            && condition["message"] == message.as_str()
    };
    let conditions = |object: &Value| -> Vec<Value> {
        object
            .pointer("/status/conditions")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    if conditions(schema).iter().any(same) {
        return;
    }
    let snapshot = state.registry.load_full();
    let Some(served) = snapshot.get(GROUP, SCHEMAS) else {
        return;
    };
    let user = UserInfo::apiserver();
    let request = WriteRequest {
        state,
        snapshot: &snapshot,
        served,
        version: "v1",
        user: &user,
        namespace: "",
        subresource: Some("status"),
        dry_run: DryRun::No,
        manager: "api-priority-and-fairness-config-consumer-v1".to_owned(),
        pipeline: Pipeline::Full,
        notes: None,
    };
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let change = |old: &Value| {
        let mut new = old.clone();
        let mut all = conditions(old);
        all.retain(|condition| condition["type"] != "Dangling");
        all.push(json!({
            "type": "Dangling", "status": status, "reason": reason, "message": message, "lastTransitionTime": now,
        }));
        new["status"]["conditions"] = all.into();
        Ok(new)
    };
    if let Err(failure) = request.update(meta::name(schema), None, &change).await {
        // It was deleted meanwhile, or will be looked at again.
        tracing::debug!(schema = meta::name(schema), error = %failure.error, "a FlowSchema's status");
    }
}
