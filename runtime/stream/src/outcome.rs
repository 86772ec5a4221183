//! How a process ended, as clients are told: a `meta/v1` Status on the error channel.

use serde_json::json;

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// By itself, or by a signal: then it is 128 + its number.
    Exited(i32),
    /// It wasn't started, or nobody knows how it ended.
    Failed(String),
}

impl Outcome {
    /// The Status as JSON. Clients take the exit code from the cause `ExitCode`.
    pub fn status(&self) -> Vec<u8> {
        let status = match (self, self.failure()) {
            (Outcome::Exited(code), Some(message)) => json!({
                "metadata": {}, "status": "Failure", "message": message, "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            (Outcome::Failed(why), Some(message)) => json!({
                "metadata": {}, "status": "Failure", "message": message, "reason": "InternalError",
                "details": {"causes": [{"message": why}]}, "code": 500,
            }),
            (_, None) => json!({"metadata": {}, "status": "Success"}),
        };
        status.to_string().into_bytes()
    }

    /// The Status's message; none for success.
    pub fn failure(&self) -> Option<String> {
        match self {
            Outcome::Exited(0) => None,
            Outcome::Exited(code) => Some(format!(
                "command terminated with non-zero exit code: exit status {code}"
            )),
            Outcome::Failed(why) => Some(format!("Internal error occurred: {why}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn statuses_hold_what_clients_look_for() {
        let status = |outcome: Outcome| -> Value {
            serde_json::from_slice(&outcome.status()).expect("JSON")
        };
        assert_eq!(status(Outcome::Exited(0))["status"], "Success");
        let three = status(Outcome::Exited(3));
        assert_eq!(
            (&three["status"], &three["reason"]),
            (&json!("Failure"), &json!("NonZeroExitCode"))
        );
        assert_eq!(
            three["details"]["causes"],
            json!([{"reason": "ExitCode", "message": "3"}])
        );
        let failed = status(Outcome::Failed("no such file".into()));
        assert_eq!(
            (&failed["reason"], &failed["code"]),
            (&json!("InternalError"), &json!(500))
        );
        assert_eq!(failed["message"], "Internal error occurred: no such file");
    }
}
