//! The options of requests, from the query: what upstream's `ListOptions`, `CreateOptions` and so on hold.
//!
//! An option that isn't understood is an error, never ignored: clients fall back on an error, and wait for ever on
//! silence.

use kernelet_api::{ApiError, FieldError, codec::FieldValidation, field::ErrorType};

use crate::query::Query;

/// Whether a write is only tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DryRun {
    #[default]
    No,
    All,
}

/// Options of create, update and patch.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    pub dry_run: DryRun,
    pub field_manager: String,
    pub field_validation: FieldValidation,
    pub force: Option<bool>,
}

/// Options of list and watch.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    pub resource_version: Option<i64>,
    pub resource_version_match: Option<Match>,
    pub limit: usize,
    pub continue_token: String,
    pub timeout_seconds: Option<u64>,
    pub bookmarks: bool,
    pub send_initial_events: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    Exact,
    NotOlderThan,
}

fn invalid(kind: &str, errors: &[FieldError]) -> ApiError {
    ApiError::invalid("meta.k8s.io", kind, "", errors)
}

pub fn boolean(query: &Query, key: &str) -> Result<Option<bool>, ApiError> {
    match query.non_empty(key) {
        None => Ok(None),
        Some("true" | "True" | "TRUE" | "1" | "t" | "T") => Ok(Some(true)),
        Some("false" | "False" | "FALSE" | "0" | "f" | "F") => Ok(Some(false)),
        // Upstream's conversion takes anything else for true.
        Some(_) => Ok(Some(true)),
    }
}

pub fn integer(query: &Query, key: &str) -> Result<Option<i64>, ApiError> {
    query
        .non_empty(key)
        .map(|text| {
            text.parse().map_err(|_| {
                ApiError::bad_request(format!(
                    "strconv.ParseInt: parsing {text:?}: invalid syntax"
                ))
            })
        })
        .transpose()
}

/// `dryRun`, which may only be `All`.
pub fn dry_run<'a>(values: impl Iterator<Item = &'a str>, kind: &str) -> Result<DryRun, ApiError> {
    let mut found = DryRun::No;
    for value in values.filter(|value| !value.is_empty()) {
        if value != "All" {
            return Err(invalid(
                kind,
                &[FieldError::not_supported("dryRun", vec![value], &["All"])],
            ));
        }
        found = DryRun::All;
    }
    Ok(found)
}

impl WriteOptions {
    /// `kind` is `CreateOptions`, `UpdateOptions` or `PatchOptions`.
    pub fn parse(query: &Query, kind: &str) -> Result<WriteOptions, ApiError> {
        let field_manager = query.get("fieldManager").unwrap_or_default().to_owned();
        let mut errors = Vec::new();
        if field_manager.len() > 128 {
            errors.push(FieldError::new(
                ErrorType::TooLong,
                "fieldManager",
                None,
                "may not be more than 128 bytes",
            ));
        }
        let unprintable = field_manager
            .char_indices()
            .find(|(_, character)| character.is_control());
        if let Some((at, character)) = unprintable {
            errors.push(FieldError::invalid(
                "fieldManager",
                field_manager.as_str(),
                format!(
                    "invalid character U+{:04X} (at position {at})",
                    u32::from(character)
                ),
            ));
        }
        let field_validation = match query.get("fieldValidation").unwrap_or_default() {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                errors.push(FieldError::not_supported(
                    "fieldValidation",
                    other,
                    &["", "Ignore", "Strict", "Warn"],
                ));
                FieldValidation::Warn
            }
        };
        let dry_run = dry_run(query.all("dryRun"), kind)?;
        if !errors.is_empty() {
            return Err(invalid(kind, &errors));
        }
        Ok(WriteOptions {
            dry_run,
            field_manager,
            field_validation,
            force: boolean(query, "force")?,
        })
    }

    /// Further rules of patches; `apply`: the patch is a server-side apply.
    pub fn check_patch(&self, apply: bool) -> Result<(), ApiError> {
        let mut errors = Vec::new();
        if apply && self.field_manager.is_empty() {
            errors.push(FieldError::required(
                "fieldManager",
                "is required for apply patch",
            ));
        }
        if !apply && self.force.is_some() {
            errors.push(FieldError::forbidden(
                "force",
                "may not be specified for non-apply patch",
            ));
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(invalid("PatchOptions", &errors))
        }
    }
}

/// A resourceVersion as clients send it.
pub fn resource_version(text: &str) -> Result<i64, ApiError> {
    text.parse::<i64>()
        .ok()
        .filter(|revision| *revision >= 0)
        .ok_or_else(|| {
            let error = FieldError::invalid(
                "resourceVersion",
                text,
                format!("strconv.ParseUint: parsing {text:?}: invalid syntax"),
            );
            ApiError::bad_request(error.to_string())
        })
}

impl ListOptions {
    pub fn parse(query: &Query, watch: bool) -> Result<ListOptions, ApiError> {
        let resource_version = query
            .non_empty("resourceVersion")
            .map(resource_version)
            .transpose()
            .map_err(|error| match watch {
                // Upstream's watch gives this error no code of its own.
                true => ApiError::new(500, "", error.message),
                false => {
                    ApiError::bad_request(format!("invalid resource version: {}", error.message))
                }
            })?;
        let continue_token = query.get("continue").unwrap_or_default().to_owned();
        let send_initial_events = boolean(query, "sendInitialEvents")?;
        let limit = integer(query, "limit")?.unwrap_or_default();
        let timeout = integer(query, "timeoutSeconds")?;
        let mut errors = Vec::new();
        let forbid = |errors: &mut Vec<FieldError>, path: &str, why: &str| {
            errors.push(FieldError::forbidden(path, why))
        };
        let path = "resourceVersionMatch";
        let wanted = query.non_empty(path);
        let resource_version_match = match wanted {
            None => None,
            Some("Exact") => Some(Match::Exact),
            Some("NotOlderThan") => Some(Match::NotOlderThan),
            Some(other) => {
                errors.push(FieldError::not_supported(
                    path,
                    other,
                    &["Exact", "NotOlderThan", ""],
                ));
                None
            }
        };
        if watch {
            match (send_initial_events, wanted) {
                (Some(_), Some("NotOlderThan")) => {}
                (Some(_), _) => forbid(
                    &mut errors,
                    path,
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ),
                (None, Some(_)) => forbid(
                    &mut errors,
                    path,
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                ),
                (None, None) => {}
            }
            if !continue_token.is_empty() {
                forbid(&mut errors, "continue", "continue is forbidden for watch");
            }
        } else {
            if send_initial_events.is_some() {
                forbid(
                    &mut errors,
                    "sendInitialEvents",
                    "sendInitialEvents is forbidden for list",
                );
            }
            if wanted.is_some() {
                if !continue_token.is_empty() {
                    forbid(
                        &mut errors,
                        path,
                        "resourceVersionMatch is forbidden when continue is provided",
                    );
                } else if resource_version.is_none() {
                    forbid(
                        &mut errors,
                        path,
                        "resourceVersionMatch is forbidden unless resourceVersion is provided",
                    );
                } else if resource_version == Some(0)
                    && resource_version_match == Some(Match::Exact)
                {
                    forbid(
                        &mut errors,
                        path,
                        "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
                    );
                }
            }
        }
        if !errors.is_empty() {
            return Err(invalid("ListOptions", &errors));
        }
        if !continue_token.is_empty() && resource_version.is_some_and(|revision| revision != 0) {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        Ok(ListOptions {
            resource_version,
            resource_version_match,
            limit: usize::try_from(limit).unwrap_or_default(),
            continue_token,
            timeout_seconds: timeout.and_then(|seconds| u64::try_from(seconds).ok()),
            bookmarks: boolean(query, "allowWatchBookmarks")?.unwrap_or_default(),
            send_initial_events,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(query: &str, watch: bool) -> String {
        ListOptions::parse(&Query::parse(query).unwrap(), watch)
            .map_or_else(|e| format!("{}: {}", e.code, e.message), |_| String::new())
    }

    #[test]
    fn combinations_of_list_options_are_judged_as_upstream_does() {
        assert_eq!(refused("resourceVersion=0&limit=5", false), "");
        assert_eq!(
            refused(
                "sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
                true
            ),
            ""
        );
        assert_eq!(
            refused("sendInitialEvents=true", true),
            "422: ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        );
        assert!(refused("resourceVersionMatch=Exact", false).starts_with("422"));
        assert!(refused("resourceVersionMatch=Exact&resourceVersion=0", false).starts_with("422"));
        assert!(
            refused("resourceVersionMatch=Newest&resourceVersion=5", false)
                .contains("Unsupported value")
        );
        assert!(refused("resourceVersion=x", false).starts_with("400"));
        assert!(refused("limit=x", false).starts_with("400"));
        assert!(refused("continue=abc&resourceVersion=7", false).starts_with("400"));
    }

    #[test]
    fn write_options_are_checked() {
        let parse =
            |query: &str| WriteOptions::parse(&Query::parse(query).unwrap(), "CreateOptions");
        assert_eq!(parse("dryRun=All").unwrap().dry_run, DryRun::All);
        assert!(
            parse("dryRun=Some")
                .unwrap_err()
                .message
                .contains("supported values: \"All\"")
        );
        assert!(parse("fieldValidation=Maybe").unwrap_err().code == 422);
        assert!(
            parse("")
                .unwrap()
                .check_patch(true)
                .unwrap_err()
                .message
                .contains("is required for apply patch")
        );
        assert!(parse("force=true").unwrap().check_patch(false).is_err());
    }
}
