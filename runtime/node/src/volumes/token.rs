//! ServiceAccount tokens for projected volumes: asked for once, renewed when most of their life is over.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{ServiceAccount, ServiceAccountTokenProjection},
};
use kube::{Api, api::PostParams};

use crate::pod::PodHome;

/// A pod's tokens, by audience and lifetime.
#[derive(Default)]
pub(crate) struct Tokens {
    known: Mutex<HashMap<(String, i64), Known>>,
}

#[derive(Clone)]
struct Known {
    token: String,
    refresh_at: Timestamp,
}

const DEFAULT_LIFE: i64 = 3600;
/// However long a token lives, it is renewed after a day, as upstream's are.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

impl Tokens {
    /// A token that has life left, and when to ask for another.
    pub async fn get(
        &self,
        home: &PodHome,
        account: &str,
        projection: &ServiceAccountTokenProjection,
    ) -> Result<(String, Timestamp), kube::Error> {
        let audience = projection.audience.clone().unwrap_or_default();
        let life = projection.expiration_seconds.unwrap_or(DEFAULT_LIFE);
        let key = (audience.clone(), life);
        let asked_at = Timestamp::now();
        let known = self
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&key)
            .cloned();
        if let Some(known) = known.filter(|k| asked_at < k.refresh_at) {
            return Ok((known.token, known.refresh_at));
        }
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: if audience.is_empty() {
                    Vec::new()
                } else {
                    vec![audience]
                },
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(home.id.name.clone()),
                    uid: Some(home.id.uid.clone()),
                }),
                expiration_seconds: Some(life),
            },
            ..TokenRequest::default()
        };
        let api = Api::<ServiceAccount>::namespaced(home.ctx.client.clone(), &home.id.namespace);
        let answer = api
            .create_token_request(account, &PostParams::default(), &request)
            .await?;
        let status = answer.status.ok_or_else(|| {
            kube::Error::Service("the API answered a token request without a token".into())
        })?;
        let known = Known {
            token: status.token,
            refresh_at: refresh_at(asked_at, status.expiration_timestamp.0),
        };
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, known.clone());
        Ok((known.token, known.refresh_at))
    }
}

/// At four fifths of its life.
fn refresh_at(issued: Timestamp, expires: Timestamp) -> Timestamp {
    let life = Duration::try_from(expires.duration_since(issued)).unwrap_or_default();
    issued + (life * 4 / 5).min(LONGEST).max(Duration::from_secs(10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_when_most_of_its_life_is_over() {
        let at = |secs: i64| Timestamp::from_second(secs).expect("in range");
        assert_eq!(refresh_at(at(0), at(3600)), at(2880));
        assert_eq!(refresh_at(at(0), at(10_000_000)), at(86_400));
        assert_eq!(
            refresh_at(at(5), at(0)),
            at(15),
            "one that is born expired is not asked for in a loop"
        );
    }
}
