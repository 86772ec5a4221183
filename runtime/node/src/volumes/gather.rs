//! What a volume's files shall be, collected from the API.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Volume, VolumeProjection};
use kernelet_pod_plan::{
    Wanted,
    fields::RuntimeFields,
    project::{self, FileContent, Payload, ProjectError},
};

use crate::{
    errors::chain,
    objects::NoAnswer,
    pod::{Follower, PodHome},
};

#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub payload: Payload,
    pub refresh_at: Option<Timestamp>,
    /// The user that alone may read a token.
    pub owner: Option<u32>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum GatherError {
    #[error("configmap \"{0}\" not found")]
    NoConfigMap(String),
    #[error("secret \"{0}\" not found")]
    NoSecret(String),
    #[error(transparent)]
    Project(#[from] ProjectError),
    #[error("failed to fetch token: {0}")]
    Token(String),
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    #[error("its kind is not implemented")]
    Unimplemented,
}

const DEFAULT_MODE: u32 = 0o644;

fn mode(given: Option<i32>) -> u32 {
    given.map_or(DEFAULT_MODE, i32::unsigned_abs)
}

pub(super) async fn payload(
    home: &Arc<PodHome>,
    wanted: &Wanted,
    volume: &Volume,
) -> Result<Gathered, GatherError> {
    let follower = Follower::Volume(volume.name.clone());
    if let Some(source) = &volume.config_map {
        let optional = source.optional == Some(true);
        let map = config_map(home, &follower, &source.name, optional).await?;
        let payload = project::config_map(
            &map,
            source.items.as_deref(),
            mode(source.default_mode),
            optional,
        )?;
        return Ok(Gathered {
            payload,
            ..Gathered::default()
        });
    }
    if let Some(source) = &volume.secret {
        let name = source.secret_name.clone().unwrap_or_default();
        let optional = source.optional == Some(true);
        let found = secret(home, &follower, &name, optional).await?;
        let payload = project::secret(
            &found,
            source.items.as_deref(),
            mode(source.default_mode),
            optional,
        )?;
        return Ok(Gathered {
            payload,
            ..Gathered::default()
        });
    }
    if let Some(source) = &volume.downward_api {
        let items = source.items.as_deref().unwrap_or_default();
        let payload = project::downward(wanted, items, mode(source.default_mode), &fields(home))?;
        return Ok(Gathered {
            payload,
            ..Gathered::default()
        });
    }
    let Some(source) = &volume.projected else {
        return Err(GatherError::Unimplemented);
    };
    let mut all = Gathered::default();
    for part in source.sources.iter().flatten() {
        add(
            home,
            wanted,
            &follower,
            part,
            mode(source.default_mode),
            &mut all,
        )
        .await?;
    }
    Ok(all)
}

async fn add(
    home: &Arc<PodHome>,
    wanted: &Wanted,
    follower: &Follower,
    part: &VolumeProjection,
    mode: u32,
    all: &mut Gathered,
) -> Result<(), GatherError> {
    if let Some(source) = &part.config_map {
        let optional = source.optional == Some(true);
        let map = config_map(home, follower, &source.name, optional).await?;
        all.payload.extend(project::config_map(
            &map,
            source.items.as_deref(),
            mode,
            optional,
        )?);
    } else if let Some(source) = &part.secret {
        let optional = source.optional == Some(true);
        let found = secret(home, follower, &source.name, optional).await?;
        all.payload.extend(project::secret(
            &found,
            source.items.as_deref(),
            mode,
            optional,
        )?);
    } else if let Some(source) = &part.downward_api {
        let items = source.items.as_deref().unwrap_or_default();
        all.payload
            .extend(project::downward(wanted, items, mode, &fields(home))?);
    } else if let Some(source) = &part.service_account_token {
        let account = wanted
            .spec()
            .service_account_name
            .clone()
            .unwrap_or_else(|| "default".to_owned());
        let token = home.tokens.get(home, &account, source).await;
        let (token, refresh_at) = token.map_err(|e| GatherError::Token(chain(&e)))?;
        // Only the user that the pod runs as may read it; others need the group.
        let security = wanted.spec().security_context.clone().unwrap_or_default();
        all.owner = security.run_as_user.and_then(|u| u32::try_from(u).ok());
        let narrow = all.owner.is_some() || security.fs_group.is_some();
        let mode = if narrow { 0o600 } else { mode };
        all.payload.insert(
            project::safe(&source.path)?,
            FileContent {
                bytes: token.into_bytes(),
                mode,
            },
        );
        all.refresh_at = Some(all.refresh_at.map_or(refresh_at, |at| at.min(refresh_at)));
    } else {
        return Err(GatherError::Unimplemented);
    }
    Ok(())
}

fn fields(home: &PodHome) -> RuntimeFields<'_> {
    RuntimeFields {
        node_name: &home.ctx.config.node_name,
        ..RuntimeFields::default()
    }
}

async fn config_map(
    home: &Arc<PodHome>,
    follower: &Follower,
    name: &str,
    optional: bool,
) -> Result<Arc<ConfigMap>, GatherError> {
    match home.config_map(follower, name).await? {
        Some(map) => Ok(map),
        None if optional => Ok(Arc::default()),
        None => Err(GatherError::NoConfigMap(name.to_owned())),
    }
}

async fn secret(
    home: &Arc<PodHome>,
    follower: &Follower,
    name: &str,
    optional: bool,
) -> Result<Arc<Secret>, GatherError> {
    match home.secret(follower, name).await? {
        Some(secret) => Ok(secret),
        None if optional => Ok(Arc::default()),
        None => Err(GatherError::NoSecret(name.to_owned())),
    }
}
