//! A container's image: found here or pulled, and told in upstream's words.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use kernelet_client::EventType;
use kernelet_image::{Image, ImageError, Keyring, PullOptions, Reference};
use kernelet_pod_plan::{Done, FailureReason, Outcome, PullPolicy, Role, StepError, Wanted};

use super::containers::field_path;
use crate::{
    errors::chain,
    images::{LocalImage, blocking, local},
    pod::{Follower, PodHome},
};

pub(super) async fn resolve_image(
    home: &PodHome,
    wanted: &Wanted,
    container: &str,
    image: &str,
    policy: PullPolicy,
) -> Outcome {
    let local = ensure(home, wanted, container, image, policy).await?;
    let found = local.found.clone();
    home.set_image(container, local);
    Ok(Done::Image(found))
}

/// The image that a container asks for, pulled if its policy or its absence wants that.
pub(super) async fn ensure(
    home: &PodHome,
    wanted: &Wanted,
    container: &str,
    image: &str,
    policy: PullPolicy,
) -> Result<LocalImage, StepError> {
    let tell = |type_, reason: &str, message: String| {
        let role = wanted
            .container(container)
            .map_or(Role::Main, |(role, _)| role);
        home.container_event(&field_path(role, container), type_, reason, message);
    };
    let reference = match image.parse::<Reference>() {
        Ok(reference) => reference,
        Err(error) => match find(home, image).await? {
            // An image's id is no name, and still says which one.
            Some(known) if policy != PullPolicy::Always && known.is_everybodys() => {
                tell(EventType::Normal, "Pulled", present(image));
                return Ok(local(image, known));
            }
            _ => {
                return Err(StepError {
                    reason: FailureReason::InvalidImageName,
                    message: format!(
                        "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": invalid \
                         reference format: {}",
                        error.reason
                    ),
                });
            }
        },
    };
    let mut own = None;
    if policy != PullPolicy::Always {
        if let Some(known) = find(home, image).await? {
            if !known.is_open_to(&reference, &Keyring::default()) {
                own = Some(keyring(home, wanted).await?);
            }
            if known.is_open_to(&reference, own.as_ref().unwrap_or(&Keyring::default())) {
                tell(EventType::Normal, "Pulled", present(image));
                return Ok(local(image, known));
            }
        }
        // The same words for one that is there and not this pod's: nobody learns of it.
        if policy == PullPolicy::Never {
            return Err(StepError {
                reason: FailureReason::ErrImageNeverPull,
                message: format!(
                    "Container image \"{image}\" is not present with pull policy of Never"
                ),
            });
        }
    }
    tell(
        EventType::Normal,
        "Pulling",
        format!("Pulling image \"{image}\""),
    );
    let own = match own {
        Some(own) => own,
        None => keyring(home, wanted).await?,
    };
    let begun = Instant::now();
    let images = &home.ctx.images;
    let options = PullOptions {
        keyring: images.node_keyring(),
        own,
        ..PullOptions::default()
    };
    // The pod may go meanwhile: then nobody waits for its images.
    let pulled = tokio::select! {
        pulled = images.pull(&reference, &options) => pulled,
        () = home.over.cancelled() => return Err(pull_failed("the pod is gone".to_owned())),
    };
    let (pulled, took) = pulled.map_err(|error| pull_failed(chain(&error)))?;
    tell(
        EventType::Normal,
        "Pulled",
        format!(
            "Successfully pulled image \"{image}\" in {} ({} including waiting). Image size: {} bytes.",
            go_duration(took),
            go_duration(begun.elapsed()),
            pulled.image.size
        ),
    );
    Ok(local(image, pulled.image))
}

fn present(image: &str) -> String {
    format!("Container image \"{image}\" already present on machine and can be accessed by the pod")
}

fn pull_failed(message: String) -> StepError {
    StepError {
        reason: FailureReason::ErrImagePull,
        message,
    }
}

async fn find(home: &PodHome, image: &str) -> Result<Option<Image>, StepError> {
    let (store, name) = (home.ctx.images.store().clone(), image.to_owned());
    match blocking(move || store.get(&name)).await? {
        Ok(known) => Ok(Some(known)),
        Err(ImageError::NotFound(_) | ImageError::Reference(_)) => Ok(None),
        Err(error) => Err(StepError {
            reason: FailureReason::ErrImagePull,
            message: format!("Failed to inspect image \"{image}\": {}", chain(&error)),
        }),
    }
}

/// What the pod's pull secrets hold. One that isn't there is told, and the pull goes on without it.
async fn keyring(home: &PodHome, wanted: &Wanted) -> Result<Keyring, StepError> {
    let spec = wanted.pod.spec.as_ref();
    let mut keyring = Keyring::default();
    let mut missing = Vec::new();
    for named in spec
        .and_then(|s| s.image_pull_secrets.as_ref())
        .into_iter()
        .flatten()
    {
        if named.name.is_empty() {
            continue;
        }
        match home.secret(&Follower::Configuration, &named.name).await {
            Ok(Some(secret)) => {
                let more =
                    of_secret(&home.id.namespace, &secret).map_err(|e| pull_failed(chain(&e)))?;
                keyring = keyring.and(&more);
            }
            Ok(None) => missing.push(named.name.as_str()),
            Err(error) => {
                tracing::warn!(%error, secret = %named.name, "read a pull secret");
                missing.push(named.name.as_str());
            }
        }
    }
    if !missing.is_empty() {
        let message = format!(
            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
            missing.join(", ")
        );
        home.event(
            EventType::Warning,
            "FailedToRetrieveImagePullSecret",
            message,
        );
    }
    Ok(keyring)
}

/// Of either type; a secret of another one holds nothing for registries.
fn of_secret(namespace: &str, secret: &Secret) -> Result<Keyring, kernelet_image::CredentialError> {
    let what = format!(
        "secret {namespace}/{}",
        secret.metadata.name.as_deref().unwrap_or_default()
    );
    let data = |key: &str| secret.data.as_ref().and_then(|data| data.get(key));
    if let Some(config) = data(".dockerconfigjson") {
        return Keyring::docker_config(&what, &config.0);
    }
    match data(".dockercfg") {
        Some(config) => Keyring::docker_cfg(&what, &config.0),
        None => Ok(Keyring::default()),
    }
}

/// As Go prints a duration of whole milliseconds: `850ms`, `1.2s`, `1m2.345s`.
fn go_duration(took: Duration) -> String {
    let ms = took.as_millis();
    if ms == 0 {
        return "0s".to_owned();
    }
    if ms < 1000 {
        return format!("{ms}ms");
    }
    let seconds = |ms: u128| {
        let text = format!("{}.{:03}", ms / 1000, ms % 1000);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    let (hours, minutes, rest) = (ms / 3_600_000, ms / 60_000 % 60, seconds(ms % 60_000));
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, minutes) => format!("{minutes}m{rest}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{rest}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (ms, text) in [
            (0, "0s"),
            (850, "850ms"),
            (1000, "1s"),
            (1200, "1.2s"),
            (62_345, "1m2.345s"),
            (60_000, "1m0s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn both_types_of_pull_secrets_are_read() {
        let secret = |key: &str, value: &str| -> Secret {
            serde_json::from_value(
                serde_json::json!({"metadata": {"name": "s"}, "data": {key: k8s(value)}}),
            )
            .unwrap()
        };
        fn k8s(value: &str) -> serde_json::Value {
            serde_json::to_value(k8s_openapi::ByteString(value.as_bytes().to_vec())).unwrap()
        }
        let entry = r#"{"r.example": {"username": "u", "password": "p"}}"#;
        let new = of_secret(
            "n",
            &secret(".dockerconfigjson", &format!(r#"{{"auths": {entry}}}"#)),
        )
        .unwrap();
        let old = of_secret("n", &secret(".dockercfg", entry)).unwrap();
        for keyring in [new, old] {
            assert_eq!(keyring.lookup("r.example", "app").len(), 1);
        }
        assert!(of_secret("n", &secret("token", "x")).unwrap().is_empty());
        let error = of_secret("n", &secret(".dockerconfigjson", "x"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("secret n/s"), "{error}");
    }
}
