//! Who calls the kubelet API, and whether they may: client certificate or token, then a SubjectAccessReview.

use http::{Method, Request, StatusCode, header};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kernelet_pki::Peer;
use kube::{Api, api::PostParams};

use super::{Answer, text};
use crate::{context::Context, errors::chain};

/// A caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct User {
    name: String,
    groups: Vec<String>,
}

#[derive(Debug)]
pub(super) enum Refusal {
    Unauthorized,
    Forbidden(String),
    Unknown(String),
}

impl Refusal {
    pub fn answer(self) -> Answer {
        match self {
            Self::Unauthorized => text(StatusCode::UNAUTHORIZED, "Unauthorized"),
            Self::Forbidden(why) => text(StatusCode::FORBIDDEN, why),
            Self::Unknown(why) => text(StatusCode::INTERNAL_SERVER_ERROR, why),
        }
    }
}

pub(super) async fn identify<B>(ctx: &Context, request: &Request<B>) -> Result<User, Refusal> {
    let peer = request.extensions().get::<Peer>();
    let certificate = peer.and_then(|peer| peer.0.as_ref());
    if let Some(identity) = certificate.and_then(|shown| shown.identity.clone()) {
        return Ok(User {
            name: identity.common_name,
            groups: identity.organizations,
        });
    }
    let token = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok());
    let Some(token) = token.and_then(|t| t.strip_prefix("Bearer ")) else {
        return Err(Refusal::Unauthorized);
    };
    let review = TokenReview {
        spec: TokenReviewSpec {
            token: Some(token.trim().to_owned()),
            ..TokenReviewSpec::default()
        },
        ..TokenReview::default()
    };
    let api = Api::<TokenReview>::all(ctx.client.clone());
    let answer = api.create(&PostParams::default(), &review).await;
    let status = answer
        .map_err(|e| Refusal::Unknown(format!("review the token: {}", chain(&e))))?
        .status;
    let status = status
        .filter(|s| s.authenticated == Some(true))
        .ok_or(Refusal::Unauthorized)?;
    let user = status.user.unwrap_or_default();
    Ok(User {
        name: user.username.unwrap_or_default(),
        groups: user.groups.unwrap_or_default(),
    })
}

pub(super) async fn authorize(
    ctx: &Context,
    user: &User,
    method: &Method,
    path: &str,
) -> Result<(), Refusal> {
    // As everywhere in Kubernetes: this group may do everything, without being asked about.
    if user.groups.iter().any(|g| g == "system:masters") {
        return Ok(());
    }
    let (verb, subresources) = (verb(method), subresources(path));
    for subresource in &subresources {
        if allowed(ctx, user, verb, subresource).await? {
            return Ok(());
        }
    }
    Err(Refusal::Forbidden(format!(
        "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])\n",
        user.name,
        subresources.join(" ")
    )))
}

async fn allowed(
    ctx: &Context,
    user: &User,
    verb: &str,
    subresource: &str,
) -> Result<bool, Refusal> {
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(user.name.clone()),
            groups: Some(user.groups.clone()),
            resource_attributes: Some(ResourceAttributes {
                resource: Some("nodes".to_owned()),
                subresource: Some(subresource.to_owned()),
                name: Some(ctx.config.node_name.clone()),
                verb: Some(verb.to_owned()),
                version: Some("v1".to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let api = Api::<SubjectAccessReview>::all(ctx.client.clone());
    let answer = api.create(&PostParams::default(), &review).await;
    let answer =
        answer.map_err(|e| Refusal::Unknown(format!("review the access: {}", chain(&e))))?;
    Ok(answer
        .status
        .is_some_and(|s| s.allowed && s.denied != Some(true)))
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// The node's subresources that open a path, any of them: the fine ones first, as upstream asks.
fn subresources(path: &str) -> Vec<&'static str> {
    let first = path.split('/').find(|p| !p.is_empty()).unwrap_or_default();
    match first {
        "stats" => vec!["stats"],
        "metrics" => vec!["metrics"],
        "logs" => vec!["log"],
        "healthz" => vec!["healthz", "proxy"],
        "pods" | "runningpods" => vec!["pods", "proxy"],
        "configz" => vec!["configz", "proxy"],
        _ => vec!["proxy"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_ask_for_the_subresources_that_upstream_asks_for() {
        for (path, expected) in [
            ("/stats/summary", vec!["stats"]),
            ("/metrics/resource", vec!["metrics"]),
            ("/containerLogs/a/b/c", vec!["proxy"]),
            ("/pods", vec!["pods", "proxy"]),
            ("/configz", vec!["configz", "proxy"]),
            ("/", vec!["proxy"]),
        ] {
            assert_eq!(subresources(path), expected, "{path}");
        }
        assert_eq!((verb(&Method::GET), verb(&Method::POST)), ("get", "create"));
    }
}
