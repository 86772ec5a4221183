//! Prometheus' text format 0.0.4: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::fmt::Write;

/// Names and values, in the order in which they are written.
pub(crate) type Labels<'a> = &'a [(&'a str, &'a str)];

/// A page that is being written.
#[derive(Debug, Default)]
pub(crate) struct Text(String);

impl Text {
    /// Opens a family; its samples follow.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub fn sample(&mut self, name: &str, labels: Labels<'_>, value: f64) {
        self.sample_at(name, labels, value, None);
    }

    /// `at`: when it was measured, in milliseconds since 1970.
    pub fn sample_at(&mut self, name: &str, labels: Labels<'_>, value: f64, at: Option<i64>) {
        self.0.push_str(name);
        for (i, (key, value)) in labels.iter().enumerate() {
            let open = if i == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{open}{key}=\"");
            for letter in value.chars() {
                match letter {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    other => self.0.push(other),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = match at {
            Some(at) => writeln!(self.0, " {value} {at}"),
            None => writeln!(self.0, " {value}"),
        };
    }

    /// A family of one sample without labels.
    pub fn one(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    pub fn finish(self) -> String {
        self.0
    }
}

/// Values are doubles in the format.
#[expect(clippy::cast_precision_loss, reason = "Prometheus' values are doubles")]
pub(crate) fn float(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_quoted_and_times_come_last() {
        let mut text = Text::default();
        text.family("a_total", "counter", "What.");
        text.sample_at("a_total", &[("x", "q\"\\\n"), ("y", "")], 1.5, Some(7000));
        text.sample("a_total", &[], 2e9);
        assert_eq!(
            text.finish(),
            "# HELP a_total What.\n# TYPE a_total counter\na_total{x=\"q\\\"\\\\\\n\",y=\"\"} 1.5 7000\na_total 2000000000\n"
        );
    }
}
