//! Who one is for which registry: credentials as `docker login` writes them down, and as pull secrets carry them.

use std::{collections::BTreeMap, fmt, io, path::Path};

use base64::{Engine as _, engine::general_purpose};
use serde::Deserialize;

use crate::Reference;

/// One identity at a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// Name and password.
    Basic {
        /// The name.
        user: String,
        /// The password, or a token in its place.
        password: String,
    },
    /// An OAuth2 refresh token (`identitytoken`), which the registry's token service exchanges.
    Refresh(String),
}

impl Credential {
    /// What it is recognised by later; it can't be read back from that.
    #[must_use]
    pub fn digest(&self) -> String {
        let text = match self {
            Credential::Basic { user, password } => format!("basic\0{user}\0{password}"),
            Credential::Refresh(token) => format!("refresh\0{token}"),
        };
        crate::digest::of(text.as_bytes()).to_string()
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A secret never reaches a log.
        match self {
            Credential::Basic { user, .. } => write!(f, "Basic({user})"),
            Credential::Refresh(_) => f.write_str("Refresh"),
        }
    }
}

/// Why credentials can't be read.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The file can't be read.
    #[error("can't read the credentials in {path}")]
    Read {
        /// Which one.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// It isn't what it should be.
    #[error("the credentials in {what} make no sense: {reason}")]
    Malformed {
        /// Which ones.
        what: String,
        /// What is wrong.
        reason: String,
    },
}

/// Credentials by the registries, repositories or patterns they are for.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    /// In reverse order of keys, so that the more specific come first, as upstream has them.
    keys: BTreeMap<std::cmp::Reverse<String>, Vec<Credential>>,
    /// Keys for which the file names a program that knows the credentials.
    helpers: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl Keyring {
    /// Of `docker login`'s file.
    pub fn read(path: &Path) -> Result<Keyring, CredentialError> {
        let bytes = std::fs::read(path).map_err(|source| CredentialError::Read {
            path: path.display().to_string(),
            source,
        })?;
        Keyring::docker_config(&path.display().to_string(), &bytes)
    }

    /// Of `.dockerconfigjson` in a secret, or `config.json`; `what` names it in errors.
    pub fn docker_config(what: &str, bytes: &[u8]) -> Result<Keyring, CredentialError> {
        let config: DockerConfig = parse(what, bytes)?;
        let mut keyring = Keyring::of(what, config.auths)?;
        for (key, helper) in config.cred_helpers {
            keyring.helpers.insert(normalise(&key), helper);
        }
        if let Some(store) = config.creds_store {
            keyring.helpers.insert(String::new(), store);
        }
        Ok(keyring)
    }

    /// Of `.dockercfg`, Docker's older form.
    pub fn docker_cfg(what: &str, bytes: &[u8]) -> Result<Keyring, CredentialError> {
        Keyring::of(what, parse(what, bytes)?)
    }

    /// One identity for every registry (`--creds user:password`).
    #[must_use]
    pub fn single(credential: Credential) -> Keyring {
        Keyring {
            keys: BTreeMap::from([(std::cmp::Reverse("*".to_owned()), vec![credential])]),
            helpers: BTreeMap::new(),
        }
    }

    fn of(what: &str, entries: BTreeMap<String, Entry>) -> Result<Keyring, CredentialError> {
        let mut keyring = Keyring::default();
        for (key, entry) in entries {
            let malformed = |reason: &str| CredentialError::Malformed {
                what: what.to_owned(),
                reason: format!("{key}: {reason}"),
            };
            let credential = if let Some(token) = entry.identitytoken.filter(|t| !t.is_empty()) {
                Credential::Refresh(token)
            } else if let Some(auth) = entry.auth.filter(|auth| !auth.is_empty()) {
                decode(&auth).map_err(malformed)?
            } else if let Some(user) = entry.username.filter(|user| !user.is_empty()) {
                let password = entry.password.unwrap_or_default();
                Credential::Basic { user, password }
            } else {
                // `docker login` with a credential store leaves empty entries behind.
                continue;
            };
            let list = keyring
                .keys
                .entry(std::cmp::Reverse(normalise(&key)))
                .or_default();
            if !list.contains(&credential) {
                list.push(credential);
            }
        }
        Ok(keyring)
    }

    /// This one first, then what `other` knows.
    #[must_use]
    pub fn and(mut self, other: &Keyring) -> Keyring {
        for (key, credentials) in &other.keys {
            let list = self.keys.entry(key.clone()).or_default();
            for credential in credentials {
                if !list.contains(credential) {
                    list.push(credential.clone());
                }
            }
        }
        self.helpers
            .extend(other.helpers.iter().map(|(k, v)| (k.clone(), v.clone())));
        self
    }

    /// What fits a repository, the most specific first.
    #[must_use]
    pub fn lookup(&self, registry: &str, repository: &str) -> Vec<Credential> {
        let mut found = Vec::<Credential>::new();
        for (key, credentials) in &self.keys {
            if hosts(registry).any(|host| matches(&key.0, host, repository)) {
                for credential in credentials {
                    if !found.contains(credential) {
                        found.push(credential.clone());
                    }
                }
            }
        }
        found
    }

    /// The program that the file says knows the credentials of a registry; none is ever run.
    #[must_use]
    pub fn helper(&self, reference: &Reference) -> Option<&str> {
        hosts(reference.registry())
            .find_map(|host| self.helpers.get(host))
            .or_else(|| self.helpers.get(""))
            .map(String::as_str)
    }

    /// Whether there is anything in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

fn parse<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, CredentialError> {
    serde_json::from_slice(bytes).map_err(|error| CredentialError::Malformed {
        what: what.to_owned(),
        reason: error.to_string(),
    })
}

/// `user:password` in base64, with or without padding.
fn decode(auth: &str) -> Result<Credential, &'static str> {
    let auth: String = auth.split_whitespace().collect();
    let bytes = general_purpose::STANDARD_NO_PAD
        .decode(auth.trim_end_matches('='))
        .map_err(|_| "auth is not base64")?;
    let text = String::from_utf8(bytes).map_err(|_| "auth is not text")?;
    text.parse()
}

impl std::str::FromStr for Credential {
    type Err = &'static str;

    /// `user:password`.
    fn from_str(text: &str) -> Result<Credential, &'static str> {
        let (user, password) = text.split_once(':').ok_or("it is not user:password")?;
        Ok(Credential::Basic {
            user: user.to_owned(),
            // Older versions of Docker padded with zero bytes.
            password: password.trim_end_matches('\0').to_owned(),
        })
    }
}

/// A key without its scheme, and without the version that Docker's first registry had in its path.
fn normalise(key: &str) -> String {
    let key = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    let path = match path.split_once('/').unwrap_or((path, "")) {
        ("v1" | "v2", rest) => rest,
        _ => path,
    };
    match path.trim_end_matches('/') {
        "" => host.to_owned(),
        path => format!("{host}/{path}"),
    }
}

/// The names under which people log in to a registry.
fn hosts(registry: &str) -> impl Iterator<Item = &str> {
    let others: &[&str] = match registry {
        "docker.io" => &["index.docker.io", "registry-1.docker.io"],
        _ => &[],
    };
    std::iter::once(registry).chain(others.iter().copied())
}

/// Whether a key is for a repository: its host's parts may hold `*`, its path is a beginning of the repository's.
fn matches(key: &str, host: &str, repository: &str) -> bool {
    if key == "*" {
        return true;
    }
    let (key_host, key_path) = key.split_once('/').unwrap_or((key, ""));
    let split = |text: &str| match text.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => {
            (host.to_owned(), port.to_owned())
        }
        _ => (text.to_owned(), String::new()),
    };
    let ((key_name, key_port), (name, port)) = (split(key_host), split(host));
    let (key_parts, parts): (Vec<_>, Vec<_>) =
        (key_name.split('.').collect(), name.split('.').collect());
    let path_fits = key_path.is_empty()
        || repository
            .strip_prefix(key_path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    key_port == port
        && key_parts.len() == parts.len()
        && key_parts
            .iter()
            .zip(&parts)
            .all(|(k, p)| glob(k.as_bytes(), p.as_bytes()))
        && path_fits
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            glob(rest, text)
                || text
                    .split_first()
                    .is_some_and(|(_, text)| glob(pattern, text))
        }
        (Some((b'?', pattern)), Some((_, text))) => glob(pattern, text),
        (Some((p, pattern)), Some((t, text))) => p == t && glob(pattern, text),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(text: &str) -> Credential {
        text.parse().unwrap()
    }

    #[test]
    fn credentials_are_found_as_docker_and_the_kubelet_find_them() {
        // a:b, c:d, e:f
        let file = br#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "YTpi"},
            "registry.example:5000": {"auth": "Yzpk"},
            "registry.example:5000/team": {"username": "e", "password": "f"},
            "*.dev.example": {"username": "star", "password": "x"},
            "token.example": {"auth": "YTpi", "identitytoken": "t"},
            "empty.example": {}},
            "credHelpers": {"gcr.example": "gcloud"}, "HttpHeaders": {"x": "y"}}"#;
        let keyring = Keyring::docker_config("a test", file).unwrap();
        let check = |registry: &str, repository: &str, expect: &[Credential]| {
            assert_eq!(
                keyring.lookup(registry, repository),
                expect,
                "{registry}/{repository}"
            );
        };
        check("docker.io", "library/nginx", &[basic("a:b")]);
        check(
            "registry.example:5000",
            "team/app",
            &[basic("e:f"), basic("c:d")],
        );
        check("registry.example:5000", "teams/app", &[basic("c:d")]);
        check("registry.example", "app", &[]);
        check("a.dev.example", "app", &[basic("star:x")]);
        check("a.b.dev.example", "app", &[]);
        check("dev.example", "app", &[]);
        check(
            "token.example",
            "app",
            &[Credential::Refresh("t".to_owned())],
        );
        check("empty.example", "app", &[]);
        assert_eq!(
            keyring.helper(&"gcr.example/a".parse().unwrap()),
            Some("gcloud")
        );
        assert_eq!(keyring.helper(&"other.example/a".parse().unwrap()), None);
    }

    #[test]
    fn the_older_form_is_read_and_nonsense_is_not() {
        let keyring = Keyring::docker_cfg("old", br#"{"r.example": {"auth": "YTpi"}}"#).unwrap();
        assert_eq!(keyring.lookup("r.example", "x"), [basic("a:b")]);
        for text in [
            "",
            "[]",
            r#"{"auths": {"a": {"auth": "!!"}}}"#,
            r#"{"auths": {"a": {"auth": "YWI="}}}"#,
        ] {
            let error = Keyring::docker_config("secret a/b", text.as_bytes()).unwrap_err();
            assert!(error.to_string().contains("secret a/b"), "{error}");
        }
    }

    #[test]
    fn no_secret_reaches_a_log() {
        let shown = format!(
            "{:?}",
            [basic("user:hidden"), Credential::Refresh("hidden".into())]
        );
        assert!(!shown.contains("hidden"), "{shown}");
    }
}
