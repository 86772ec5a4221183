//! The FlowSchemas and levels in force, compiled from the stored objects.

use std::{collections::BTreeMap, sync::Arc};

use http::HeaderValue;
use kernelet_api::{
    Value,
    flowcontrol::{CATCH_ALL, EXEMPT, built_in},
    meta,
};
use tokio::sync::Notify;

use super::{
    level::Level,
    metrics::{FlowCounters, FlowMetrics},
    queues::Shape,
    rules::{Asked, Rules},
    shares::{Bounds, Demand, Share, allocate, bounds},
};

/// One FlowSchema and its level.
pub struct Flow {
    pub name: String,
    pub level_name: String,
    pub rules: Rules,
    pub level: Arc<Level>,
    /// Nobody waits.
    pub exempt: bool,
    pub uid: Option<HeaderValue>,
    pub level_uid: Option<HeaderValue>,
    pub counters: FlowCounters,
}

/// Everything that a request is judged by; immutable, swapped whole.
pub struct Config {
    /// In the order in which they are matched.
    flows: Vec<Arc<Flow>>,
    pub levels: BTreeMap<String, Entry>,
}

/// A level and its part of the seats.
#[derive(Clone)]
pub struct Entry {
    pub level: Arc<Level>,
    pub exempt: bool,
    pub bounds: Bounds,
    uid: Option<HeaderValue>,
}

/// A level's own most seats for one request, of its nominal ones.
const WIDEST: f64 = 0.15;

impl Config {
    /// From the stored objects. Mandatory ones that are missing are thought of as being there; schemas without a level
    /// match nothing. Levels of `before` live on.
    pub fn build(
        schemas: &[Value],
        levels: &[Value],
        before: Option<&Config>,
        seats: u32,
        metrics: &FlowMetrics,
        pressure: &Arc<Notify>,
    ) -> Config {
        let schemas = with_mandatory("flowschemas", schemas);
        let levels = with_mandatory("prioritylevelconfigurations", levels);
        let shares: Vec<Share> = levels.iter().map(|level| share(&level["spec"])).collect();
        let mut entries = BTreeMap::new();
        for (object, bounds) in levels.iter().zip(bounds(seats, &shares)) {
            let name = meta::name(object).to_owned();
            let level = before
                .and_then(|before| before.levels.get(&name))
                .map_or_else(
                    || Arc::new(Level::new(pressure.clone())),
                    |entry| entry.level.clone(),
                );
            let shape = shape(&object["spec"]);
            let hand = shape.map_or(1, |shape| shape.hand.max(1) as u32);
            let widest = (f64::from(bounds.nominal) * WIDEST).ceil() as u32;
            level.configure(shape, widest.min(bounds.nominal / hand));
            metrics.bounds(&name, bounds);
            let entry = Entry {
                level,
                exempt: name == EXEMPT,
                bounds,
                uid: uid(object),
            };
            entries.insert(name, entry);
        }
        let mut flows: Vec<(i64, Arc<Flow>)> = Vec::new();
        for object in &schemas {
            let spec = &object["spec"];
            let level_name = level_of(object);
            let Some(entry) = entries.get(level_name) else {
                continue;
            };
            let precedence = spec["matchingPrecedence"].as_i64().unwrap_or(i64::MAX);
            let name = meta::name(object);
            let flow = Flow {
                name: name.to_owned(),
                level_name: level_name.to_owned(),
                rules: Rules::parse(spec),
                level: entry.level.clone(),
                exempt: entry.exempt,
                uid: uid(object),
                level_uid: entry.uid.clone(),
                counters: metrics.counters(name, level_name),
            };
            flows.push((precedence, Arc::new(flow)));
        }
        flows.sort_by(|(a, one), (b, two)| (a, &one.name).cmp(&(b, &two.name)));
        let config = Config {
            flows: flows.into_iter().map(|(_, flow)| flow).collect(),
            levels: entries,
        };
        config.allot(&BTreeMap::new(), metrics);
        config
    }

    /// The first schema that matches; there is always one that catches all, unless nobody is asking.
    pub fn flow_of(&self, asked: &Asked<'_>) -> Option<&Arc<Flow>> {
        self.flows
            .iter()
            .find(|flow| flow.rules.matches(asked))
            .or_else(|| self.flows.iter().find(|flow| flow.name == CATCH_ALL))
    }

    /// Gives each level its seats, by what it wanted lately.
    pub fn allot(&self, demands: &BTreeMap<String, Demand>, metrics: &FlowMetrics) {
        let limited: Vec<(&String, &Entry)> = self
            .levels
            .iter()
            .filter(|(_, entry)| !entry.exempt)
            .collect();
        let wanted: Vec<(Bounds, Demand)> = limited
            .iter()
            .map(|(name, entry)| {
                let demand = demands.get(*name).copied().unwrap_or_default();
                (entry.bounds, demand)
            })
            .collect();
        for ((name, entry), seats) in limited.into_iter().zip(allocate(&wanted)) {
            if entry.level.limit() != seats {
                entry.level.set_limit(seats);
            }
            metrics.limit(name, seats);
        }
    }
}

/// The level that a FlowSchema names.
pub fn level_of(schema: &Value) -> &str {
    schema["spec"]["priorityLevelConfiguration"]["name"]
        .as_str()
        .unwrap_or_default()
}

fn with_mandatory<'a>(plural: &str, stored: &'a [Value]) -> Vec<&'a Value> {
    let mut all: Vec<&Value> = stored.iter().collect();
    for built_in in built_in().iter().filter(|b| b.plural == plural) {
        let name = meta::name(&built_in.object);
        if matches!(name, EXEMPT | CATCH_ALL) && !stored.iter().any(|o| meta::name(o) == name) {
            all.push(&built_in.object);
        }
    }
    all
}

fn uid(object: &Value) -> Option<HeaderValue> {
    match meta::uid(object) {
        "" => None,
        uid => HeaderValue::from_str(uid).ok(),
    }
}

fn number(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|n| u32::try_from(n).ok())
}

fn share(spec: &Value) -> Share {
    let limits = if spec["limited"].is_object() {
        &spec["limited"]
    } else {
        &spec["exempt"]
    };
    Share {
        shares: number(&limits["nominalConcurrencyShares"]).unwrap_or(0),
        lendable_percent: number(&limits["lendablePercent"]).unwrap_or(0).min(100),
        borrowing_percent: number(&limits["borrowingLimitPercent"]),
    }
}

fn shape(spec: &Value) -> Option<Shape> {
    let queuing = spec.pointer("/limited/limitResponse/queuing")?;
    let number = |field: &str| number(&queuing[field]).map(|n| n as usize);
    Some(Shape {
        queues: number("queues")?.max(1),
        hand: number("handSize")?.max(1),
        length: number("queueLengthLimit")?,
    })
}

#[cfg(test)]
impl Flow {
    /// A schema that matches nothing, of that level.
    pub fn for_tests(level: Arc<Level>, metrics: &FlowMetrics) -> Flow {
        Flow {
            name: "test".to_owned(),
            level_name: "test".to_owned(),
            rules: Rules::default(),
            level,
            exempt: false,
            uid: None,
            level_uid: None,
            counters: metrics.counters("test", "test"),
        }
    }
}
