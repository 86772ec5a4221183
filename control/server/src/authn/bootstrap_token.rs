//! Bootstrap tokens: `<id>.<secret>`, kept as Secrets of the type `bootstrap.kubernetes.io/token` in `kube-system`.
//!
//! A machine that joins shows one to ask for its first certificate; it is `system:bootstrap:<id>` in
//! `system:bootstrappers` and whatever further groups of that prefix the Secret names.

use base64::{Engine, engine::general_purpose::STANDARD};
use kernelet_api::Value;

use super::same_secret;
use crate::{cache::ResourceCache, user::UserInfo};

pub const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
pub const NAME_PREFIX: &str = "bootstrap-token-";
const GROUP: &str = "system:bootstrappers";
const USER_PREFIX: &str = "system:bootstrap:";

/// `(id, secret)` of a token: `[a-z0-9]{6}.[a-z0-9]{16}`.
pub fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str, length: usize| {
        text.len() == length
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    (plain(id, 6) && plain(secret, 16)).then_some((id, secret))
}

/// The identity of whoever shows this token, if it is good.
pub fn authenticate(secrets: &ResourceCache, id: &str, secret: &str) -> Option<UserInfo> {
    let found = secrets.get(&format!("kube-system/{NAME_PREFIX}{id}"))?;
    if found.index.deleting {
        return None;
    }
    let user = judge(&found.tree(), id, secret, jiff::Timestamp::now());
    if let Err(why) = &user {
        tracing::debug!(id, why, "a bootstrap token is refused");
    }
    user.ok()
}

/// A value of the Secret, as text; empty where there is none.
pub fn datum(secret: &Value, key: &str) -> String {
    secret
        .get("data")
        .and_then(|data| data.get(key))
        .and_then(Value::as_str)
        .and_then(|text| STANDARD.decode(text).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .unwrap_or_default()
}

fn judge(
    object: &Value,
    id: &str,
    secret: &str,
    now: jiff::Timestamp,
) -> Result<UserInfo, &'static str> {
    if object.get("type").and_then(Value::as_str) != Some(SECRET_TYPE) {
        return Err("the Secret has another type");
    }
    if !same_secret(datum(object, "token-secret").as_bytes(), secret.as_bytes()) {
        return Err("token-secret differs");
    }
    if datum(object, "token-id") != id {
        return Err("token-id differs");
    }
    let expiration = datum(object, "expiration");
    // What can't be read has expired.
    if !expiration.is_empty()
        && expiration
            .parse::<jiff::Timestamp>()
            .map_or(true, |end| end <= now)
    {
        return Err("it has expired");
    }
    if datum(object, "usage-bootstrap-authentication") != "true" {
        return Err("it isn't for authentication");
    }
    let mut groups = vec![GROUP.to_owned()];
    let extra = datum(object, "auth-extra-groups");
    for group in extra.split(',').filter(|_| !extra.is_empty()) {
        if !is_group(group) {
            return Err("a group is malformed");
        }
        if !groups.iter().any(|known| known == group) {
            groups.push(group.to_owned());
        }
    }
    groups.sort();
    Ok(UserInfo::new(format!("{USER_PREFIX}{id}"), groups))
}

/// `system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]`
fn is_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else {
        return false;
    };
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    rest.len() <= 256
        && rest.bytes().all(|b| word(b) || b == b':' || b == b'-')
        && rest.bytes().last().is_some_and(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_token_has_one_form() {
        assert_eq!(
            parse("abcdef.0123456789abcdef"),
            Some(("abcdef", "0123456789abcdef"))
        );
        for text in [
            "abcde.0123456789abcdef",
            "abcdef.0123456789abcde",
            "ABCDEF.0123456789abcdef",
            "abcdef0123456789abcdef",
            "abcdef.0123456789abcdef.",
            "a.b.c",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    /// The Secret with some values changed: the groups, or why not.
    fn check(change: &[(&str, &str)], expect: Result<&[&str], &str>) {
        let mut data = serde_json::Map::new();
        for (key, value) in [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
        ]
        .iter()
        .chain(change)
        {
            data.insert((*key).to_owned(), STANDARD.encode(value).into());
        }
        let secret = json!({"type": SECRET_TYPE, "data": data});
        let now = "2025-01-01T00:00:00Z".parse().unwrap();
        let found = judge(&secret, "abcdef", "0123456789abcdef", now);
        let groups = found.map(|user| {
            assert_eq!(user.name, "system:bootstrap:abcdef");
            user.groups
        });
        let expect = expect.map(|groups| {
            let mut groups: Vec<String> = groups.iter().map(|&g| g.to_owned()).collect();
            groups.push("system:authenticated".to_owned());
            groups
        });
        assert_eq!(groups, expect, "{change:?}");
    }

    #[test]
    fn a_token_is_good_while_its_secret_says_so() {
        check(&[], Ok(&["system:bootstrappers"]));
        check(
            &[(
                "auth-extra-groups",
                "system:bootstrappers:kubeadm:default-node-token",
            )],
            Ok(&[
                "system:bootstrappers",
                "system:bootstrappers:kubeadm:default-node-token",
            ]),
        );
        check(
            &[("auth-extra-groups", "system:masters")],
            Err("a group is malformed"),
        );
        check(
            &[("token-secret", "0123456789abcdeX")],
            Err("token-secret differs"),
        );
        check(&[("token-secret", "")], Err("token-secret differs"));
        check(&[("token-id", "other1")], Err("token-id differs"));
        check(
            &[("expiration", "2025-01-01T00:00:00Z")],
            Err("it has expired"),
        );
        check(&[("expiration", "tomorrow")], Err("it has expired"));
        check(
            &[("expiration", "2025-01-01T01:00:01+01:00")],
            Ok(&["system:bootstrappers"]),
        );
        check(
            &[("usage-bootstrap-authentication", "yes")],
            Err("it isn't for authentication"),
        );
    }
}
