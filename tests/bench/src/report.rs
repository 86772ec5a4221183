//! The rows, as a Markdown table that the README can carry.

use std::fmt;

#[derive(Default)]
pub struct Report {
    rows: Vec<[String; 3]>,
}

impl Report {
    /// One figure beside its budget or peer.
    pub fn row(&mut self, what: &str, figure: impl fmt::Display, beside: &str) {
        eprintln!("  {what}: {figure} ({beside})");
        self.rows
            .push([what.into(), figure.to_string(), beside.into()]);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| what | measured | budget or peer |\n|---|---|---|")?;
        self.rows
            .iter()
            .try_for_each(|[what, figure, beside]| writeln!(f, "| {what} | {figure} | {beside} |"))
    }
}
