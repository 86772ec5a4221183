//! Samples, two of each node and container, and what they make together.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

/// What was read of a node or a container. Times in milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Point {
    /// When it started, with no CPU time used; 0 where that isn't told.
    pub started_ms: i64,
    pub at_ms: i64,
    pub cpu_ns: u64,
    pub memory_bytes: u64,
}

/// `(namespace, name)` of a pod.
pub(super) type PodKey = (String, String);

/// All that was read at about one time.
#[derive(Clone, Debug, Default)]
pub(super) struct Batch {
    pub nodes: HashMap<String, Point>,
    pub pods: HashMap<PodKey, BTreeMap<String, Point>>,
}

impl Batch {
    pub fn extend(&mut self, other: Batch) {
        self.nodes.extend(other.nodes);
        self.pods.extend(other.pods);
    }
}

/// Two samples' difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    pub at_ms: i64,
    pub window_ms: i64,
    pub usage: Usage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Usage {
    /// Billionths of a CPU.
    pub cpu_nano: u64,
    pub memory_bytes: u64,
}

/// The last samples and those before them.
#[derive(Debug, Default)]
pub(super) struct Points {
    last: Batch,
    before: Batch,
}

/// A container that started since the sample before counts from its start, if it runs for this long.
const FRESH_MS: i64 = 10_000;

impl Points {
    /// Takes a batch in; `resolution`: how far batches lie apart.
    pub fn store(&mut self, new: Batch, resolution: Duration) {
        let resolution = i64::try_from(resolution.as_millis()).unwrap_or(i64::MAX);
        let mut before = Batch::default();
        for (name, point) in &new.nodes {
            let (last, older) = (self.last.nodes.get(name), self.before.nodes.get(name));
            if let Some(kept) = predecessor(point, last, older) {
                before.nodes.insert(name.clone(), kept);
            }
        }
        for (key, containers) in &new.pods {
            let (last, older) = (self.last.pods.get(key), self.before.pods.get(key));
            let mut kept = BTreeMap::new();
            for (name, point) in containers {
                let age = point.at_ms - point.started_ms;
                let found = if point.started_ms > 0 && (FRESH_MS..resolution).contains(&age) {
                    Some(Point {
                        at_ms: point.started_ms,
                        cpu_ns: 0,
                        ..*point
                    })
                } else {
                    let last = last.and_then(|pod| pod.get(name));
                    // One that was started again counts from nothing again.
                    let last = last.filter(|last| point.started_ms < last.at_ms);
                    let older = older.and_then(|pod| pod.get(name));
                    last.and_then(|last| predecessor(point, Some(last), older))
                };
                if let Some(found) = found {
                    kept.insert(name.clone(), found);
                }
            }
            if !kept.is_empty() {
                before.pods.insert(key.clone(), kept);
            }
        }
        self.last = new;
        self.before = before;
    }

    pub fn node(&self, name: &str) -> Option<Sample> {
        difference(self.last.nodes.get(name)?, self.before.nodes.get(name)?)
    }

    pub fn pod(&self, namespace: &str, name: &str) -> Option<(Sample, Vec<(String, Usage)>)> {
        let key = (namespace.to_owned(), name.to_owned());
        let (last, before) = (self.last.pods.get(&key)?, self.before.pods.get(&key)?);
        let mut containers = Vec::new();
        let mut earliest: Option<Sample> = None;
        for (name, point) in last {
            // A figure of half a pod would be taken for the pod's.
            let old = before.get(name)?;
            let Some(sample) = difference(point, old) else {
                continue;
            };
            containers.push((name.clone(), sample.usage));
            if earliest.is_none_or(|known| known.at_ms > sample.at_ms) {
                earliest = Some(sample);
            }
        }
        Some((earliest?, containers))
    }
}

/// The point to measure `new` against: the last one, or, if a node told the same once more, the one before.
fn predecessor(new: &Point, last: Option<&Point>, older: Option<&Point>) -> Option<Point> {
    let last = last?;
    if new.at_ms > last.at_ms {
        return Some(*last);
    }
    older.filter(|older| older.at_ms < new.at_ms).copied()
}

/// `None`: the counters went backwards, or no time passed.
fn difference(last: &Point, before: &Point) -> Option<Sample> {
    let window_ms = last.at_ms - before.at_ms;
    let used = last.cpu_ns.checked_sub(before.cpu_ns)?;
    if last.started_ms < before.started_ms || window_ms <= 0 {
        return None;
    }
    let nano = u128::from(used) * 1000 / u128::try_from(window_ms).ok()?;
    Some(Sample {
        at_ms: last.at_ms,
        window_ms,
        usage: Usage {
            cpu_nano: u64::try_from(nano).unwrap_or(u64::MAX),
            memory_bytes: last.memory_bytes,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESOLUTION: Duration = Duration::from_secs(15);

    fn point(started_ms: i64, at_ms: i64, cpu_ms: u64) -> Point {
        Point {
            started_ms,
            at_ms,
            cpu_ns: cpu_ms * 1_000_000,
            memory_bytes: 4096,
        }
    }

    fn batch(containers: &[(&str, Point)]) -> Batch {
        let mut batch = Batch::default();
        for (name, point) in containers {
            batch.nodes.insert("n".to_owned(), *point);
            let pod = batch
                .pods
                .entry(("d".to_owned(), "p".to_owned()))
                .or_default();
            pod.insert((*name).to_owned(), *point);
        }
        batch
    }

    /// `cpu in milli/window` of the pod's containers after these batches, `-` for none.
    fn check(batches: &[&[(&str, Point)]], expect: &str) {
        let mut points = Points::default();
        for containers in batches {
            points.store(batch(containers), RESOLUTION);
        }
        let told = match points.pod("d", "p") {
            None => "-".to_owned(),
            Some((sample, containers)) => containers
                .iter()
                .map(|(name, usage)| {
                    format!("{name}={}/{}", usage.cpu_nano / 1_000_000, sample.window_ms)
                })
                .collect::<Vec<_>>()
                .join(" "),
        };
        assert_eq!(told, expect, "{batches:?}");
    }

    #[test]
    fn two_samples_make_a_usage() {
        check(&[&[("a", point(1000, 100_000, 50))]], "-");
        check(
            &[
                &[("a", point(1000, 100_000, 50))],
                &[("a", point(1000, 115_000, 3050))],
            ],
            "a=200/15000",
        );
        // The same told twice keeps the one before.
        check(
            &[
                &[("a", point(1000, 100_000, 50))],
                &[("a", point(1000, 115_000, 3050))],
                &[("a", point(1000, 115_000, 3050))],
            ],
            "a=200/15000",
        );
        // Started again in between.
        check(
            &[
                &[("a", point(1000, 100_000, 50))],
                &[("a", point(114_000, 115_000, 3050))],
            ],
            "-",
        );
    }

    #[test]
    fn a_young_container_counts_from_its_start_and_one_without_a_figure_hides_the_pod() {
        check(&[&[("a", point(100_000, 112_000, 1200))]], "a=100/12000");
        check(&[&[("a", point(100_000, 105_000, 1200))]], "-");
        check(
            &[
                &[("a", point(1000, 100_000, 50))],
                &[
                    ("a", point(1000, 115_000, 3050)),
                    ("b", point(110_000, 115_000, 10)),
                ],
            ],
            "-",
        );
    }

    #[test]
    fn a_counter_that_went_back_makes_no_usage() {
        check(
            &[
                &[("a", point(1000, 100_000, 50))],
                &[("a", point(1000, 115_000, 40))],
            ],
            "-",
        );
        let mut points = Points::default();
        points.store(batch(&[("a", point(0, 100_000, 50))]), RESOLUTION);
        assert_eq!(points.node("n"), None);
        points.store(batch(&[("a", point(0, 101_000, 550))]), RESOLUTION);
        let sample = points.node("n").unwrap();
        assert_eq!(
            (sample.window_ms, sample.usage.cpu_nano),
            (1000, 500_000_000)
        );
    }
}
