//! A container's environment: service variables, `envFrom`, `env` and `$(VAR)` expansion.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, Secret, Service};

use crate::{
    Wanted,
    fields::{self, FieldError, RuntimeFields},
};

/// Where configMaps and secrets come from; the node has fetched them before.
pub trait Sources {
    fn config_map(&self, name: &str) -> Option<&ConfigMap>;
    fn secret(&self, name: &str) -> Option<&Secret>;
}

/// Why an environment can't be made: the text of `CreateContainerConfigError`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    #[error("configmap \"{0}\" not found")]
    NoConfigMap(String),
    #[error("secret \"{0}\" not found")]
    NoSecret(String),
    #[error("couldn't find key {key} in ConfigMap {namespace}/{name}")]
    NoConfigMapKey {
        key: String,
        namespace: String,
        name: String,
    },
    #[error("couldn't find key {key} in Secret {namespace}/{name}")]
    NoSecretKey {
        key: String,
        namespace: String,
        name: String,
    },
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error("environment variable {0} is not valid UTF-8")]
    NotText(String),
    #[error("environment variable {0} has a source that is not implemented")]
    Unimplemented(String),
}

/// The names that a container's environment needs fetched: (configMaps, secrets).
pub fn needed(container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for source in container.env_from.iter().flatten() {
        maps.extend(source.config_map_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(source.secret_ref.as_ref().map(|r| r.name.clone()));
    }
    for from in container
        .env
        .iter()
        .flatten()
        .filter_map(|v| v.value_from.as_ref())
    {
        maps.extend(from.config_map_key_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(from.secret_key_ref.as_ref().map(|r| r.name.clone()));
    }
    for list in [&mut maps, &mut secrets] {
        list.sort();
        list.dedup();
    }
    (maps, secrets)
}

/// The whole environment, in order: the pod's own variables win over service variables.
pub fn environment(
    wanted: &Wanted,
    container: &Container,
    services: &BTreeMap<String, String>,
    sources: &impl Sources,
    now: &RuntimeFields<'_>,
) -> Result<Vec<(String, String)>, EnvError> {
    // What `$(VAR)` may name: later definitions see earlier ones.
    let mut scope = services.clone();
    let mut result: Vec<(String, String)> = Vec::new();
    let mut set = |scope: &mut BTreeMap<String, String>, name: &str, value: String| {
        scope.insert(name.to_owned(), value.clone());
        match result.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value,
            None => result.push((name.to_owned(), value)),
        }
    };
    for (name, value) in from_objects(wanted, container, sources)? {
        set(&mut scope, &name, value);
    }
    for var in container.env.iter().flatten() {
        if let Some(value) = value_of(wanted, container, var, &scope, sources, now)? {
            set(&mut scope, &var.name, value);
        }
    }
    for (name, value) in services {
        if !result.iter().any(|(n, _)| n == name) {
            result.push((name.clone(), value.clone()));
        }
    }
    Ok(result)
}

fn from_objects(
    wanted: &Wanted,
    container: &Container,
    sources: &impl Sources,
) -> Result<Vec<(String, String)>, EnvError> {
    let _ = wanted;
    let mut all = Vec::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            match sources.config_map(&reference.name) {
                Some(map) => {
                    let data = map.data.iter().flatten();
                    all.extend(data.map(|(k, v)| (format!("{prefix}{k}"), v.clone())));
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError::NoConfigMap(reference.name.clone())),
            }
        }
        if let Some(reference) = &source.secret_ref {
            match sources.secret(&reference.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        let name = format!("{prefix}{key}");
                        let text = String::from_utf8(value.0.clone())
                            .map_err(|_| EnvError::NotText(name.clone()))?;
                        all.push((name, text));
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError::NoSecret(reference.name.clone())),
            }
        }
    }
    all.retain(|(name, _)| is_env_name(name));
    Ok(all)
}

/// Upstream's relaxed rule: printable ASCII without `=`.
fn is_env_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=')
}

fn value_of(
    wanted: &Wanted,
    container: &Container,
    var: &EnvVar,
    scope: &BTreeMap<String, String>,
    sources: &impl Sources,
    now: &RuntimeFields<'_>,
) -> Result<Option<String>, EnvError> {
    let Some(from) = var
        .value_from
        .as_ref()
        .filter(|_| var.value.as_deref().unwrap_or_default().is_empty())
    else {
        return Ok(Some(expand(
            var.value.as_deref().unwrap_or_default(),
            scope,
        )));
    };
    let namespace = || wanted.namespace().to_owned();
    if let Some(selector) = &from.field_ref {
        return Ok(Some(fields::field(wanted, selector, now)?));
    }
    if let Some(selector) = &from.resource_field_ref {
        return Ok(Some(fields::resource(wanted, container, selector)?));
    }
    if let Some(selector) = &from.config_map_key_ref {
        let (key, name) = (selector.key.clone(), selector.name.clone());
        let optional = selector.optional == Some(true);
        let value = match sources.config_map(&name) {
            Some(map) => map.data.as_ref().and_then(|d| d.get(&key)).cloned(),
            None if optional => None,
            None => return Err(EnvError::NoConfigMap(name)),
        };
        return match value {
            None if !optional => Err(EnvError::NoConfigMapKey {
                key,
                namespace: namespace(),
                name,
            }),
            value => Ok(value),
        };
    }
    if let Some(selector) = &from.secret_key_ref {
        let (key, name) = (selector.key.clone(), selector.name.clone());
        let optional = selector.optional == Some(true);
        let value = match sources.secret(&name) {
            Some(secret) => secret.data.as_ref().and_then(|d| d.get(&key)),
            None if optional => None,
            None => return Err(EnvError::NoSecret(name)),
        };
        return match value {
            None if !optional => Err(EnvError::NoSecretKey {
                key,
                namespace: namespace(),
                name,
            }),
            None => Ok(None),
            Some(bytes) => String::from_utf8(bytes.0.clone())
                .map(Some)
                .map_err(|_| EnvError::NotText(var.name.clone())),
        };
    }
    Err(EnvError::Unimplemented(var.name.clone()))
}

/// `$(NAME)` is replaced when NAME is known and stays as it is otherwise; `$$` is one dollar.
pub fn expand(text: &str, scope: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'))
        {
            match scope.get(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// The variables of the services that a pod sees: those of its namespace when it wants links, and always
/// `kubernetes` of `default`.
pub fn service_variables<'a>(
    wanted: &Wanted,
    services: impl IntoIterator<Item = &'a Service>,
) -> BTreeMap<String, String> {
    let links = wanted.spec().enable_service_links.unwrap_or(true);
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let (Some(name), Some(namespace)) = (&service.metadata.name, &service.metadata.namespace)
        else {
            continue;
        };
        let ip = service
            .spec
            .as_ref()
            .and_then(|s| s.cluster_ip.as_deref())
            .unwrap_or_default();
        if matches!(ip, "" | "None") {
            continue;
        }
        let master = namespace == "default" && name == "kubernetes";
        if namespace == wanted.namespace() && links {
            chosen.insert(name, service);
        } else if master {
            chosen.entry(name).or_insert(service);
        }
    }
    chosen
        .into_iter()
        .flat_map(|(name, service)| one_service(name, service))
        .collect()
}

fn one_service(name: &str, service: &Service) -> Vec<(String, String)> {
    let prefix = name.replace('-', "_").to_uppercase();
    let spec = service.spec.as_ref();
    let ip = spec.and_then(|s| s.cluster_ip.clone()).unwrap_or_default();
    let ports = spec.and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let Some(first) = ports.first() else {
        return Vec::new();
    };
    let host = if ip.contains(':') {
        format!("[{ip}]")
    } else {
        ip.clone()
    };
    let mut vars = vec![
        (format!("{prefix}_SERVICE_HOST"), ip.clone()),
        (format!("{prefix}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in ports {
        if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            let port_name = port_name.replace('-', "_").to_uppercase();
            vars.push((
                format!("{prefix}_SERVICE_PORT_{port_name}"),
                port.port.to_string(),
            ));
        }
    }
    for (index, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
        if index == 0 {
            vars.push((format!("{prefix}_PORT"), url.clone()));
        }
        let port_prefix = format!("{prefix}_PORT_{}_{protocol}", port.port);
        vars.push((port_prefix.clone(), url));
        vars.push((format!("{port_prefix}_PROTO"), protocol.to_lowercase()));
        vars.push((format!("{port_prefix}_PORT"), port.port.to_string()));
        vars.push((format!("{port_prefix}_ADDR"), ip.clone()));
    }
    vars
}

#[cfg(test)]
mod tests;
