//! Names, annotations and finalizers; and Secrets that don't hold what their type says.

use crate::{
    Value,
    validate::{names, node::Node},
};

/// Go's `%v` of a list of texts.
fn listed(messages: &[String]) -> String {
    format!("[{}]", messages.join(" "))
}

/// A name that hostnames are made of.
pub(super) fn hostname(root: &Node<'_>, why: &str, warnings: &mut Vec<String>) {
    let messages = names::dns_label(root.get("metadata").get("name").text());
    if !messages.is_empty() {
        warnings.push(format!(
            "metadata.name: {why}; a DNS label is recommended: {}",
            listed(&messages)
        ));
    }
}

/// The annotation that ties a ServiceAccount's pods to its Secrets, when it is newly set.
pub(super) fn mountable_secrets(
    root: &Node<'_>,
    before: Option<&Node<'_>>,
    warnings: &mut Vec<String>,
) {
    const KEY: &str = "kubernetes.io/enforce-mountable-secrets";
    let is_set = |node: &Node<'_>| {
        let annotations = node.get("metadata").get("annotations");
        annotations.value.get(KEY).is_some()
    };
    if is_set(root) && !before.is_some_and(is_set) {
        warnings.push(format!(
            "metadata.annotations[{KEY}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
        ));
    }
}

/// New finalizers of custom resources; those of built-in kinds are validated.
pub(super) fn finalizers(root: &Node<'_>, before: Option<&Node<'_>>, warnings: &mut Vec<String>) {
    const STANDARD: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];
    let list = |node: &Node<'_>| -> Vec<String> {
        let finalizers = node.get("metadata").get("finalizers");
        finalizers.each().map(|f| f.text().to_owned()).collect()
    };
    let known = before.map(list).unwrap_or_default();
    let mut new = list(root);
    new.sort();
    new.dedup();
    for finalizer in new.iter().filter(|finalizer| !known.contains(finalizer)) {
        let mut told: Vec<String> = names::qualified_name(finalizer);
        if !finalizer.contains('/') && !STANDARD.contains(&finalizer.as_str()) {
            told.push("prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers".to_owned());
        }
        let told = told
            .into_iter()
            .map(|message| format!("metadata.finalizers: {finalizer:?}: {message}"));
        warnings.extend(told);
    }
}

/// A TLS Secret whose certificate or key is no PEM at all.
pub(super) fn secret(root: &Node<'_>, warnings: &mut Vec<String>) {
    if root.get("type").text() != "kubernetes.io/tls" {
        return;
    }
    let is_pem = |key: &str| {
        let value = root.value.pointer("/data").and_then(|data| data.get(key));
        let bytes = value
            .and_then(Value::as_str)
            .and_then(|text| crate::codec::decode_base64(text).ok())
            .unwrap_or_default();
        bytes.windows(11).any(|window| window == b"-----BEGIN ")
    };
    if !is_pem("tls.crt") {
        warnings.push("tls: failed to find any PEM data in certificate input".to_owned());
    } else if !is_pem("tls.key") {
        warnings.push("tls: failed to find any PEM data in key input".to_owned());
    }
}
