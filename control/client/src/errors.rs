//! The API's answers that callers tell apart.

use kube::Error;

fn code(error: &Error) -> Option<(u16, &str)> {
    match error {
        Error::Api(status) => Some((status.code, status.reason.as_str())),
        _ => None,
    }
}

/// 404: the object isn't there (or no longer).
pub fn is_not_found(error: &Error) -> bool {
    matches!(code(error), Some((404, _)))
}

/// 409 because another writer was faster: read again and retry.
pub fn is_conflict(error: &Error) -> bool {
    matches!(code(error), Some((409, reason)) if reason != "AlreadyExists")
}

/// 409 because the name is taken.
pub fn is_already_exists(error: &Error) -> bool {
    matches!(code(error), Some((409, "AlreadyExists")))
}

/// 403: not allowed, or refused by admission.
pub fn is_forbidden(error: &Error) -> bool {
    matches!(code(error), Some((403, _)))
}

/// 410: the revision asked for is compacted.
pub fn is_gone(error: &Error) -> bool {
    matches!(code(error), Some((410, _)))
}
