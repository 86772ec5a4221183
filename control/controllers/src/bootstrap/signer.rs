//! Keeps the signatures in `kube-public/cluster-info`: one for each token that may sign, and no other.

use super::{
    signature::sign,
    token::{Life, is_token, life, signing},
};
use crate::common::{Attempt, Context, Failed, now};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kernelet_client::{
    Next, ObjectKey, Queue, Scope, Shared, is_conflict, is_not_found, reconcile_all,
};
use kube::{Api, Client, api::PostParams};
use std::{collections::BTreeMap, sync::Arc};

const NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";
const CONTENT: &str = "kubeconfig";
const SIGNATURE_PREFIX: &str = "jws-kubeconfig-";

struct Signer {
    client: Client,
    configs: Shared<ConfigMap>,
    secrets: Shared<Secret>,
}

pub(super) async fn run(context: Context, secrets: Shared<Secret>) {
    let scope = Scope::fields(format!("metadata.name={NAME}"));
    let configs = context.informers.scoped::<ConfigMap>(scope);
    let queue = Queue::default();
    let (on_configs, on_secrets) = (queue.clone(), queue.clone());
    configs.on_change_until(&context.shutdown, move |_| {
        on_configs.add(ObjectKey::cluster(NAME))
    });
    secrets.on_change_until(&context.shutdown, move |_| {
        on_secrets.add(ObjectKey::cluster(NAME))
    });
    configs.wait_until_synced().await;
    secrets.wait_until_synced().await;
    let signer = Arc::new(Signer {
        client: context.client,
        configs,
        secrets,
    });
    reconcile_all("bootstrap signer", queue, 1, context.shutdown, move |_| {
        let signer = signer.clone();
        async move { signer.reconcile().await }
    })
    .await;
}

/// The data with a signature of each of these tokens and of no other; nothing where that is so already.
fn signed(
    data: &BTreeMap<String, String>,
    tokens: &[(&str, &str)],
) -> Option<BTreeMap<String, String>> {
    let content = data.get(CONTENT)?;
    let mut wanted: BTreeMap<String, String> = data
        .iter()
        .filter(|(key, _)| !key.starts_with(SIGNATURE_PREFIX))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    for (id, secret) in tokens {
        let signature = sign(content, id, secret);
        wanted.insert(format!("{SIGNATURE_PREFIX}{id}"), signature);
    }
    (wanted != *data).then_some(wanted)
}

impl Signer {
    async fn reconcile(&self) -> Result<Next, Failed> {
        let now = now();
        let secrets = self.secrets.list();
        let tokens: Vec<(&str, &str)> = secrets
            .iter()
            .filter_map(|secret| signing(secret, now))
            .collect();
        if let Some(known) = self.configs.get(NAMESPACE, NAME)
            && let Some(data) = signed(known.data.as_ref().unwrap_or(&BTreeMap::new()), &tokens)
        {
            let mut config = (*known).clone();
            config.data = Some(data);
            let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), NAMESPACE);
            match api.replace(NAME, &PostParams::default(), &config).await {
                // Its change brings this back.
                Err(error) if is_conflict(&error) || is_not_found(&error) => {}
                result => result.map(drop).attempt(|| {
                    format!("signing the ConfigMap {NAMESPACE}/{NAME} with the bootstrap tokens")
                })?,
            }
        }
        let next = secrets
            .iter()
            .filter(|secret| is_token(secret))
            .filter_map(|secret| match life(secret, now) {
                Life::For(left) => Some(left),
                Life::Endless | Life::Over => None,
            })
            .min();
        Ok(next.map_or(Next::OnChange, Next::After))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_signature_for_each_token_and_no_other() {
        let data = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
            pairs.iter().map(owned).collect()
        };
        assert_eq!(signed(&data(&[("other", "x")]), &[("a", "s")]), None);
        let old = data(&[(CONTENT, "c"), ("jws-kubeconfig-gone", "x"), ("other", "x")]);
        let new = signed(&old, &[("a", "s")]).unwrap();
        let keys: Vec<&str> = new.keys().map(String::as_str).collect();
        assert_eq!(keys, ["jws-kubeconfig-a", CONTENT, "other"]);
        assert_eq!(new["jws-kubeconfig-a"], sign("c", "a", "s"));
        assert_eq!(signed(&new, &[("a", "s")]), None);
        assert!(signed(&new, &[("a", "t")]).is_some());
    }
}
