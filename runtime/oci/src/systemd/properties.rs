//! A container's limits and annotations as properties of a systemd unit (systemd.resource-control(5)). Pure.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use kernelet_spec::{DeviceRule, DeviceRuleKind, Resources};
use kernelet_sys::cgroup::{Mode, shares_to_weight};

use super::{variant, wire::Value};

pub type Property = (String, Value);

fn property(name: &str, value: Value) -> Property {
    (name.to_owned(), value)
}

const INFINITY: u64 = u64::MAX;
/// The kernel's default.
const PERIOD_US: u64 = 100_000;

/// What systemd has to know of the limits, so that it doesn't undo them; the group's files get the same values.
pub fn of_resources(r: &Resources, mode: Mode) -> Result<Vec<Property>> {
    let mut all = Vec::new();
    let mut add = |name: &str, value: Value| all.push(property(name, value));
    let bytes = |limit: i64| Value::Uint64(u64::try_from(limit).unwrap_or(INFINITY));
    let v2 = mode == Mode::V2;
    if let Some(rules) = &r.devices {
        devices(rules)
            .into_iter()
            .for_each(|(name, value)| add(&name, value));
    }
    if let Some(limit) = r.memory_limit.filter(|limit| *limit != 0) {
        add(if v2 { "MemoryMax" } else { "MemoryLimit" }, bytes(limit));
    }
    if v2 && let Some(low) = r.memory_reservation.filter(|low| *low != 0) {
        add("MemoryLow", bytes(low));
    }
    if v2 && let Some(swap) = r.memory_swap.filter(|swap| *swap != 0) {
        // OCI's is memory and swap together.
        let swap = match r.memory_limit {
            _ if swap < 0 => -1,
            Some(limit) if limit > 0 => (swap - limit).max(0),
            _ => bail!("unable to set swap limit without memory limit"),
        };
        add("MemorySwapMax", bytes(swap));
    }
    match (r.cpu_idle, r.cpu_shares.filter(|shares| *shares != 0)) {
        (Some(1), _) if v2 => add("CPUWeight", Value::Uint64(0)),
        (_, Some(shares)) if v2 => add("CPUWeight", Value::Uint64(shares_to_weight(shares))),
        (_, Some(shares)) => add("CPUShares", Value::Uint64(shares)),
        _ => {}
    }
    quota(r.cpu_quota_us, r.cpu_period_us)
        .into_iter()
        .for_each(|(name, value)| add(&name, value));
    if let Some(weight) = r.blkio_weight.filter(|weight| *weight != 0) {
        match v2 {
            // runc's curve from 10..1000 to 1..10000.
            true => add(
                "IOWeight",
                Value::Uint64(1 + (u64::from(weight).max(10) - 10) * 9999 / 990),
            ),
            false => add("BlockIOWeight", Value::Uint64(u64::from(weight))),
        }
    }
    if let Some(limit) = r.pids_limit {
        // systemd takes no 0.
        add("TasksMax", bytes(if limit == 0 { 1 } else { limit }));
    }
    for (name, list) in [
        ("AllowedCPUs", &r.cpuset_cpus),
        ("AllowedMemoryNodes", &r.cpuset_mems),
    ] {
        if let Some(list) = list.as_deref().filter(|list| !list.is_empty()) {
            add(name, bits(list)?);
        }
    }
    all.extend(of_unified(&r.unified)?);
    Ok(all)
}

fn quota(quota_us: Option<i64>, period_us: Option<u64>) -> Vec<Property> {
    let period = period_us.filter(|period| *period != 0);
    let quota = quota_us.filter(|quota| *quota != 0);
    let mut all = Vec::new();
    if let Some(period) = period {
        all.push(property("CPUQuotaPeriodUSec", Value::Uint64(period)));
    }
    if quota.is_some() || period.is_some() {
        let per_second = match quota.and_then(|quota| u64::try_from(quota).ok()) {
            None => INFINITY,
            // systemd knows whole percents; rounded up, the group's own limit fits below it.
            Some(quota) => {
                (quota * 1_000_000 / period.unwrap_or(PERIOD_US)).next_multiple_of(10_000)
            }
        };
        all.push(property("CPUQuotaPerSecUSec", Value::Uint64(per_second)));
    }
    all
}

/// `0-2,7` as a mask, the lowest byte first.
fn bits(list: &str) -> Result<Value> {
    let mut set = BTreeSet::new();
    for part in list
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            text.trim()
                .parse::<u32>()
                .with_context(|| format!("understand the list {list:?}"))
        };
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last > 8191 {
            bail!("invalid list {list:?}");
        }
        set.extend(first..=last);
    }
    let Some(highest) = set.last() else {
        bail!("empty list {list:?}");
    };
    let mut mask = vec![0_u8; *highest as usize / 8 + 1];
    set.iter()
        .for_each(|n| mask[*n as usize / 8] |= 1 << (n % 8));
    Ok(Value::Array(
        "y".into(),
        mask.into_iter().map(Value::Byte).collect(),
    ))
}

fn of_unified(unified: &BTreeMap<String, String>) -> Result<Vec<Property>> {
    let mut all = Vec::new();
    for (key, value) in unified {
        let value = value.trim();
        let number = || match value {
            "max" => Ok(INFINITY),
            _ => value
                .parse::<u64>()
                .with_context(|| format!("unified resource {key:?} value conversion error")),
        };
        let limit = |name: &str| Ok::<_, anyhow::Error>(property(name, Value::Uint64(number()?)));
        match key.as_str() {
            "cpu.idle" if value == "1" => all.push(property("CPUWeight", Value::Uint64(0))),
            "cpu.weight" if unified.get("cpu.idle").map(|v| v.trim()) != Some("1") => {
                all.push(limit("CPUWeight")?)
            }
            "cpu.max" => {
                let mut words = value.split_whitespace();
                let parse = |word: Option<&str>| word.and_then(|word| word.parse().ok());
                let max = words.next().filter(|word| *word != "max");
                all.extend(quota(
                    parse(max),
                    parse(words.next()).map(|p| p as u64).or(Some(PERIOD_US)),
                ));
            }
            "cpuset.cpus" => all.push(property("AllowedCPUs", bits(value)?)),
            "cpuset.mems" => all.push(property("AllowedMemoryNodes", bits(value)?)),
            "memory.high" => all.push(limit("MemoryHigh")?),
            "memory.low" => all.push(limit("MemoryLow")?),
            "memory.min" => all.push(limit("MemoryMin")?),
            "memory.max" => all.push(limit("MemoryMax")?),
            "memory.swap.max" => all.push(limit("MemorySwapMax")?),
            "pids.max" => all.push(property("TasksMax", Value::Uint64(number()?.max(1)))),
            "memory.oom.group" if value == "1" => {
                all.push(property("OOMPolicy", Value::text("kill")))
            }
            "memory.oom.group" => all.push(property("OOMPolicy", Value::text("continue"))),
            // The rest stands in the group's files only.
            _ => {}
        }
    }
    Ok(all)
}

/// systemd's own device rules. It knows no refusals, so the last rule for everything decides which list is meant; our
/// own rules stay in force beside them.
fn devices(rules: &[DeviceRule]) -> Vec<Property> {
    let everything = |rule: &DeviceRule| {
        rule.kind == DeviceRuleKind::All && rule.major.is_none() && rule.minor.is_none()
    };
    let last = rules.iter().rposition(everything);
    let after = &rules[last.map_or(0, |last| last + 1)..];
    let allows_all =
        last.is_some_and(|last| rules[last].allow) && after.iter().all(|rule| rule.allow);
    let none = property("DeviceAllow", Value::Array("(ss)".into(), vec![]));
    if allows_all {
        return vec![property("DevicePolicy", Value::text("auto")), none];
    }
    let mut entries = Vec::new();
    for rule in after.iter().filter(|rule| rule.allow) {
        let kinds: &[&str] = match rule.kind {
            DeviceRuleKind::All => &["block", "char"],
            DeviceRuleKind::Block => &["block"],
            DeviceRuleKind::Char => &["char"],
        };
        for kind in kinds {
            let path = match (rule.major, rule.minor) {
                (Some(major), Some(minor)) => format!("/dev/{kind}/{major}:{minor}"),
                (Some(major), None) => format!("{kind}-{major}"),
                (None, None) => format!("{kind}-*"),
                (None, Some(_)) => continue,
            };
            let access = &rule.access;
            let letters = [(access.read, 'r'), (access.write, 'w'), (access.mknod, 'm')];
            let access: String = letters
                .iter()
                .filter(|(on, _)| *on)
                .map(|(_, letter)| *letter)
                .collect();
            entries.push(Value::Struct(vec![Value::text(path), Value::text(access)]));
        }
    }
    vec![
        none,
        property("DevicePolicy", Value::text("strict")),
        property("DeviceAllow", Value::Array("(ss)".into(), entries)),
    ]
}

/// `org.systemd.property.NAME` annotations; `…Sec` becomes `…USec`, as systemd's interface has it.
pub fn of_annotations(annotations: &BTreeMap<String, String>) -> Result<Vec<Property>> {
    let mut all = Vec::new();
    for (key, text) in annotations {
        let Some(name) = key.strip_prefix("org.systemd.property.") else {
            continue;
        };
        if name.len() < 3 {
            bail!("annotation {key} name incorrect: too short");
        }
        if !name.bytes().all(|b| b.is_ascii_alphabetic()) {
            bail!("annotation {key} name incorrect: contains non-alphabetic character");
        }
        let failed = || format!("annotation {key}={text} value parse error");
        let value = variant::parse(text).with_context(failed)?;
        let seconds = name
            .strip_suffix("Sec")
            .filter(|stem| stem.ends_with(|c: char| c.is_ascii_lowercase()));
        all.push(match seconds {
            None => property(name, value),
            Some(stem) => property(
                &format!("{stem}USec"),
                to_micros(&value).with_context(failed)?,
            ),
        });
    }
    Ok(all)
}

fn to_micros(value: &Value) -> Result<Value> {
    let seconds = match value {
        Value::Byte(n) => u64::from(*n),
        Value::Int16(n) => u64::try_from(*n)?,
        Value::Uint16(n) => u64::from(*n),
        Value::Int32(n) => u64::try_from(*n)?,
        Value::Uint32(n) => u64::from(*n),
        Value::Int64(n) => u64::try_from(*n)?,
        Value::Uint64(n) => *n,
        Value::Double(n) if *n >= 0.0 => return Ok(Value::Uint64((n * 1e6) as u64)),
        _ => bail!("not a number"),
    };
    Ok(Value::Uint64(seconds.saturating_mul(1_000_000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_properties() {
        let wanted = Resources {
            memory_limit: Some(1 << 20),
            memory_swap: Some(3 << 20),
            cpu_shares: Some(1024),
            cpu_quota_us: Some(12_345),
            cpu_period_us: Some(50_000),
            pids_limit: Some(0),
            cpuset_cpus: Some("0-1,9".into()),
            ..Resources::default()
        };
        let v2 = of_resources(&wanted, Mode::V2).unwrap();
        let expect = [
            ("MemoryMax", Value::Uint64(1 << 20)),
            ("MemorySwapMax", Value::Uint64(2 << 20)),
            ("CPUWeight", Value::Uint64(100)),
            ("CPUQuotaPeriodUSec", Value::Uint64(50_000)),
            ("CPUQuotaPerSecUSec", Value::Uint64(250_000)),
            ("TasksMax", Value::Uint64(1)),
            (
                "AllowedCPUs",
                Value::Array("y".into(), vec![Value::Byte(3), Value::Byte(2)]),
            ),
        ];
        assert_eq!(v2, expect.map(|(name, value)| (name.to_owned(), value)));
        let v1 = of_resources(&wanted, Mode::Hybrid).unwrap();
        assert!(
            v1.contains(&property("CPUShares", Value::Uint64(1024))),
            "{v1:?}"
        );
        assert!(
            v1.contains(&property("MemoryLimit", Value::Uint64(1 << 20))),
            "{v1:?}"
        );
    }

    #[test]
    fn no_limit_is_infinity() {
        let wanted = Resources {
            memory_limit: Some(-1),
            cpu_quota_us: Some(-1),
            pids_limit: Some(-1),
            ..Resources::default()
        };
        let all = of_resources(&wanted, Mode::V2).unwrap();
        assert!(
            all.iter()
                .all(|(_, value)| *value == Value::Uint64(u64::MAX)),
            "{all:?}"
        );
        assert_eq!(all.len(), 3);
    }

    #[test]
    fn device_rules_become_a_list_of_what_is_allowed() {
        let default = devices(&Resources::default_devices());
        assert_eq!(default[1], property("DevicePolicy", Value::text("strict")));
        let Value::Array(_, entries) = &default[2].1 else {
            panic!("{default:?}")
        };
        let pair =
            |path: &str, access: &str| Value::Struct(vec![Value::text(path), Value::text(access)]);
        for entry in [
            pair("char-*", "m"),
            pair("/dev/char/1:3", "rwm"),
            pair("char-136", "rwm"),
        ] {
            assert!(entries.contains(&entry), "{entries:?}");
        }
        let all = DeviceRule {
            allow: true,
            kind: DeviceRuleKind::All,
            major: None,
            minor: None,
            access: kernelet_spec::DeviceAccess::ALL,
        };
        assert_eq!(
            devices(&[all])[0],
            property("DevicePolicy", Value::text("auto"))
        );
    }

    #[test]
    fn annotations_become_properties() {
        let of = |key: &str, value: &str| {
            let one = BTreeMap::from([(format!("org.systemd.property.{key}"), value.to_owned())]);
            of_annotations(&one).map_err(|e| format!("{e:#}"))
        };
        assert_eq!(
            of("TimeoutStopSec", "123").unwrap(),
            [property("TimeoutStopUSec", Value::Uint64(123_000_000))]
        );
        assert_eq!(
            of("CollectMode", "'inactive-or-failed'").unwrap(),
            [property("CollectMode", Value::text("inactive-or-failed"))]
        );
        assert!(
            of("a1", "1")
                .unwrap_err()
                .ends_with("name incorrect: too short")
        );
        assert!(
            of("a.b.c", "1")
                .unwrap_err()
                .ends_with("contains non-alphabetic character")
        );
        assert!(
            of("TimeoutStopSec", "'covfefe'")
                .unwrap_err()
                .ends_with("not a number")
        );
    }

    #[test]
    fn unified_keys_become_properties() {
        let one = |key: &str, value: &str| {
            of_unified(&BTreeMap::from([(key.to_owned(), value.to_owned())])).unwrap()
        };
        assert_eq!(
            one("memory.max", "max"),
            [property("MemoryMax", Value::Uint64(u64::MAX))]
        );
        assert_eq!(
            one("pids.max", "77"),
            [property("TasksMax", Value::Uint64(77))]
        );
        assert_eq!(
            one("cpu.max", "50000 100000").last(),
            Some(&property("CPUQuotaPerSecUSec", Value::Uint64(500_000)))
        );
        assert_eq!(one("hugetlb.2MB.max", "1"), []);
    }
}
