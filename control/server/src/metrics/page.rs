//! OpenMetrics' text as Prometheus' older format (0.0.4), which every reader knows.
//!
//! They differ in little: a counter's family carries `_total` in its name, and there is no end mark.

/// `open` in the older format.
pub fn text(open: &str) -> String {
    let counters: Vec<&str> = open
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(open.len());
    for line in open.lines() {
        let comment = ["# HELP ", "# TYPE "]
            .iter()
            .find_map(|start| Some((*start, line.strip_prefix(start)?)));
        match comment {
            Some((start, rest)) => {
                let (name, said) = rest.split_once(' ').unwrap_or((rest, ""));
                let total = if counters.contains(&name) {
                    "_total"
                } else {
                    ""
                };
                text.push_str(start);
                text.push_str(name);
                text.push_str(total);
                text.push(' ');
                text.push_str(said);
            }
            None if line == "# EOF" || line.starts_with("# UNIT ") => continue,
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_renamed_and_nothing_else() {
        let open = "# HELP a_b What.\n# TYPE a_b counter\na_b_total{x=\"# HELP a_b\"} 1\n# HELP c Level.\n# TYPE c gauge\n# UNIT c bytes\nc 2\n# EOF\n";
        let expect = "# HELP a_b_total What.\n# TYPE a_b_total counter\na_b_total{x=\"# HELP a_b\"} 1\n# HELP c Level.\n# TYPE c gauge\nc 2\n";
        assert_eq!(text(open), expect);
    }
}
