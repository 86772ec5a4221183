//! Label and field selectors: the query-string syntax, the object form, and matching.

use crate::{
    FieldError, Value,
    field::Path,
    validate::{self, names},
};
use serde_json::Map;
use std::fmt;

/// A conjunction of requirements on labels. Empty matches everything.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LabelSelector {
    pub requirements: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// A selector that can't be parsed; upstream's message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

impl LabelSelector {
    /// Parses the query-string syntax: `a=b,c!=d,e in (f,g),!h`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        Parser {
            tokens: tokens(text),
            at: 0,
        }
        .selector()
        .map_err(SelectorError)
    }

    /// From the object form (`matchLabels`, `matchExpressions`). `None` or null selects nothing and answers `None`;
    /// `{}` selects everything.
    pub fn from_object(selector: Option<&Value>) -> Result<Option<Self>, SelectorError> {
        let Some(selector) = selector.filter(|s| !s.is_null()) else {
            return Ok(None);
        };
        let labels = selector.get("matchLabels").and_then(Value::as_object);
        let mut requirements = labels.map(Self::from_map).unwrap_or_default().requirements;
        for expression in selector
            .get("matchExpressions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let text = |key: &str| {
                expression
                    .get(key)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            };
            let operator = match text("operator").as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(SelectorError(format!(
                        "{other:?} is not a valid label selector operator"
                    )));
                }
            };
            let values = expression
                .get("values")
                .and_then(Value::as_array)
                .into_iter()
                .flatten();
            let values = values
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            requirements.push(Requirement {
                key: text("key"),
                operator,
                values,
            });
        }
        Ok(Some(Self { requirements }))
    }

    /// From a plain map (`spec.selector` of a Service).
    pub fn from_map(map: &Map<String, Value>) -> Self {
        let requirement = |(key, value): (&String, &Value)| Requirement {
            key: key.clone(),
            operator: Operator::In,
            values: vec![value.as_str().unwrap_or_default().to_owned()],
        };
        Self {
            requirements: map.iter().map(requirement).collect(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether a `metadata.labels` map satisfies every requirement.
    pub fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        self.matches_with(|key| labels.and_then(|l| l.get(key)).and_then(Value::as_str))
    }

    /// The same over any source of labels.
    pub fn matches_with<'a>(&self, lookup: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|r| r.matches(lookup(&r.key)))
    }
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|v| v == value);
        match (self.operator, value) {
            (Operator::In, value) => value.is_some_and(listed),
            (Operator::NotIn, value) => !value.is_some_and(listed),
            (Operator::Exists, value) => value.is_some(),
            (Operator::DoesNotExist, value) => value.is_none(),
            (Operator::GreaterThan | Operator::LessThan, None) => false,
            (operator, Some(value)) => {
                let bound = match self.values.as_slice() {
                    [one] => one.parse::<i64>(),
                    _ => return false,
                };
                match (value.parse::<i64>(), bound) {
                    (Ok(value), Ok(bound)) if operator == Operator::GreaterThan => value > bound,
                    (Ok(value), Ok(bound)) => value < bound,
                    _ => false,
                }
            }
        }
    }

    /// Upstream's checks of a parsed requirement.
    fn check(self) -> Result<Self, String> {
        let mut errors = vec![];
        for message in names::qualified_name(&self.key) {
            errors.push(FieldError::invalid("key", self.key.as_str(), message));
        }
        for (i, value) in self.values.iter().enumerate() {
            if matches!(self.operator, Operator::GreaterThan | Operator::LessThan)
                && value.parse::<i64>().is_err()
            {
                let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
                errors.push(FieldError::invalid(
                    format!("values[{i}]"),
                    value.as_str(),
                    detail,
                ));
            }
            for message in names::label_value(value) {
                errors.push(FieldError::invalid(
                    format!("values[{i}][{}]", self.key),
                    value.as_str(),
                    message,
                ));
            }
        }
        match errors.as_slice() {
            [] => Ok(self),
            [one] => Err(one.to_string()),
            many => Err(format!(
                "[{}]",
                many.iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(", ")
            )),
        }
    }
}

/// The query-string syntax, as continue tokens and log lines carry it.
impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            let (key, values) = (&r.key, r.values.join(","));
            match r.operator {
                Operator::In if r.values.len() == 1 => write!(f, "{key}={values}")?,
                Operator::In => write!(f, "{key} in ({values})")?,
                Operator::NotIn if r.values.len() == 1 => write!(f, "{key}!={values}")?,
                Operator::NotIn => write!(f, "{key} notin ({values})")?,
                Operator::Exists => write!(f, "{key}")?,
                Operator::DoesNotExist => write!(f, "!{key}")?,
                Operator::GreaterThan => write!(f, "{key}>{values}")?,
                Operator::LessThan => write!(f, "{key}<{values}")?,
            }
        }
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Symbol(&'static str),
    End,
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Token::Word(text) => text,
            Token::Symbol(text) => text,
            Token::End => "",
        }
    }
}

const SYMBOLS: [&str; 9] = ["==", "!=", "=", "!", "<", ">", "(", ")", ","];

fn tokens(text: &str) -> Vec<Token> {
    let mut out = vec![];
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        if rest.is_empty() {
            out.push(Token::End);
            return out;
        }
        if let Some(symbol) = SYMBOLS.iter().find(|s| rest.starts_with(**s)) {
            out.push(Token::Symbol(symbol));
            rest = &rest[symbol.len()..];
            continue;
        }
        let end = rest
            .find([' ', '\t', '\r', '\n', '=', '!', '<', '>', '(', ')', ','])
            .unwrap_or(rest.len());
        out.push(Token::Word(rest[..end].to_owned()));
        rest = &rest[end..];
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn selector(mut self) -> Result<LabelSelector, String> {
        let mut requirements = vec![];
        loop {
            match self.peek() {
                Token::Word(_) | Token::Symbol("!") => {
                    let requirement = self
                        .requirement()
                        .map_err(|why| format!("unable to parse requirement: {why}"))?;
                    requirements.push(requirement);
                    match self.next() {
                        Token::End => return Ok(LabelSelector { requirements }),
                        Token::Symbol(",") => {
                            let after = self.peek();
                            if !matches!(after, Token::Word(_) | Token::Symbol("!")) {
                                return Err(format!(
                                    "found '{}', expected: identifier after ','",
                                    after.text()
                                ));
                            }
                        }
                        other => {
                            return Err(format!(
                                "found '{}', expected: ',' or 'end of string'",
                                other.text()
                            ));
                        }
                    }
                }
                Token::End => return Ok(LabelSelector { requirements }),
                other => {
                    return Err(format!(
                        "found '{}', expected: !, identifier, or 'end of string'",
                        other.text()
                    ));
                }
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let absent = *self.peek() == Token::Symbol("!");
        if absent {
            self.next();
        }
        let key = match self.next() {
            Token::Word(key) => key,
            other => return Err(format!("found '{}', expected: identifier", other.text())),
        };
        if absent {
            return Requirement {
                key,
                operator: Operator::DoesNotExist,
                values: vec![],
            }
            .check();
        }
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return Requirement {
                key,
                operator: Operator::Exists,
                values: vec![],
            }
            .check();
        }
        let operator = self.next();
        let (operator, many) = match (&operator, operator.text()) {
            (Token::Symbol(_), "=" | "==") => (Operator::In, false),
            (Token::Symbol(_), "!=") => (Operator::NotIn, false),
            (Token::Symbol(_), ">") => (Operator::GreaterThan, false),
            (Token::Symbol(_), "<") => (Operator::LessThan, false),
            (Token::Word(_), "in") => (Operator::In, true),
            (Token::Word(_), "notin") => (Operator::NotIn, true),
            (_, text) => {
                return Err(format!(
                    "found '{text}', expected: in, notin, =, ==, !=, gt, lt"
                ));
            }
        };
        let values = if many {
            self.values()?
        } else {
            vec![self.exact_value()?]
        };
        Requirement {
            key,
            operator,
            values,
        }
        .check()
    }

    /// The value after `=`; nothing means the empty text.
    fn exact_value(&mut self) -> Result<String, String> {
        match self.peek() {
            Token::End | Token::Symbol(",") => Ok(String::new()),
            Token::Word(_) => Ok(self.next().text().to_owned()),
            other => Err(format!("found '{}', expected: identifier", other.text())),
        }
    }

    /// `(a,b)`, sorted and without repetitions.
    fn values(&mut self) -> Result<Vec<String>, String> {
        let open = self.next();
        if open != Token::Symbol("(") {
            return Err(format!("found '{}' expected: '('", open.text()));
        }
        let mut values = vec![];
        loop {
            match self.next() {
                Token::Word(value) => {
                    values.push(value);
                    match self.next() {
                        Token::Symbol(",") => {}
                        Token::Symbol(")") => break,
                        other => {
                            return Err(format!("found '{}', expected: ',' or ')'", other.text()));
                        }
                    }
                }
                // An empty text between commas.
                Token::Symbol(",") => values.push(String::new()),
                Token::Symbol(")") => {
                    values.push(String::new());
                    break;
                }
                other => {
                    return Err(format!(
                        "found '{}', expected: ',', ')' or identifier",
                        other.text()
                    ));
                }
            }
        }
        values.sort();
        values.dedup();
        Ok(values)
    }
}

/// A conjunction of `path=value` and `path!=value`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct FieldSelector {
    pub terms: Vec<FieldTerm>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    pub path: String,
    pub equal: bool,
    pub value: String,
}

impl FieldSelector {
    /// Parses `spec.nodeName=a,status.phase!=Running`, with `\` escaping `\`, `,` and `=`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut terms = vec![];
        for part in split_unescaped(text) {
            if part.is_empty() {
                continue;
            }
            let refuse = || {
                SelectorError(format!(
                    "invalid selector: '{text}'; can't understand '{part}'"
                ))
            };
            let (path, equal, value) = split_term(part).ok_or_else(refuse)?;
            terms.push(FieldTerm {
                path: path.to_owned(),
                equal,
                value: unescape(value).ok_or_else(refuse)?,
            });
        }
        Ok(Self { terms })
    }

    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether a set of fields (as [`crate::Resource::selectable`] gives it) satisfies every term. A field that is
    /// not in it never satisfies one.
    pub fn matches(&self, lookup: impl Fn(&str) -> Option<String>) -> bool {
        self.terms.iter().all(|t| match lookup(&t.path) {
            Some(value) => (value == t.value) == t.equal,
            None => false,
        })
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (vec![], 0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn split_term(part: &str) -> Option<(&str, bool, &str)> {
    for (i, _) in part.char_indices() {
        let rest = &part[i..];
        for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = rest.strip_prefix(operator) {
                return Some((&part[..i], equal, value));
            }
        }
    }
    None
}

/// `None` for a stray escape or an unescaped `,` or `=`.
fn unescape(value: &str) -> Option<String> {
    let mut out = String::new();
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                _ => return None,
            },
            ',' | '=' => return None,
            _ => out.push(c),
        }
    }
    Some(out)
}

/// Validates the object form under `path`.
pub fn validate_object(selector: &Value, path: &Path) -> Vec<FieldError> {
    validate::label_selector(selector, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(selector: &str, labels: Value, expect: bool) {
        let parsed = LabelSelector::parse(selector).unwrap_or_else(|e| panic!("{selector}: {e}"));
        assert_eq!(
            parsed.matches(labels.as_object()),
            expect,
            "{selector} on {labels}"
        );
        let again = LabelSelector::parse(&parsed.to_string()).unwrap();
        assert_eq!(
            again.matches(labels.as_object()),
            expect,
            "{selector} printed as {parsed}"
        );
    }

    #[test]
    fn label_selectors_match_as_upstreams_do() {
        let labels = json!({"app": "web", "tier": "1", "empty": ""});
        for (selector, expect) in [
            ("", true),
            ("app", true),
            ("!app", false),
            ("app=web", true),
            ("app==web", true),
            ("app!=web", false),
            ("other!=web", true),
            ("app in (web,db)", true),
            ("app notin (web)", false),
            ("x notin (web)", true),
            ("tier>0", true),
            ("tier<1", false),
            ("app>0", false),
            ("app=web,tier=1", true),
            ("app=web,!tier", false),
            ("empty=", true),
            ("empty", true),
            ("app in (,)", false),
            ("empty in (,a)", true),
            ("x", false),
            ("!x", true),
            (" app = web , tier ", true),
            ("example.com/a!=b", true),
        ] {
            check(selector, labels.clone(), expect);
        }
    }

    #[test]
    fn malformed_label_selectors_are_told_in_upstreams_words() {
        for (selector, expect) in [
            ("app=web,", "found '', expected: identifier after ','"),
            (
                "=a",
                "found '=', expected: !, identifier, or 'end of string'",
            ),
            (
                "a in b",
                "unable to parse requirement: found 'b' expected: '('",
            ),
            (
                "a b",
                "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
            ),
            (
                "a>b",
                "unable to parse requirement: values[0]: Invalid value: \"b\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
        ] {
            assert_eq!(
                LabelSelector::parse(selector).unwrap_err().0,
                expect,
                "{selector}"
            );
        }
        assert!(LabelSelector::parse("_a=b").unwrap_err().0.starts_with(
            "unable to parse requirement: key: Invalid value: \"_a\": name part must consist"
        ));
    }

    #[test]
    fn the_object_form_selects_nothing_when_absent_and_everything_when_empty() {
        assert_eq!(LabelSelector::from_object(None), Ok(None));
        assert!(
            LabelSelector::from_object(Some(&json!({})))
                .unwrap()
                .unwrap()
                .matches(None)
        );
        let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "NotIn", "values": ["d"]}]});
        let selector = LabelSelector::from_object(Some(&selector))
            .unwrap()
            .unwrap();
        assert!(selector.matches(json!({"a": "b"}).as_object()));
        assert!(!selector.matches(json!({"a": "b", "c": "d"}).as_object()));
    }

    #[test]
    fn field_selectors_unescape_and_never_match_absent_fields() {
        let selector = FieldSelector::parse(r"a=x\,y,b!=z").unwrap();
        assert!(selector.matches(|p| Some(if p == "a" { "x,y" } else { "q" }.to_owned())));
        assert!(!selector.matches(|p| (p == "a").then(|| "x,y".to_owned())));
        assert_eq!(
            FieldSelector::parse("a").unwrap_err().0,
            "invalid selector: 'a'; can't understand 'a'"
        );
        assert!(FieldSelector::parse("").unwrap().is_empty());
    }
}
