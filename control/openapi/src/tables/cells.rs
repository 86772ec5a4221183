//! Cells that many kinds share: ages, selectors, containers.

use jiff::Timestamp;
use kernelet_api::Value;

pub(super) const NONE: &str = "<none>";
pub(super) const UNKNOWN: &str = "<unknown>";

/// The value at a dotted path.
pub(super) fn at<'v>(object: &'v Value, path: &str) -> Option<&'v Value> {
    path.trim_start_matches('.')
        .split('.')
        .try_fold(object, |value, key| value.get(key))
}

/// The text at a dotted path, or nothing.
pub(super) fn text<'v>(object: &'v Value, path: &str) -> &'v str {
    at(object, path).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn number(object: &Value, path: &str) -> i64 {
    at(object, path).and_then(Value::as_i64).unwrap_or_default()
}

pub(super) fn list<'v>(object: &'v Value, path: &str) -> &'v [Value] {
    at(object, path)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// How many keys the map at the path has.
pub(super) fn size(object: &Value, path: &str) -> i64 {
    at(object, path)
        .and_then(Value::as_object)
        .map_or(0, |map| map.len() as i64)
}

/// `text`, or `other` where it is empty.
pub(super) fn or<'t>(text: &'t str, other: &'t str) -> &'t str {
    if text.is_empty() { other } else { text }
}

/// The text at the path, or `<none>`.
pub(super) fn or_none<'v>(object: &'v Value, path: &str) -> &'v str {
    or(text(object, path), NONE)
}

/// The time since a timestamp, as kubectl prints it.
pub(super) fn since(timestamp: Option<&Value>, now: Timestamp) -> String {
    match time(timestamp) {
        Some(then) => human_duration(now.as_second() - then.as_second()),
        None => UNKNOWN.to_owned(),
    }
}

pub(super) fn time(timestamp: Option<&Value>) -> Option<Timestamp> {
    timestamp?.as_str()?.parse().ok()
}

/// A duration with two or three significant figures: `45s`, `3m20s`, `5d12h`.
pub fn human_duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    let with = |big: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 {
            format!("{big}{unit}")
        } else {
            format!("{big}{unit}{small}{small_unit}")
        }
    };
    match seconds {
        // Clocks differ by a little.
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => with(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => with(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if days < 8 => with(days, "d", hours % 24, "h"),
        _ if days < 2 * 365 => format!("{days}d"),
        _ if days < 8 * 365 => with(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// `a=b,c=d`, or `<none>`.
pub(super) fn labels(map: Option<&Value>) -> String {
    let mut pairs: Vec<String> = map
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.sort();
    if pairs.is_empty() {
        NONE.to_owned()
    } else {
        pairs.join(",")
    }
}

/// A label selector as one line, empty when it selects by nothing; `None` when it is invalid.
pub(super) fn selector(selector: Option<&Value>) -> Option<String> {
    let Some(selector) = selector else {
        return Some(String::new());
    };
    let mut parts: Vec<(String, String)> = selector
        .get("matchLabels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| {
            (
                key.clone(),
                format!("{key}={}", value.as_str().unwrap_or_default()),
            )
        })
        .collect();
    for expression in list(selector, "matchExpressions") {
        let key = text(expression, "key");
        let mut values: Vec<&str> = list(expression, "values")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        values.sort_unstable();
        let values = values.join(",");
        let part = match text(expression, "operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => return None,
        };
        parts.push((key.to_owned(), part));
    }
    parts.sort_by(|a, b| a.0.cmp(&b.0));
    Some(
        parts
            .into_iter()
            .map(|(_, part)| part)
            .collect::<Vec<_>>()
            .join(","),
    )
}

/// A field of each container in a workload's template.
pub(super) fn containers(object: &Value, field: &str) -> String {
    let containers = list(object, "spec.template.spec.containers");
    containers
        .iter()
        .map(|container| text(container, field))
        .collect::<Vec<_>>()
        .join(",")
}

/// At most three of `items`, and how many more there are.
pub(super) fn first_three(items: &[String], nothing: &str) -> String {
    let shown = items.iter().take(3).cloned().collect::<Vec<_>>().join(",");
    match items.len() {
        0 => nothing.to_owned(),
        1..=3 => shown,
        many => format!("{shown} + {} more...", many - 3),
    }
}
