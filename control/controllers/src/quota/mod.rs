//! ResourceQuotas: how much of each is used, counted anew when something is given back.
//!
//! What is taken is charged by the API server together with the object that takes it. Here is counted what nobody
//! charges: a quota that is new or was changed, objects that are gone, pods that ended. A count is written only if
//! the quota is still as it was when counting began; every object that was charged before is among those counted,
//! since they are listed afterwards. So a count never forgets a charge.

mod count;

use crate::{
    common::{Attempt, Context, Failed},
    inventory::{Inventory, Kind},
};
use count::{Counted, count};
use k8s_openapi::api::core::v1::{Pod, ResourceQuota, Service};
use kernelet_client::{
    Change, Next, ObjectKey, Queue, Shared, is_conflict, is_not_found, reconcile_all,
};
use kube::{Api, Client, api::PostParams};
use std::{sync::Arc, time::Duration};

const WORKERS: usize = 2;
/// A count that lost against charges is made again at once, so often.
const ATTEMPTS: usize = 5;
/// What was counted wrong for whatever reason is mended after this long.
const LOOK_AGAIN: Duration = Duration::from_secs(600);

struct Controller {
    client: Client,
    quotas: Shared<ResourceQuota>,
    kinds: Vec<Kind>,
}

pub(crate) async fn run(context: Context, inventory: Arc<Inventory>) {
    let quotas = context.informers.all::<ResourceQuota>();
    let pods = context.informers.all::<Pod>();
    let services = context.informers.all::<Service>();
    let queue: Queue<ObjectKey> = Queue::default();
    let own = queue.clone();
    quotas.on_change_until(&context.shutdown, move |change| {
        if is_to_count(change) {
            own.add(ObjectKey::of(&**change.object()));
        }
    });
    let replenished = {
        let (quotas, queue) = (quotas.clone(), queue.clone());
        move |namespace: &str| {
            for quota in quotas.list_in(namespace) {
                queue.add(ObjectKey::of(&*quota));
            }
        }
    };
    let on_pods = replenished.clone();
    pods.on_change_until(&context.shutdown, move |change| {
        if let Change::Updated { old, new } = change
            && gives_back(old, new)
        {
            on_pods(new.metadata.namespace.as_deref().unwrap_or_default());
        }
    });
    let on_services = replenished.clone();
    services.on_change_until(&context.shutdown, move |change| {
        if let Change::Updated { old, new } = change
            && old.spec != new.spec
        {
            on_services(new.metadata.namespace.as_deref().unwrap_or_default());
        }
    });
    inventory.on_removed(move |namespace| replenished(namespace));
    quotas.wait_until_synced().await;
    let controller = Arc::new(Controller {
        client: context.client,
        quotas,
        kinds: inventory.kinds.clone(),
    });
    reconcile_all("quota", queue, WORKERS, context.shutdown, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
    .await;
}

/// New, changed by its owner, or never counted. Charges, which are the server's, are not.
fn is_to_count(change: &Change<ResourceQuota>) -> bool {
    let Some(new) = change.new() else {
        return false;
    };
    let hard = |quota: &ResourceQuota| quota.spec.as_ref().and_then(|spec| spec.hard.clone());
    let status = new.status.as_ref();
    let stale = status.and_then(|status| status.hard.clone()) != hard(new)
        || status.is_none_or(|status| status.used.is_none());
    stale || change.old().is_none_or(|old| old.spec != new.spec)
}

/// The pod ended, was resized, came out of a scope, or has begun to end.
fn gives_back(old: &Pod, new: &Pod) -> bool {
    let ended = |pod: &Pod| {
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    };
    let resources = |pod: &Pod| {
        let status = pod.status.as_ref();
        let containers = status.and_then(|status| status.container_statuses.as_deref());
        let list = containers.unwrap_or_default().iter();
        list.map(|container| container.resources.clone())
            .collect::<Vec<_>>()
    };
    ended(old) != ended(new)
        || old.spec != new.spec
        || old.metadata.deletion_timestamp != new.metadata.deletion_timestamp
        || resources(old) != resources(new)
}

impl Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failed> {
        if self.quotas.get_key(key).is_none() {
            return Ok(Next::OnChange);
        }
        let attempt = || format!("counting what ResourceQuota {key} has used");
        let api: Api<ResourceQuota> = Api::namespaced(self.client.clone(), &key.namespace);
        let mut attempts = 0;
        loop {
            attempts += 1;
            let quota = match api.get(&key.name).await {
                Err(error) if is_not_found(&error) => return Ok(Next::OnChange),
                quota => quota.attempt(attempt)?,
            };
            let Counted {
                status,
                changes_after,
            } = count(&self.client, &self.kinds, &quota)
                .await
                .attempt(attempt)?;
            let again = changes_after.map_or(LOOK_AGAIN, |after| after.min(LOOK_AGAIN));
            if quota.status.as_ref() == Some(&status) {
                return Ok(Next::After(again));
            }
            let counted = ResourceQuota {
                status: Some(status),
                ..quota
            };
            let params = PostParams::default();
            match api.replace_status(&key.name, &params, &counted).await {
                Ok(_) => return Ok(Next::After(again)),
                Err(error) if is_not_found(&error) => return Ok(Next::OnChange),
                Err(error) if is_conflict(&error) && attempts < ATTEMPTS => {}
                Err(error) => return Err(error).attempt(attempt),
            }
        }
    }
}
