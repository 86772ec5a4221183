//! Tokens: what is asked for, what they say, and when they are no longer good.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Method;
use serde_json::{Value, json};

use crate::common::{Answer, Api, TestServer};

const NS: &str = "/api/v1/namespaces/default";
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

async fn account(api: &Api) -> Value {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "sa"}});
    api.post(&format!("{NS}/serviceaccounts"), &account)
        .await
        .ok()
}

async fn ask(api: &Api, metadata: Value, spec: Value) -> Answer {
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": metadata, "spec": spec,
    });
    api.post(&format!("{NS}/serviceaccounts/sa/token"), &request)
        .await
}

fn claims(token: &Value) -> Value {
    let payload = token.as_str().unwrap().split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

async fn review(api: &Api, token: &Value, audiences: &[&str]) -> Value {
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": token, "audiences": audiences},
    });
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    api.post(path, &review).await.ok()["status"].take()
}

fn bound(kind: &str, object: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": kind, "name": object["metadata"]["name"], "uid": object["metadata"]["uid"]})
}

#[tokio::test]
async fn a_token_says_what_was_asked_for() {
    let server = TestServer::start().await;
    let api = server.admin();
    let account = account(&api).await;
    let answer = ask(&api, json!({}), json!({})).await.ok();
    assert_eq!(answer["metadata"]["name"], "sa");
    assert_eq!(answer["metadata"]["namespace"], "default");
    assert_eq!(answer["metadata"]["uid"], account["metadata"]["uid"]);
    assert_eq!(answer["spec"]["audiences"], json!([ISSUER]));
    assert_eq!(answer["spec"]["expirationSeconds"], 3600);
    let said = claims(&answer["status"]["token"]);
    assert_eq!(said["iss"], ISSUER);
    assert_eq!(said["sub"], "system:serviceaccount:default:sa");
    assert_eq!(said["aud"], json!([ISSUER]));
    assert_eq!(said["nbf"], said["iat"]);
    assert_eq!(
        said["exp"].as_i64().unwrap() - said["iat"].as_i64().unwrap(),
        3600
    );
    assert_eq!(
        said["kubernetes.io"],
        json!({"namespace": "default", "serviceaccount": {"name": "sa", "uid": account["metadata"]["uid"]}})
    );
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}});
    let node = api.post("/api/v1/nodes", &node).await.ok();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"serviceAccountName": "sa", "nodeName": "n", "containers": [{"name": "c", "image": "x"}]},
    });
    let pod = api.post(&format!("{NS}/pods"), &pod).await.ok();
    // The figure that pods' projected tokens ask for: a year, and a word of when it should have ended.
    let spec = json!({"expirationSeconds": 3607, "boundObjectRef": bound("Pod", &pod)});
    let answer = ask(&api, json!({}), spec).await.ok();
    let said = claims(&answer["status"]["token"]);
    let at = |name: &str| said[name].as_i64().unwrap();
    assert_eq!(at("exp") - at("iat"), 365 * 24 * 3600);
    let inside = &said["kubernetes.io"];
    assert_eq!(inside["warnafter"].as_i64().unwrap() - at("iat"), 3607);
    assert_eq!(
        inside["pod"],
        json!({"name": "p", "uid": pod["metadata"]["uid"]})
    );
    assert_eq!(
        inside["node"],
        json!({"name": "n", "uid": node["metadata"]["uid"]})
    );
    let told: jiff::Timestamp = answer["status"]["expirationTimestamp"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(told.as_second() - at("iat"), 3607);
    let status = review(&api, &answer["status"]["token"], &[]).await;
    assert_eq!(
        status["user"]["extra"]["authentication.kubernetes.io/node-name"],
        json!(["n"])
    );
    assert_eq!(
        status["user"]["extra"]["authentication.kubernetes.io/credential-id"],
        json!([format!("JTI={}", said["jti"].as_str().unwrap())])
    );
    server.stop().await;
}

#[tokio::test]
async fn a_token_that_cannot_be_had_is_refused_in_upstreams_words() {
    let server = TestServer::start().await;
    let api = server.admin();
    account(&api).await;
    let other = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"serviceAccountName": "default", "containers": [{"name": "c", "image": "x"}]},
    });
    let default =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    api.post(&format!("{NS}/serviceaccounts"), &default)
        .await
        .ok();
    api.post(&format!("{NS}/pods"), &other).await.ok();
    let to = |version: &str, kind: &str, name: &str| json!({"boundObjectRef": {"apiVersion": version, "kind": kind, "name": name}});
    for (metadata, spec, expect) in [
        (
            json!({}),
            json!({"expirationSeconds": 599}),
            "422 Invalid: TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes",
        ),
        (
            json!({}),
            json!({"expirationSeconds": 4_294_967_297_i64}),
            "422 Invalid: TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds",
        ),
        (
            json!({"name": "x"}),
            json!({}),
            "422 Invalid: TokenRequest.authentication.k8s.io \"sa\" is invalid: metadata.name: Invalid value: \"x\": must match the service account name if specified",
        ),
        (
            json!({}),
            to("v1", "Pod", "p"),
            "400 BadRequest: cannot bind token for serviceaccount \"sa\" to pod running with different serviceaccount name.",
        ),
        (
            json!({}),
            to("v1", "Pod", "q"),
            "404 NotFound: pods \"q\" not found",
        ),
        (
            json!({}),
            to("apps/v1", "Deployment", "d"),
            "400 BadRequest: cannot bind token to object of type apps/v1, Kind=Deployment",
        ),
    ] {
        assert_eq!(ask(&api, metadata, spec).await.error(), expect);
    }
    let uid = json!({"uid": "0"});
    let error = ask(&api, uid, json!({})).await.error();
    assert!(
        error.contains(
            "the UID in the token request (0) does not match the UID of the service account"
        ),
        "{error}"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_token_ends_with_what_it_is_bound_to() {
    let server = TestServer::start().await;
    let api = server.admin();
    account(&api).await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    let (secrets, one) = (format!("{NS}/secrets"), format!("{NS}/secrets/s"));
    let made = api.post(&secrets, &secret).await.ok();
    let spec = json!({"audiences": ["vault", ISSUER], "boundObjectRef": bound("Secret", &made)});
    let token = ask(&api, json!({}), spec).await.ok()["status"]["token"].take();
    let status = review(&api, &token, &["vault", "other"]).await;
    assert_eq!(status["authenticated"], true);
    assert_eq!(status["audiences"], json!(["vault"]));
    let status = review(&api, &token, &["other"]).await;
    assert_eq!(
        status["error"],
        format!(
            "[invalid bearer token, token audiences [\"vault\" \"{ISSUER}\"] is invalid for the target audiences [\"other\"]]"
        )
    );
    api.delete(&one).await.ok();
    let gone = "[invalid bearer token, service account token has been invalidated]";
    assert_eq!(review(&api, &token, &[]).await["error"], gone);
    // Another of that name isn't the same.
    let again = api.post(&secrets, &secret).await.ok();
    let told = review(&api, &token, &[]).await;
    assert_eq!(
        told["error"],
        format!(
            "[invalid bearer token, secret UID ({}) does not match service account secret ref claim ({})]",
            again["metadata"]["uid"].as_str().unwrap(),
            made["metadata"]["uid"].as_str().unwrap()
        )
    );
    assert_eq!(told["user"], json!({}));
    assert_eq!(
        review(&api, &"x.y.z".into(), &[]).await["error"],
        "invalid bearer token"
    );
    let empty =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {}});
    let answer = api
        .post("/apis/authentication.k8s.io/v1/tokenreviews", &empty)
        .await;
    assert_eq!(
        answer.error(),
        "400 BadRequest: token is required for TokenReview in authentication"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_relying_party_verifies_a_token_with_what_is_published() {
    let server = TestServer::start().await;
    let api = server.admin();
    account(&api).await;
    let about = api.get("/.well-known/openid-configuration").await;
    assert_eq!(about.headers["content-type"], "application/json");
    assert_eq!(about.headers["cache-control"], "public, max-age=3600");
    let about = about.ok();
    assert_eq!(about["issuer"], ISSUER);
    assert_eq!(about["response_types_supported"], json!(["id_token"]));
    assert_eq!(about["subject_types_supported"], json!(["public"]));
    let jwks = about["jwks_uri"].as_str().unwrap().to_owned();
    assert!(jwks.starts_with("https://192.0.2.10:") && jwks.ends_with("/openid/v1/jwks"));
    let keys = api.get("/openid/v1/jwks").await;
    assert_eq!(keys.headers["content-type"], "application/jwk-set+json");
    let keys: jsonwebtoken::jwk::JwkSet = serde_json::from_value(keys.ok()).unwrap();
    let spec = json!({"audiences": ["relying-party"]});
    let token = ask(&api, json!({}), spec).await.ok()["status"]["token"].take();
    let token = token.as_str().unwrap();
    let head = jsonwebtoken::decode_header(token).unwrap();
    let key = keys.find(head.kid.as_deref().unwrap()).unwrap();
    let key = jsonwebtoken::DecodingKey::from_jwk(key).unwrap();
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
    validation.set_issuer(&[ISSUER]);
    validation.set_audience(&["relying-party"]);
    let verified = jsonwebtoken::decode::<Value>(token, &key, &validation).unwrap();
    assert_eq!(verified.claims["sub"], "system:serviceaccount:default:sa");
    // It is for the relying party and nobody else.
    let answer = server.admin().raw(Method::GET, "/api", &[], "").await;
    assert_eq!(answer.status, 200);
    server.stop().await;
}
