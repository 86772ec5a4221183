//! FlowSchemas and PriorityLevelConfigurations.

use super::{Object, inner, set};
use crate::{Value, meta::child_mut};

pub fn flow_schema(object: &mut Value) {
    positive(child_mut(object, "spec"), "matchingPrecedence", 1000);
}

pub fn priority_level(object: &mut Value) {
    let spec = child_mut(object, "spec");
    if let Some(exempt) = inner(spec, "exempt") {
        set(exempt, "nominalConcurrencyShares", 0);
        set(exempt, "lendablePercent", 0);
    }
    if let Some(limited) = inner(spec, "limited") {
        set(limited, "nominalConcurrencyShares", 30);
        set(limited, "lendablePercent", 0);
        if let Some(queuing) = inner(limited, "limitResponse").and_then(|r| inner(r, "queuing")) {
            positive(queuing, "handSize", 8);
            positive(queuing, "queues", 64);
            positive(queuing, "queueLengthLimit", 50);
        }
    }
}

/// Zero counts as absent: these are plain numbers in upstream's types.
fn positive(map: &mut Object, key: &str, value: i64) {
    if map.get(key).and_then(Value::as_i64).unwrap_or(0) == 0 {
        map.insert(key.to_owned(), value.into());
    }
}
