//! What is run or asked in a container: probes and life-cycle hooks; and when a container is started again.

use super::super::{
    names,
    node::{Errors, Node},
};
use crate::{FieldError, Value};

pub(super) fn probes(container: &Node<'_>, errors: &mut Errors) {
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = container.get(kind);
        if !probe.is_set() {
            continue;
        }
        handler(&probe, &Node::root(&Value::Null), errors);
        for field in [
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ] {
            errors.non_negative(&probe.get(field));
        }
        let grace = probe.get("terminationGracePeriodSeconds");
        if grace.int().is_some_and(|n| n <= 0) {
            errors.push(grace.invalid("must be greater than 0"));
        }
        let success = probe.get("successThreshold");
        if kind == "readinessProbe" {
            if grace.is_set() {
                errors.push(grace.invalid("must not be set for readinessProbes"));
            }
        } else if success.int().unwrap_or(0) != 1 {
            errors.push(FieldError::invalid(
                &success.path,
                success.int().unwrap_or(0),
                "must be 1",
            ));
        }
    }
}

fn handler(place: &Node<'_>, grace: &Node<'_>, errors: &mut Errors) {
    let mut any = false;
    for kind in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
        let action = place.get(kind);
        if !action.is_set() {
            continue;
        }
        if any {
            errors.push(action.forbidden("may not specify more than 1 handler type"));
            continue;
        }
        any = true;
        match kind {
            "exec" => {
                errors.require(&action.get("command"));
            }
            "httpGet" => http_get(&action, errors),
            "tcpSocket" => port_or_name(&action.get("port"), errors),
            "grpc" => errors.port(&action.get("port")),
            _ => sleep(&action, grace, errors),
        }
    }
    if !any {
        errors.push(place.required("must specify a handler type"));
    }
}

fn http_get(action: &Node<'_>, errors: &mut Errors) {
    errors.require(&action.get("path"));
    port_or_name(&action.get("port"), errors);
    let scheme = action.get("scheme");
    if !matches!(scheme.text(), "HTTP" | "HTTPS") {
        errors.push(scheme.not_supported(&["HTTP", "HTTPS"]));
    }
    for header in action.get("httpHeaders").each() {
        let name = header.get("name").text();
        for message in names::http_header(name) {
            errors.push(FieldError::invalid(
                action.path.child("httpHeaders"),
                name,
                message,
            ));
        }
    }
}

/// A port's number, or the name of one.
pub(in super::super) fn port_or_name(port: &Node<'_>, errors: &mut Errors) {
    match port.value {
        Value::String(name) => errors.messages(port, names::port_name(name)),
        _ => errors.port(port),
    }
}

fn sleep(action: &Node<'_>, grace: &Node<'_>, errors: &mut Errors) {
    let seconds = action.get("seconds").int().unwrap_or(0);
    if let Some(grace) = grace.int()
        && !(0..=grace).contains(&seconds)
    {
        let detail =
            format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.push(FieldError::invalid(&action.path, seconds, detail));
    }
}

/// Signals that a container can ask to be stopped with: names, and real-time ones counted from either end.
fn is_signal(name: &str) -> bool {
    const NAMES: &str = "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT \
                         STOP SYS TERM TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN RTMAX";
    let Some(name) = name.strip_prefix("SIG") else {
        return false;
    };
    let counted = |prefix: &str, most: u32| {
        let offset = name
            .strip_prefix(prefix)
            .filter(|n| !n.starts_with('0'))
            .and_then(|n| n.parse().ok());
        offset.is_some_and(|n: u32| (1..=most).contains(&n))
    };
    NAMES.split_whitespace().any(|n| n == name) || counted("RTMIN+", 15) || counted("RTMAX-", 14)
}

pub(super) fn lifecycle(spec: &Node<'_>, container: &Node<'_>, errors: &mut Errors) {
    let lifecycle = container.get("lifecycle");
    for hook in ["postStart", "preStop"] {
        let hook = lifecycle.get(hook);
        if hook.is_set() {
            handler(&hook, &spec.get("terminationGracePeriodSeconds"), errors);
        }
    }
    let signal = lifecycle.get("stopSignal");
    if !signal.is_set() {
    } else if !spec.get("os").is_set() {
        errors.push(signal.forbidden("may not be set for containers with empty `spec.os.name`"));
    } else if !is_signal(signal.text()) {
        errors.push(signal.not_supported(&[]));
    }
}

const MAX_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;

/// A container's own restart policy, and its rules by exit code.
pub(super) fn restart_policy(container: &Node<'_>, errors: &mut Errors) {
    let (policy, rules) = (
        container.get("restartPolicy"),
        container.get("restartPolicyRules"),
    );
    if !policy.is_set() {
        if rules.len() > 0 {
            errors.push(policy.required("must specify restartPolicy when restart rules are used"));
        }
    } else if !matches!(policy.text(), "Always" | "Never" | "OnFailure") {
        errors.push(policy.not_supported(&["Always", "Never", "OnFailure"]));
    }
    if rules.len() > MAX_RULES {
        errors.push(FieldError::too_long(&rules.path, MAX_RULES));
    }
    for rule in rules.each() {
        let (action, codes) = (rule.get("action"), rule.get("exitCodes"));
        if action.text() != "Restart" {
            errors.push(action.not_supported(&["Restart"]));
        }
        if !codes.is_set() {
            errors.push(codes.required("must be specified"));
            continue;
        }
        let (operator, values) = (codes.get("operator"), codes.get("values"));
        if !matches!(operator.text(), "In" | "NotIn") {
            errors.push(operator.not_supported(&["In", "NotIn"]));
        }
        if values.len() > MAX_EXIT_CODES {
            errors.push(FieldError::too_long(&values.path, MAX_EXIT_CODES));
        }
    }
}

/// Whether the node may start a container again that ended with this exit code.
pub(super) fn restarts(spec: &Node<'_>, container: &Node<'_>, exit_code: i64) -> bool {
    for rule in container.get("restartPolicyRules").each() {
        let codes = rule.get("exitCodes");
        let listed = codes
            .get("values")
            .each()
            .any(|v| v.int() == Some(exit_code));
        let matches = match codes.get("operator").text() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        };
        if matches {
            return true;
        }
    }
    let own = container.get("restartPolicy");
    let policy = if own.is_set() {
        own
    } else {
        spec.get("restartPolicy")
    };
    match policy.text() {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}
