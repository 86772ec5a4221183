//! A bootstrap token's Secret, read. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use std::time::Duration;

pub(super) const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
pub(super) const NAMESPACE: &str = "kube-system";
const NAME_PREFIX: &str = "bootstrap-token-";

/// How long a token is still good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Endless,
    For(Duration),
    Over,
}

/// A value of the Secret; empty where there is none, or none that is text.
fn datum<'s>(secret: &'s Secret, key: &str) -> &'s str {
    let data = secret.data.as_ref().and_then(|data| data.get(key));
    data.and_then(|bytes| std::str::from_utf8(&bytes.0).ok())
        .unwrap_or_default()
}

/// Whether the Secret is a token's: of the type, in its namespace.
pub(super) fn is_token(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some(SECRET_TYPE)
        && secret.metadata.namespace.as_deref() == Some(NAMESPACE)
}

/// What can't be read as a time is over.
pub(super) fn life(secret: &Secret, now: Timestamp) -> Life {
    let expiration = datum(secret, "expiration");
    if expiration.is_empty() {
        return Life::Endless;
    }
    let Ok(end) = expiration.parse::<Timestamp>() else {
        return Life::Over;
    };
    match Duration::try_from(end.duration_since(now)) {
        Ok(left) if !left.is_zero() => Life::For(left),
        _ => Life::Over,
    }
}

/// Id and secret of a token that may sign.
pub(super) fn signing(secret: &Secret, now: Timestamp) -> Option<(&str, &str)> {
    let name = secret.metadata.name.as_deref().unwrap_or_default();
    let (id, value) = (datum(secret, "token-id"), datum(secret, "token-secret"));
    let good = is_token(secret)
        && !id.is_empty()
        && name.strip_prefix(NAME_PREFIX) == Some(id)
        && !value.is_empty()
        && life(secret, now) != Life::Over
        && datum(secret, "usage-bootstrap-signing") == "true";
    good.then_some((id, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    fn secret(change: &[(&str, &str)]) -> Secret {
        let mut secret = Secret {
            type_: Some(SECRET_TYPE.to_owned()),
            ..Secret::default()
        };
        secret.metadata.name = Some("bootstrap-token-abcdef".to_owned());
        secret.metadata.namespace = Some(NAMESPACE.to_owned());
        let data = secret.data.get_or_insert_default();
        for (key, value) in [
            ("token-id", "abcdef"),
            ("token-secret", "s"),
            ("usage-bootstrap-signing", "true"),
        ]
        .iter()
        .chain(change)
        {
            data.insert((*key).to_owned(), ByteString(value.as_bytes().to_vec()));
        }
        secret
    }

    #[test]
    fn tokens_sign_and_live_as_their_secrets_say() {
        let now: Timestamp = "2025-01-01T00:00:00Z".parse().unwrap();
        let hour = Life::For(Duration::from_secs(3600));
        for (change, signs, lives) in [
            (vec![], true, Life::Endless),
            (vec![("expiration", "2025-01-01T01:00:00Z")], true, hour),
            (
                vec![("expiration", "2025-01-01T00:00:00Z")],
                false,
                Life::Over,
            ),
            (vec![("expiration", "soon")], false, Life::Over),
            (
                vec![("usage-bootstrap-signing", "false")],
                false,
                Life::Endless,
            ),
            (vec![("token-id", "fedcba")], false, Life::Endless),
            (vec![("token-secret", "")], false, Life::Endless),
        ] {
            let secret = secret(&change);
            assert_eq!(signing(&secret, now).is_some(), signs, "{change:?}");
            assert_eq!(life(&secret, now), lives, "{change:?}");
        }
        let mut elsewhere = secret(&[]);
        elsewhere.metadata.namespace = Some("default".to_owned());
        assert_eq!(signing(&elsewhere, now), None);
    }
}
