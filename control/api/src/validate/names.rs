//! What names, labels, ports and addresses look like; each check answers upstream's messages, none when all is well.

use std::net::IpAddr;

pub type Messages = Vec<String>;

fn regex_error(what: &str, pattern: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!(
        "{what} (e.g. {}regex used for validation is '{pattern}')",
        examples.join(" or ")
    )
}

pub fn max_len(n: usize) -> String {
    format!("must be no more than {n} characters")
}

pub fn range(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

fn lower_or_digit(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn label_shape(text: &str) -> bool {
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(a), Some(z)) if lower_or_digit(*a) && lower_or_digit(*z))
        && bytes.iter().all(|b| lower_or_digit(*b) || *b == b'-')
}

fn subdomain_shape(text: &str) -> bool {
    text.split('.').all(label_shape)
}

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";

/// RFC 1123 label: namespaces, containers, volumes.
pub fn dns_label(text: &str) -> Messages {
    let mut out = vec![];
    if text.len() > 63 {
        out.push(max_len(63));
    }
    if !label_shape(text) {
        out.push(if subdomain_shape(text) {
            "must not contain dots".to_owned()
        } else {
            regex_error(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                LABEL,
                &["my-name", "123-abc"],
            )
        });
    }
    out
}

/// RFC 1123 subdomain: most names.
pub fn dns_subdomain(text: &str) -> Messages {
    let mut out = vec![];
    if text.len() > 253 {
        out.push(max_len(253));
    }
    if !subdomain_shape(text) {
        out.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            &format!("{LABEL}(\\.{LABEL})*"),
            &["example.com"],
        ));
    }
    out
}

/// A search path of a resolver.
pub fn dns_subdomain_with_underscore(text: &str) -> Messages {
    const PART: &str = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
    let part_shape = |part: &str| {
        let bytes = part.strip_prefix('_').unwrap_or(part).as_bytes();
        matches!((bytes.first(), bytes.last()), (Some(a), Some(z)) if lower_or_digit(*a) && lower_or_digit(*z))
            && bytes
                .iter()
                .all(|b| lower_or_digit(*b) || b"-_".contains(b))
    };
    let mut out = vec![];
    if text.len() > 253 {
        out.push(max_len(253));
    }
    if !text.split('.').all(part_shape) {
        out.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character",
            &format!("{PART}(\\.{PART})*"),
            &["example.com"],
        ));
    }
    out
}

/// RFC 1035 label: Services.
pub fn dns_1035_label(text: &str) -> Messages {
    let mut out = vec![];
    if text.len() > 63 {
        out.push(max_len(63));
    }
    if !label_shape(text) || !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        out.push(regex_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    out
}

fn label_name_shape(text: &str) -> bool {
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(a), Some(z)) if a.is_ascii_alphanumeric() && z.is_ascii_alphanumeric())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

const LABEL_NAME: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_NAME_TEXT: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const LABEL_NAME_EXAMPLES: &[&str] = &["MyName", "my.name", "123-abc"];

/// A label's key, also of annotations, finalizers and resources: `[prefix/]name`.
pub fn qualified_name(text: &str) -> Messages {
    let mut out = vec![];
    let mut parts = text.split('/');
    let name = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => name,
        (Some(prefix), Some(name), None) => {
            if prefix.is_empty() {
                out.push("prefix part must be non-empty".to_owned());
            } else {
                out.extend(
                    dns_subdomain(prefix)
                        .into_iter()
                        .map(|m| format!("prefix part {m}")),
                );
            }
            name
        }
        _ => {
            let shape = regex_error(LABEL_NAME_TEXT, LABEL_NAME, LABEL_NAME_EXAMPLES);
            return vec![format!(
                "a valid label key {shape} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        out.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        out.push(format!("name part {}", max_len(63)));
    }
    if !label_name_shape(name) {
        out.push(format!(
            "name part {}",
            regex_error(LABEL_NAME_TEXT, LABEL_NAME, LABEL_NAME_EXAMPLES)
        ));
    }
    out
}

pub fn label_value(text: &str) -> Messages {
    let mut out = vec![];
    if text.len() > 63 {
        out.push(max_len(63));
    }
    if !text.is_empty() && !label_name_shape(text) {
        out.push(regex_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            &format!("({LABEL_NAME})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    out
}

/// A name that stands in a path as one segment: RBAC.
pub fn path_segment(text: &str) -> Messages {
    if text == "." || text == ".." {
        return vec![format!("may not be '{text}'")];
    }
    ["/", "%"]
        .iter()
        .filter(|c| text.contains(**c))
        .map(|c| format!("may not contain '{c}'"))
        .collect()
}

/// A container port's name (IANA_SVC_NAME).
pub fn port_name(text: &str) -> Messages {
    let mut out = vec![];
    if text.len() > 15 {
        out.push(max_len(15));
    }
    if text.is_empty() || !text.bytes().all(|b| lower_or_digit(b) || b == b'-') {
        out.push(
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned(),
        );
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        out.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        out.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        out.push("must not begin or end with a hyphen".to_owned());
    }
    out
}

pub fn port_number(port: i64) -> Messages {
    if (1..=65535).contains(&port) {
        vec![]
    } else {
        vec![range(1, 65535)]
    }
}

fn no_change_of_folder(text: &str) -> Option<String> {
    match text {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        _ if text.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

/// A key of a ConfigMap or Secret.
pub fn config_key(text: &str) -> Messages {
    let mut out = vec![];
    if text.len() > 253 {
        out.push(max_len(253));
    }
    if text.is_empty()
        || !text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    {
        out.push(regex_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    out.extend(no_change_of_folder(text));
    out
}

/// An environment variable: any printable ASCII but `=` (since 1.34).
pub fn env_name(text: &str) -> Messages {
    if text.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if text
        .bytes()
        .all(|b| (b' '..=b'~').contains(&b) && b != b'=')
    {
        return vec![];
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned()]
}

pub fn http_header(text: &str) -> Messages {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return vec![];
    }
    vec![regex_error(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

/// `25%`.
pub fn percent(text: &str) -> Messages {
    let digits = text.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return vec![];
    }
    vec![regex_error(
        "a valid percent string must be a numeric string followed by an ending '%'",
        "[0-9]+%",
        &["1%", "93%"],
    )]
}

/// An address as old fields have it: leading zeros are tolerated by upstream there, not here.
pub fn ip(text: &str) -> Messages {
    match text.parse::<IpAddr>() {
        Ok(_) => vec![],
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

/// An address in its canonical form.
pub fn canonical_ip(text: &str) -> Messages {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            vec!["must not be an IPv4-mapped IPv6 address".to_owned()]
        }
        Ok(ip) if ip.to_string() != text => {
            vec![format!("must be in canonical form ({:?})", ip.to_string())]
        }
        _ => ip(text),
    }
}

/// The address and prefix length.
pub fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (ip, bits) = text.split_once('/')?;
    let (ip, bits): (IpAddr, u8) = (ip.parse().ok()?, bits.parse().ok()?);
    (bits <= if ip.is_ipv4() { 32 } else { 128 }).then_some((ip, bits))
}

pub fn cidr(text: &str) -> Messages {
    match parse_cidr(text) {
        Some(_) => vec![],
        None => vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()],
    }
}

/// A name that gets a suffix must not fail for the dash before it.
pub fn mask_trailing_dash(prefix: &str) -> String {
    match prefix.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => {
            let mut kept: String = rest.chars().take(rest.chars().count() - 1).collect();
            kept.push('a');
            kept
        }
        _ => prefix.to_owned(),
    }
}
