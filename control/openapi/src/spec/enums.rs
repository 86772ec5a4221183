//! The values that a field may have, where upstream declares them (`+enum`), and what each means.
//!
//! They are facts and texts of upstream's OpenAPI documents: `facts/values.txt`, whose rows of served types the build
//! script packs beside the descriptions.

use std::collections::HashMap;

/// A value and what it means; the meaning is empty where upstream says none.
pub(super) type Meaning = (String, String);

pub(super) struct Values<'t> {
    /// By type, without its package's front, and field; `[]` after a field whose items are meant.
    rows: HashMap<&'t str, HashMap<&'t str, Vec<Meaning>>>,
}

impl<'t> Values<'t> {
    /// Reads the table: a line `type field,type field,…`, then for each value in upstream's order a line
    /// `\tvalue\tmeaning`.
    pub(super) fn parse(text: &'t str) -> Self {
        let mut rows: HashMap<_, HashMap<_, Vec<Meaning>>> = HashMap::new();
        let mut fields: Vec<(&str, &str)> = Vec::new();
        for line in text.lines() {
            match line.strip_prefix('\t') {
                None => {
                    fields = line
                        .split(',')
                        .filter_map(|at| at.split_once(' '))
                        .collect()
                }
                Some(row) => {
                    let (value, meaning) = row.split_once('\t').unwrap_or((row, ""));
                    for (ty, field) in &fields {
                        let of_type = rows.entry(*ty).or_default();
                        let row = (value.to_owned(), meaning.to_owned());
                        of_type.entry(*field).or_default().push(row);
                    }
                }
            }
        }
        Self { rows }
    }

    /// The values of the field `field` of the type with that full name; empty for a field that may have any. For a
    /// list's items, `field` ends in `[]`.
    pub(super) fn of(&self, ty: &str, field: &str) -> &[Meaning] {
        ty.strip_prefix("io.k8s.api.")
            .and_then(|ty| self.rows.get(ty)?.get(field))
            .map_or(&[], Vec::as_slice)
    }
}

/// What upstream adds to the description of such a field.
pub(super) fn described(description: &str, values: &[Meaning]) -> String {
    let mut text = format!("{description}\n\nPossible enum values:");
    for (value, meaning) in values {
        text.push_str(&format!("\n - `\"{value}\"`"));
        if !meaning.is_empty() {
            text.push(' ');
            text.push_str(meaning);
        }
    }
    text
}

/// The values alone.
pub(super) fn names(values: &[Meaning]) -> Vec<&str> {
    values.iter().map(|(value, _)| value.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::descriptions::Descriptions;
    use kernelet_api::Schema;

    #[test]
    fn every_row_of_a_served_type_is_a_field_of_the_schema() {
        let (schema, packed) = (Schema::builtin(), Descriptions::load());
        let values = packed.values();
        let mut known = 0;
        for (ty, fields) in &values.rows {
            let Some(id) = schema.by_name(&format!("io.k8s.api.{ty}")) else {
                continue;
            };
            for field in fields.keys() {
                let name = field.trim_end_matches("[]");
                assert!(schema.get(id).field(name).is_some(), "{ty} {field}");
                known += 1;
            }
        }
        assert!(known > 40, "{known}");
    }

    #[test]
    fn values_are_read_back_with_what_they_mean() {
        let packed = Descriptions::load();
        let values = packed.values();
        let of = |ty: &str, field: &str| values.of(&format!("io.k8s.api.{ty}"), field).to_vec();
        assert_eq!(
            names(&of("core.v1.PodSpec", "restartPolicy")),
            ["Always", "Never", "OnFailure"]
        );
        assert_eq!(
            names(&of("core.v1.ServiceSpec", "ipFamilies[]")),
            ["", "IPv4", "IPv6"]
        );
        assert_eq!(
            of("certificates.v1.CertificateSigningRequestSpec", "usages[]")[1].0,
            "cert sign"
        );
        assert_eq!(of("core.v1.Lifecycle", "stopSignal").len(), 65);
        assert!(of("core.v1.PodSpec", "nodeName").is_empty());
        assert_eq!(
            described("Which.", &of("core.v1.ServicePort", "protocol")),
            "Which.\n\nPossible enum values:\n - `\"SCTP\"` is the SCTP protocol.\n \
             - `\"TCP\"` is the TCP protocol.\n - `\"UDP\"` is the UDP protocol."
        );
    }
}
