//! A node's `/metrics/resource`, as far as usage is made of it.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;

use super::points::{Batch, PodKey, Point};

/// A line of the page: `name{label="value",…} value [timestamp]`.
struct Line<'a> {
    name: &'a str,
    labels: Vec<(&'a str, String)>,
    value: f64,
    at_ms: Option<i64>,
}

impl<'a> Line<'a> {
    /// `None` for comments and for what isn't understood.
    fn parse(line: &'a str) -> Option<Line<'a>> {
        let end = line.find(['{', ' '])?;
        let (name, mut rest) = line.split_at(end);
        if name.is_empty() || name.starts_with('#') {
            return None;
        }
        let mut labels = Vec::new();
        if let Some(inner) = rest.strip_prefix('{') {
            rest = inner;
            loop {
                rest = rest.trim_start_matches([',', ' ']);
                if let Some(after) = rest.strip_prefix('}') {
                    rest = after;
                    break;
                }
                let (key, after) = rest.split_once("=\"")?;
                let (value, after) = unquote(after)?;
                labels.push((key, value));
                rest = after;
            }
        }
        let mut words = rest.split_whitespace();
        Some(Line {
            name,
            labels,
            value: words.next()?.parse().ok()?,
            at_ms: words.next().and_then(|at| at.parse().ok()),
        })
    }

    fn label(&self, key: &str) -> Option<&str> {
        let found = self.labels.iter().find(|(k, _)| *k == key);
        found.map(|(_, value)| value.as_str())
    }
}

/// The value up to its closing quote, and what follows that.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match letters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

/// The samples on the page of the node `name`, read at `now`. A node without CPU or memory, and a pod with such a
/// container, isn't complete and left out.
pub(super) fn parse(text: &str, name: &str, now: Timestamp) -> Batch {
    let mut node = Point::default();
    let mut pods: HashMap<PodKey, BTreeMap<String, Point>> = HashMap::new();
    for line in text.lines().filter_map(Line::parse) {
        let at_ms = line.at_ms.unwrap_or(now.as_millisecond());
        let of_container = || {
            let text = |key| line.label(key).map(str::to_owned);
            Some(((text("namespace")?, text("pod")?), text("container")?))
        };
        match line.name {
            "node_cpu_usage_seconds_total" => {
                (node.cpu_ns, node.at_ms) = (nanos(line.value), at_ms);
            }
            "node_memory_working_set_bytes" => node.memory_bytes = whole(line.value),
            "container_cpu_usage_seconds_total"
            | "container_memory_working_set_bytes"
            | "container_start_time_seconds" => {
                let Some((pod, container)) = of_container() else {
                    continue;
                };
                let point = pods.entry(pod).or_default().entry(container).or_default();
                match line.name {
                    "container_cpu_usage_seconds_total" => {
                        (point.cpu_ns, point.at_ms) = (nanos(line.value), at_ms);
                    }
                    "container_memory_working_set_bytes" => point.memory_bytes = whole(line.value),
                    _ => {
                        point.started_ms =
                            i64::try_from(whole(line.value * 1e3)).unwrap_or(i64::MAX);
                    }
                }
            }
            _ => {}
        }
    }
    let complete = |point: &Point| point.cpu_ns > 0 && point.memory_bytes > 0;
    pods.retain(|_, containers| containers.values().all(complete));
    let mut nodes = HashMap::new();
    if complete(&node) {
        nodes.insert(name.to_owned(), node);
    }
    Batch { nodes, pods }
}

fn nanos(seconds: f64) -> u64 {
    whole(seconds * 1e9)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast of a double saturates"
)]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_a_node_is_read() {
        let text = r#"# HELP node_cpu_usage_seconds_total x
# TYPE node_cpu_usage_seconds_total counter
node_cpu_usage_seconds_total 12.5 5000
node_memory_working_set_bytes 1.024e+06 5000
container_cpu_usage_seconds_total{container="a",namespace="d",pod="p"} 0.25 4000
container_memory_working_set_bytes{container="a",namespace="d",pod="p"} 4096 4000
container_start_time_seconds{container="a",namespace="d",pod="p"} 1.5
container_cpu_usage_seconds_total{container="b",namespace="d",pod="q"} 0.25
pod_cpu_usage_seconds_total{namespace="d",pod="p"} 0.3 4000
scrape_error 0
"#;
        let batch = parse(text, "n", Timestamp::from_millisecond(9000).unwrap());
        let node = Point {
            started_ms: 0,
            at_ms: 5000,
            cpu_ns: 12_500_000_000,
            memory_bytes: 1_024_000,
        };
        assert_eq!(batch.nodes["n"], node);
        let key = ("d".to_owned(), "p".to_owned());
        let container = Point {
            started_ms: 1500,
            at_ms: 4000,
            cpu_ns: 250_000_000,
            memory_bytes: 4096,
        };
        assert_eq!(batch.pods[&key]["a"], container);
        assert_eq!(batch.pods.len(), 1, "a pod without memory is left out");
    }

    #[test]
    fn labels_are_unquoted() {
        let line = Line::parse(r#"x{a="q\"\\\n}", b="2"} 7"#).unwrap();
        assert_eq!(
            (line.label("a"), line.label("b")),
            (Some("q\"\\\n}"), Some("2"))
        );
        assert!(Line::parse("x{a=\"b} 7").is_none() && Line::parse("nonsense").is_none());
    }
}
