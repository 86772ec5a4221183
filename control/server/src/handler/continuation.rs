//! Continue tokens: where a list goes on. Opaque to clients, and so whatever they like to send.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use kernelet_api::ApiError;
use serde::{Deserialize, Serialize};

/// What a continue token says: the revision of the list and the last key that was sent.
#[derive(Debug, Serialize, Deserialize)]
pub struct Token {
    v: String,
    /// -1: whatever is current; the list is no longer consistent.
    pub rv: i64,
    pub start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

impl Token {
    pub fn encode(rv: i64, start: &str) -> String {
        let token = Token {
            v: TOKEN_VERSION.to_owned(),
            rv,
            start: start.to_owned(),
        };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).expect("a token has a JSON form"))
    }

    pub fn decode(text: &str) -> Result<Token, ApiError> {
        let invalid = |why: &str| {
            let why = format!("invalid continue token: continue key is not valid: {why}");
            ApiError::bad_request(why)
        };
        let bytes = URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|error| invalid(&illegal_base64(&error, text.len())))?;
        let token: Token =
            serde_json::from_slice(&bytes).map_err(|error| invalid(&error.to_string()))?;
        if token.v != TOKEN_VERSION || token.start.is_empty() || token.rv == 0 || token.rv < -1 {
            return Err(invalid("incorrect encoded start resourceVersion or key"));
        }
        Ok(token)
    }
}

/// What Go says of such a text: where the first byte is that can't stand there.
fn illegal_base64(error: &base64::DecodeError, length: usize) -> String {
    let at = match error {
        base64::DecodeError::InvalidByte(at, _) => *at,
        // A rest that is no whole byte.
        _ => length / 4 * 4,
    };
    format!("illegal base64 data at input byte {at}")
}
