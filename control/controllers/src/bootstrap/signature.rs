//! A detached JSON Web Signature (RFC 7515, appendix F) with HMAC-SHA-256, byte for byte as kubeadm makes and compares it.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;

/// The signature of `content` with a token.
pub(super) fn sign(content: &str, id: &str, secret: &str) -> String {
    // A token's id is letters and digits: nothing in it needs escaping.
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{id}"}}"#));
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, signed.as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_that_kubeadm_makes() {
        let content = "Hello from the other side. I must have called a thousand times.";
        let secret = "my voice is my passcode";
        let head = "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..";
        for (content, secret, expect) in [
            (
                content,
                secret,
                "VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8",
            ),
            ("", secret, "7Ui1ALizW4jXphVUB7xUqC9vLYLL9RZeOFfVLoB7Tgk"),
            (content, "", "UfkqvDGiIFxrMnFseDj9LYJOLNrvjW8aHhF71mvvAs8"),
        ] {
            assert_eq!(sign(content, "joshua", secret), format!("{head}{expect}"));
        }
    }
}
