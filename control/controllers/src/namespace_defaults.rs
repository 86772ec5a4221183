//! What every namespace gets: the ServiceAccount `default`, and the cluster's authority in the
//! ConfigMap `kube-root-ca.crt`.

use crate::common::{Attempt, Context, Failed, is_namespace_terminating};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kernelet_client::{
    Next, ObjectKey, Queue, Scope, Shared, is_already_exists, is_not_found, reconcile_all,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use std::{collections::BTreeMap, sync::Arc};

const ACCOUNT: &str = "default";
const ROOT_CA: &str = "kube-root-ca.crt";
const ROOT_CA_KEY: &str = "ca.crt";
const DESCRIPTION_KEY: &str = "kubernetes.io/description";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver \
    when using internal endpoints such as the internal service IP or kubernetes.default.svc. \
    No other usage is guaranteed across distributions of Kubernetes clusters.";
const WORKERS: usize = 2;

struct Controller {
    client: Client,
    namespaces: Shared<Namespace>,
    accounts: Shared<ServiceAccount>,
    configs: Shared<ConfigMap>,
    ca_pem: String,
}

pub(crate) async fn run(context: Context, ca_pem: String) {
    let namespaces = context.informers.all::<Namespace>();
    let named = |name: &str| Scope::fields(format!("metadata.name={name}"));
    let accounts = context.informers.scoped::<ServiceAccount>(named(ACCOUNT));
    let configs = context.informers.scoped::<ConfigMap>(named(ROOT_CA));
    let queue = Queue::default();
    let of_namespace =
        |namespace: Option<String>| ObjectKey::cluster(namespace.unwrap_or_default());
    let (a, b, c) = (queue.clone(), queue.clone(), queue.clone());
    namespaces.on_change_until(&context.shutdown, move |change| {
        a.add(ObjectKey::of(&**change.object()))
    });
    accounts.on_change_until(&context.shutdown, move |change| {
        b.add(of_namespace(change.object().metadata.namespace.clone()));
    });
    configs.on_change_until(&context.shutdown, move |change| {
        c.add(of_namespace(change.object().metadata.namespace.clone()));
    });
    namespaces.wait_until_synced().await;
    accounts.wait_until_synced().await;
    configs.wait_until_synced().await;
    let controller = Arc::new(Controller {
        client: context.client,
        namespaces,
        accounts,
        configs,
        ca_pem,
    });
    reconcile_all(
        "namespace defaults",
        queue,
        WORKERS,
        context.shutdown,
        move |key| {
            let controller = controller.clone();
            async move { controller.reconcile(&key.name).await }
        },
    )
    .await;
}

impl Controller {
    async fn reconcile(&self, namespace: &str) -> Result<Next, Failed> {
        let active = self
            .namespaces
            .get("", namespace)
            .is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_none());
        if active {
            if self.accounts.get(namespace, ACCOUNT).is_none() {
                self.make_account(namespace).await?;
            }
            self.publish(namespace).await?;
        }
        Ok(Next::OnChange)
    }

    async fn make_account(&self, namespace: &str) -> Result<(), Failed> {
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let account = ServiceAccount {
            metadata: named(namespace, ACCOUNT),
            ..ServiceAccount::default()
        };
        let created = api.create(&PostParams::default(), &account).await;
        unless_moot(created.map(drop))
            .attempt(|| format!("creating ServiceAccount {namespace}/{ACCOUNT}"))
    }

    async fn publish(&self, namespace: &str) -> Result<(), Failed> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let data = BTreeMap::from([(ROOT_CA_KEY.to_owned(), self.ca_pem.clone())]);
        let annotations = BTreeMap::from([(DESCRIPTION_KEY.to_owned(), DESCRIPTION.to_owned())]);
        let known = self.configs.get(namespace, ROOT_CA);
        let written = match known {
            None => {
                let config = ConfigMap {
                    metadata: ObjectMeta {
                        annotations: Some(annotations),
                        ..named(namespace, ROOT_CA)
                    },
                    data: Some(data),
                    ..ConfigMap::default()
                };
                api.create(&PostParams::default(), &config).await.map(drop)
            }
            Some(known) if known.data.as_ref() == Some(&data) => Ok(()),
            Some(known) => {
                let mut config = (*known).clone();
                config.data = Some(data);
                config
                    .metadata
                    .annotations
                    .get_or_insert_default()
                    .extend(annotations);
                let params = PostParams::default();
                api.replace(ROOT_CA, &params, &config).await.map(drop)
            }
        };
        unless_moot(written).attempt(|| format!("publishing the root CA to namespace {namespace}"))
    }
}

fn named(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        ..ObjectMeta::default()
    }
}

/// Somebody else was faster, or the namespace goes: nothing is left to do.
fn unless_moot(result: kube::Result<()>) -> kube::Result<()> {
    match result {
        Err(error)
            if is_already_exists(&error)
                || is_not_found(&error)
                || is_namespace_terminating(&error) =>
        {
            Ok(())
        }
        other => other,
    }
}
