//! Credentials and mirrors.

use std::sync::Arc;

use kernelet_image::{Credential, Keyring, PullOptions, Registries, RegistryOptions};

use crate::{
    common::{root, store},
    layer, read,
    registry::{Asked, Registry, Reply, chain, options, puller, run, sha256},
};

#[test]
fn credentials_are_given_where_they_are_asked_for_and_nowhere_else() {
    if !root("credentials_are_given_where_they_are_asked_for_and_nowhere_else") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    // Blobs lie on another host, which must not hear of the token.
    let elsewhere = Registry::honest();
    elsewhere.plain_image("app", "latest", &[layer("x")]);
    let far = elsewhere.host.clone();
    let host = Arc::new(std::sync::OnceLock::<String>::new());
    let own = host.clone();
    let registry = Registry::twisted(move |asked: &Asked, _, reply| {
        if asked.path.starts_with("/token") {
            let right = asked.header("authorization") == "Basic dXNlcjpzZWNyZXQ="
                && asked.path.contains("scope=repository:app:pull")
                && asked.path.contains("service=r%20s")
                || asked.body.contains("refresh_token=idtoken")
                    && asked.body.contains("grant_type=refresh_token");
            return if right {
                Reply::new(200, r#"{"access_token":"T"}"#)
            } else {
                Reply::new(401, "")
            };
        }
        if asked.header("authorization") != "Bearer T" {
            let challenge = format!(
                "Bearer realm=\"http://{}/token\",service=\"r s\"",
                own.get().unwrap()
            );
            return Reply::new(
                401,
                r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#,
            )
            .with("WWW-Authenticate", challenge);
        }
        if asked.path.contains("/blobs/") {
            return Reply::new(307, "").with("Location", format!("http://{far}{}", asked.path));
        }
        reply
    });
    host.set(registry.host.clone()).unwrap();
    registry.plain_image("app", "latest", &[layer("x")]);
    let of = |user: &str| {
        let text = format!(r#"{{"auths": {{"{}": {user}}}}}"#, registry.host);
        Keyring::docker_config("a test", text.as_bytes()).unwrap()
    };
    let wrong = of(r#"{"username": "user", "password": "wrong"}"#);
    let attempt = |keyring: Keyring| {
        run(puller(&store, Registries::default()).pull(&registry.name("app"), &options(keyring).0))
    };
    let error = chain(&attempt(Keyring::default()).unwrap_err());
    assert!(
        error.contains("failed to authorize: failed to fetch anonymous token"),
        "{error}"
    );
    let error = chain(&attempt(wrong.clone()).unwrap_err());
    assert!(error.contains("failed to fetch oauth token"), "{error}");
    assert!(!error.contains("wrong"), "{error}");
    // The second of two is right.
    attempt(wrong.and(&of(r#"{"auth": "dXNlcjpzZWNyZXQ="}"#))).unwrap();
    store.rm(&registry.name("app").to_string()).unwrap();
    attempt(of(r#"{"identitytoken": "idtoken"}"#)).unwrap();
    assert!(elsewhere.asked().len() >= 2);
    assert!(
        elsewhere
            .asked()
            .iter()
            .all(|asked| asked.header("authorization").is_empty())
    );

    // Basic, and no for good.
    let registry =
        Registry::twisted(
            |asked: &Asked, _, reply| match asked.header("authorization") {
                "Basic dXNlcjpzZWNyZXQ=" => reply,
                _ => Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"x\""),
            },
        );
    registry.plain_image("app", "latest", &[layer("x")]);
    let attempt = |creds: &str| {
        let keyring = Keyring::single(creds.parse::<Credential>().unwrap());
        run(puller(&store, Registries::default()).pull(&registry.name("app"), &options(keyring).0))
    };
    attempt("user:secret").unwrap();
    let error = chain(&attempt("user:other").unwrap_err());
    assert!(
        error
            .contains("pull access denied, repository does not exist or may require authorization"),
        "{error}"
    );
}

#[test]
fn mirrors_are_asked_first_and_the_registry_last() {
    if !root("mirrors_are_asked_first_and_the_registry_last") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let registry = Registry::honest();
    registry.plain_image("team/app", "latest", &[layer("registry")]);
    let broken = Registry::twisted(|_, _, _| Reply::new(500, ""));
    // Has the manifest, but not the layer.
    let half = Registry::honest_but(
        |asked| asked.path.contains("/blobs/") && asked.path.contains(&sha256(&layer("registry"))),
        Reply::new(404, ""),
    );
    half.plain_image("team/app", "latest", &[layer("registry")]);
    let gone = Registry::honest();
    let gone_host = gone.host.clone();
    drop(gone);
    let registries = Registries::new(&RegistryOptions {
        mirrors: [&gone_host, &broken.host, &half.host]
            .map(|host| format!("{}=http://{host}", registry.host))
            .to_vec(),
        ..RegistryOptions::default()
    })
    .unwrap();
    let pulled =
        run(puller(&store, registries).pull(&registry.name("team/app"), &PullOptions::default()))
            .unwrap();
    assert_eq!(read(&pulled.image, 0), "registry");
    assert_eq!(pulled.image.references, [registry.name("team/app")]);
    assert_eq!(
        broken.asked()[0].path,
        format!("/v2/team/app/manifests/latest?ns={}", registry.host)
    );
    assert_eq!(
        (registry.count("/manifests/"), registry.count("/blobs/")),
        (0, 1)
    );
}
