//! What a deletion asks for: grace, preconditions, what becomes of dependents.

use kernelet_api::{ApiError, FieldError, Gvk, Value, codec::FieldValidation};

use crate::handler::{
    Call,
    params::{DryRun, boolean, dry_run, integer},
};

/// `meta/v1` DeleteOptions.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    pub grace_period_seconds: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub propagation: Option<Propagation>,
    pub dry_run: DryRun,
    /// `orphanDependents` or foreground was asked for: what isn't gone at once is 202.
    pub accepted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Orphan,
    Background,
    Foreground,
}

impl DeleteOptions {
    pub fn parse(call: &Call) -> Result<DeleteOptions, ApiError> {
        let mut options = if call.body.is_empty() {
            DeleteOptions {
                grace_period_seconds: integer(&call.query, "gracePeriodSeconds")?,
                dry_run: dry_run(call.query.all("dryRun"), "DeleteOptions")?,
                ..DeleteOptions::default()
            }
            .with_propagation(
                call.query.non_empty("propagationPolicy"),
                boolean(&call.query, "orphanDependents")?,
            )?
        } else {
            let body = call.decode(
                &Gvk::new("", "v1", "DeleteOptions"),
                FieldValidation::Ignore,
            )?;
            DeleteOptions::of(&body)?
        };
        // The query may say so too, whatever the body says.
        if dry_run(call.query.all("dryRun"), "DeleteOptions")? == DryRun::All {
            options.dry_run = DryRun::All;
        }
        Ok(options)
    }

    /// From an object of that kind.
    pub fn of(body: &Value) -> Result<DeleteOptions, ApiError> {
        let text = |pointer: &str| {
            body.pointer(pointer)
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        let dry: Vec<&str> = body
            .get("dryRun")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        DeleteOptions {
            grace_period_seconds: body.get("gracePeriodSeconds").and_then(Value::as_i64),
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
            dry_run: dry_run(dry.into_iter(), "DeleteOptions")?,
            ..DeleteOptions::default()
        }
        .with_propagation(
            text("/propagationPolicy").as_deref(),
            body.get("orphanDependents").and_then(Value::as_bool),
        )
    }

    fn with_propagation(
        mut self,
        policy: Option<&str>,
        orphan: Option<bool>,
    ) -> Result<DeleteOptions, ApiError> {
        let invalid = |error| {
            Err(ApiError::invalid(
                "meta.k8s.io",
                "DeleteOptions",
                "",
                &[error],
            ))
        };
        if policy.is_some() && orphan.is_some() {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            return invalid(FieldError::invalid(
                "propagationPolicy",
                policy.unwrap_or_default(),
                why,
            ));
        }
        self.propagation = match (policy, orphan) {
            (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
            (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
            (Some("Foreground"), _) => Some(Propagation::Foreground),
            (None, None) => None,
            (Some(other), _) => {
                let supported = ["Foreground", "Background", "Orphan", "nil"];
                return invalid(FieldError::not_supported(
                    "propagationPolicy",
                    other,
                    &supported,
                ));
            }
        };
        self.accepted = orphan == Some(false) || self.propagation == Some(Propagation::Foreground);
        Ok(self)
    }
}
