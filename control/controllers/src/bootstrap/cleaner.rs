//! Deletes the tokens that have expired.

use super::token::{Life, is_token, life};
use crate::common::{Attempt, Context, Failed, now};
use k8s_openapi::api::core::v1::Secret;
use kernelet_client::{Next, ObjectKey, Queue, Shared, is_conflict, is_not_found, reconcile_all};
use kube::{
    Api, Client,
    api::{DeleteParams, Preconditions},
};
use std::sync::Arc;

struct Cleaner {
    client: Client,
    secrets: Shared<Secret>,
}

pub(super) async fn run(context: Context, secrets: Shared<Secret>) {
    let queue: Queue<ObjectKey> = Queue::default();
    let on_secrets = queue.clone();
    secrets.on_change_until(&context.shutdown, move |change| {
        on_secrets.add(ObjectKey::of(&**change.object()))
    });
    secrets.wait_until_synced().await;
    let cleaner = Arc::new(Cleaner {
        client: context.client,
        secrets,
    });
    reconcile_all("token cleaner", queue, 1, context.shutdown, move |key| {
        let cleaner = cleaner.clone();
        async move { cleaner.reconcile(&key).await }
    })
    .await;
}

impl Cleaner {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failed> {
        let Some(secret) = self.secrets.get_key(key).filter(|secret| is_token(secret)) else {
            return Ok(Next::OnChange);
        };
        match life(&secret, now()) {
            Life::Endless => return Ok(Next::OnChange),
            Life::For(left) => return Ok(Next::After(left)),
            Life::Over => {}
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: secret.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match api.delete(&key.name, &params).await {
            Err(error) if is_not_found(&error) || is_conflict(&error) => {}
            result => result
                .map(drop)
                .attempt(|| format!("deleting the expired bootstrap token {}", key.name))?,
        }
        Ok(Next::OnChange)
    }
}
