//! One pull's conversation with a repository: at which endpoint, as whom, and again when that may help.
//!
//! Endpoints are asked in their order, and credentials in theirs; what answered stays in use. A refusal for good (no
//! such image, access denied) leads on to the next endpoint at once; what may pass (429, 5xx, a broken connection) is
//! tried again with growing pauses.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderName, StatusCode, header};
use serde::Deserialize;

use super::{
    Progress, PullEvent, Retry,
    credentials::{Credential, Keyring},
    error::RegistryError,
    http::{Answer, Http, may_pass, speaks_no_tls},
    registries::{Endpoint, Registries},
    url::{Url, encode},
};

/// A token service's answer is small.
const MAX_TOKEN: usize = 1 << 20;
/// Whoever asks for a longer pause is told to others as the error that it is.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

pub(crate) struct Session {
    pub http: Arc<Http>,
    repository: String,
    endpoints: Vec<Door>,
    helper: Option<String>,
    pub retry: Retry,
    pub progress: Progress,
}

/// An endpoint, and what is known of it.
struct Door {
    endpoint: Endpoint,
    /// As whom it may be asked, in this order; nobody is among them.
    identities: Vec<Option<Credential>>,
    /// How many of them are the asking pod's own.
    own: usize,
    state: Mutex<State>,
}

#[derive(Clone, Default)]
struct State {
    /// Which identity is in use.
    identity: usize,
    /// The `Authorization` that it got.
    authorization: Option<String>,
    /// TLS isn't spoken there.
    plain: bool,
}

/// Bearer or basic, as `WWW-Authenticate` asks for it.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Session {
    pub fn new(
        http: Arc<Http>,
        registries: &Registries,
        registry: &str,
        repository: &str,
        (own, keyring): (&Keyring, &Keyring),
        (retry, progress): (Retry, Progress),
    ) -> Session {
        let endpoints = registries
            .endpoints(registry)
            .into_iter()
            .map(|endpoint| {
                let host = match &endpoint.mirror_of {
                    Some(_) => endpoint.base.host.as_str(),
                    None => registry,
                };
                let own = own.lookup(host, repository);
                let count = own.len();
                let mut identities: Vec<_> = own
                    .into_iter()
                    .chain(keyring.lookup(host, repository))
                    .map(Some)
                    .collect();
                if identities.is_empty() {
                    identities.push(None);
                }
                Door {
                    endpoint,
                    identities,
                    own: count,
                    state: Mutex::default(),
                }
            })
            .collect();
        let helper = format!("{registry}/{repository}").parse().ok();
        Session {
            http,
            repository: repository.to_owned(),
            endpoints,
            helper: helper.and_then(|r| {
                own.helper(&r)
                    .or_else(|| keyring.helper(&r))
                    .map(str::to_owned)
            }),
            retry,
            progress,
        }
    }

    pub fn endpoints(&self) -> usize {
        self.endpoints.len()
    }

    /// The digest of the pod's own credential that an endpoint let in; none if it would let in everybody here.
    pub fn opened_by(&self, endpoint: usize) -> Option<String> {
        let door = &self.endpoints[endpoint];
        let state = door.state();
        // Who was let in without a word needed no credential.
        let own = state.identity < door.own && state.authorization.is_some();
        let credential = door.identities[state.identity].as_ref().filter(|_| own)?;
        Some(credential.digest())
    }

    /// Asks endpoint after endpoint, beginning with `first`, for `what` (`manifests/…`, `blobs/…`); answers which one
    /// gave it.
    pub async fn get(
        &self,
        first: usize,
        what: &str,
        headers: &[(HeaderName, String)],
    ) -> Result<(usize, Answer), RegistryError> {
        let count = self.endpoints.len();
        let mut last = None;
        for at in (0..count).map(|n| (first + n) % count) {
            match self.get_at(at, what, headers).await {
                Ok(answer) => return Ok((at, answer)),
                Err(error) => {
                    if self.endpoints[at].endpoint.mirror_of.is_some() {
                        let endpoint = self.endpoints[at].endpoint.base.to_string();
                        tracing::debug!(%endpoint, %error, "a mirror doesn't have it");
                        last.get_or_insert(error);
                    } else {
                        // The registry itself knows best.
                        last = Some(error);
                    }
                }
            }
        }
        Err(last.expect("a registry has one endpoint at least"))
    }

    async fn get_at(
        &self,
        at: usize,
        what: &str,
        headers: &[(HeaderName, String)],
    ) -> Result<Answer, RegistryError> {
        let door = &self.endpoints[at];
        // With another endpoint to turn to nobody waits for this one.
        let tries = if door.endpoint.mirror_of.is_some() {
            1
        } else {
            self.retry.tries
        };
        let mut tried = 0;
        loop {
            tried += 1;
            let (error, pause) = match self.as_somebody(door, what, headers).await {
                Ok(answer) if answer.status.is_success() => return Ok(answer),
                Ok(answer) if answer.status == StatusCode::NOT_FOUND => {
                    return Err(RegistryError::NotFound(format!(
                        "{}/{what}",
                        self.repository
                    )));
                }
                Ok(answer) => {
                    let again = answer.status == StatusCode::TOO_MANY_REQUESTS
                        || answer.status == StatusCode::REQUEST_TIMEOUT
                        || answer.status.is_server_error();
                    let pause = retry_after(&answer);
                    let error = self.http.refusal(answer).await;
                    if !again || pause.is_some_and(|pause| pause > LONGEST_PAUSE) {
                        return Err(error);
                    }
                    (error, pause)
                }
                Err(error) if may_pass(&error) => (error, None),
                Err(error) => return Err(error),
            };
            if tried >= tries {
                return Err(error);
            }
            self.pause(tried, pause, &error).await;
        }
    }

    /// Waits before another try, longer each time.
    pub async fn pause(&self, tried: u32, asked: Option<Duration>, error: &RegistryError) {
        let pause = asked.unwrap_or_else(|| self.retry.pause(tried));
        tracing::debug!(%error, ?pause, "a registry is asked again");
        (self.progress)(&PullEvent::Retry {
            reason: match std::error::Error::source(error) {
                Some(cause) => format!("{error}: {cause}"),
                None => error.to_string(),
            },
            pause,
        });
        tokio::time::sleep(pause).await;
    }

    /// Asks as one identity after another until one is let in.
    async fn as_somebody(
        &self,
        door: &Door,
        what: &str,
        headers: &[(HeaderName, String)],
    ) -> Result<Answer, RegistryError> {
        let mut renewed = false;
        let mut refused = None;
        loop {
            let state = door.state();
            let mut base = door.endpoint.base.clone();
            base.tls &= !state.plain;
            let mut url = base.with(&format!("/v2/{}/{what}", self.repository));
            if let Some(registry) = &door.endpoint.mirror_of {
                url.path.push_str(&format!("?ns={}", encode(registry)));
            }
            let asked = self
                .http
                .get(&url, headers, state.authorization.as_deref())
                .await;
            let answer = match asked {
                Err(error)
                    if door.endpoint.may_be_plain && !state.plain && speaks_no_tls(&error) =>
                {
                    door.update(|state| state.plain = true);
                    continue;
                }
                other => other?,
            };
            let status = answer.status;
            if status != StatusCode::UNAUTHORIZED && status != StatusCode::FORBIDDEN {
                return Ok(answer);
            }
            // A redirection's target that says no isn't who asks for credentials.
            let challenge = if answer.url.same_origin(&url) && status == StatusCode::UNAUTHORIZED {
                challenge(&answer)
            } else {
                None
            };
            let said = self.http.refusal(answer).await;
            if let Some(challenge) = challenge
                && (state.authorization.is_none() || !renewed)
            {
                // Also when a token has expired in the middle of a long pull.
                renewed = state.authorization.is_some();
                let identity = door.identities[state.identity].as_ref();
                match self.authorize(&challenge, identity, &base).await {
                    Ok(Some(authorization))
                        if state.authorization.as_ref() != Some(&authorization) =>
                    {
                        door.update(|state| state.authorization = Some(authorization));
                        continue;
                    }
                    Ok(_) => {}
                    Err(error @ RegistryError::Io { .. }) => return Err(error),
                    Err(error) => refused = Some(error),
                }
            }
            if state.identity + 1 < door.identities.len() {
                renewed = false;
                door.update(|state| {
                    state.identity += 1;
                    state.authorization = None;
                });
                continue;
            }
            door.update(|state| {
                *state = State {
                    plain: state.plain,
                    ..State::default()
                }
            });
            return Err(refused.unwrap_or_else(|| self.denied(&said)));
        }
    }

    fn denied(&self, said: &RegistryError) -> RegistryError {
        let mut detail = format!("server message: {said}");
        if let Some(helper) = &self.helper {
            detail.push_str(&format!(
                "; the credentials' file names the helper docker-credential-{helper}, and helpers are not supported: \
                 put auths into the file"
            ));
        }
        RegistryError::Denied { detail }
    }

    /// What a challenge wants, for an identity; none if it has nothing to give.
    async fn authorize(
        &self,
        challenge: &Challenge,
        identity: Option<&Credential>,
        base: &Url,
    ) -> Result<Option<String>, RegistryError> {
        let (realm, service, scope) = match (challenge, identity) {
            (Challenge::Basic, Some(Credential::Basic { user, password })) => {
                return Ok(Some(basic(user, password)));
            }
            (Challenge::Basic, _) => return Ok(None),
            (
                Challenge::Bearer {
                    realm,
                    service,
                    scope,
                },
                _,
            ) => (realm, service, scope),
        };
        let url = Url::parse(realm).ok_or_else(|| {
            RegistryError::Authorize(format!("the realm {realm:?} is not an address"))
        })?;
        // Who listens to the registry's own traffic could read the password anyway; nobody else shall.
        if !url.tls && base.tls {
            return Err(RegistryError::Authorize(format!(
                "the realm {url} has no TLS"
            )));
        }
        let scope = scope
            .clone()
            .unwrap_or_else(|| format!("repository:{}:pull", self.repository));
        let service = service.as_deref().unwrap_or_default();
        let mut answer = if let Some(Credential::Refresh(token)) = identity {
            let form = format!(
                "grant_type=refresh_token&client_id=kernelet&service={}&scope={}&refresh_token={}",
                encode(service),
                encode(&scope),
                encode(token)
            );
            self.http.post(&url, form).await?
        } else {
            let mut query = format!("scope={}", encode(&scope));
            if !service.is_empty() {
                query = format!("service={}&{query}", encode(service));
            }
            let secret = match identity {
                Some(Credential::Basic { user, password }) => Some(basic(user, password)),
                _ => None,
            };
            let mut url = url.clone();
            let separator = if url.path.contains('?') { '&' } else { '?' };
            url.path.push_str(&format!("{separator}{query}"));
            self.http.get(&url, &[], secret.as_deref()).await?
        };
        if !answer.status.is_success() {
            let kind = if identity.is_some() {
                "oauth"
            } else {
                "anonymous"
            };
            let said = self.http.refusal(answer).await;
            return Err(RegistryError::Authorize(format!(
                "failed to fetch {kind} token: {said}"
            )));
        }
        let body = self.http.body(&mut answer, MAX_TOKEN).await?;
        let token: Token = serde_json::from_slice(&body).map_err(|error| {
            RegistryError::Authorize(format!("{url} answers no token: {error}"))
        })?;
        match token
            .token
            .or(token.access_token)
            .filter(|token| !token.is_empty())
        {
            Some(token) => Ok(Some(format!("Bearer {token}"))),
            None => Err(RegistryError::Authorize(format!("{url} answers no token"))),
        }
    }
}

impl Door {
    fn state(&self) -> State {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Seconds; a date is left to our own pauses.
fn retry_after(answer: &Answer) -> Option<Duration> {
    let seconds = answer.header(&header::RETRY_AFTER)?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Bearer where it is offered.
fn challenge(answer: &Answer) -> Option<Challenge> {
    let all: Vec<_> = answer
        .headers
        .get_all(header::WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| parse_challenge(value.to_str().ok()?))
        .collect();
    let bearer = all
        .iter()
        .position(|c| matches!(c, Challenge::Bearer { .. }));
    all.into_iter().nth(bearer.unwrap_or(0))
}

fn parse_challenge(text: &str) -> Option<Challenge> {
    let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut scope) = (None, None, None);
    let mut rest = rest.trim_start();
    while let Some((key, after)) = rest.split_once('=') {
        let after = after.trim_start();
        let (value, after) = if let Some(quoted) = after.strip_prefix('"') {
            let mut value = String::new();
            let mut chars = quoted.char_indices();
            let mut end = quoted.len();
            while let Some((at, c)) = chars.next() {
                match c {
                    '\\' => value.extend(chars.next().map(|(_, c)| c)),
                    '"' => {
                        end = at + 1;
                        break;
                    }
                    c => value.push(c),
                }
            }
            (value, &quoted[end..])
        } else {
            let end = after.find(',').unwrap_or(after.len());
            (after[..end].trim().to_owned(), &after[end..])
        };
        match key.trim().to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value),
            "service" => service = Some(value),
            "scope" => scope = Some(value),
            _ => {}
        }
        rest = after.trim_start().trim_start_matches(',').trim_start();
    }
    Some(Challenge::Bearer {
        realm: realm?,
        service,
        scope,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.to_owned(),
                service: service.map(str::to_owned),
                scope: scope.map(str::to_owned),
            })
        };
        let check = |text: &str, expect: Option<Challenge>| {
            assert_eq!(parse_challenge(text), expect, "{text}")
        };
        check("Basic realm=\"x\"", Some(Challenge::Basic));
        check("basic", Some(Challenge::Basic));
        check(
            "Bearer realm=\"https://auth.example/token\",service=\"r.example\",scope=\"repository:a/b:pull,push\"",
            bearer(
                "https://auth.example/token",
                Some("r.example"),
                Some("repository:a/b:pull,push"),
            ),
        );
        check(
            "BEARER realm=https://a/t, service = \"q\\\"d\"",
            bearer("https://a/t", Some("q\"d"), None),
        );
        check(
            "Bearer realm=\"unterminated",
            bearer("unterminated", None, None),
        );
        check("Bearer service=\"x\"", None);
        check("Negotiate", None);
        check("", None);
    }
}
