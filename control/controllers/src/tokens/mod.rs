//! ServiceAccounts' tokens of the elder form: Secrets of the type `kubernetes.io/service-account-token` get a token,
//! the authority and the namespace; those of an account that is gone go too.

mod claims;

use crate::common::{Attempt, Context, Failed};
use claims::Signer;
use k8s_openapi::{
    ByteString,
    api::core::v1::{Secret, ServiceAccount},
};
use kernelet_client::{
    Next, ObjectKey, Queue, Scope, Shared, is_conflict, is_not_found, reconcile_all,
};
use kernelet_pki::ServiceAccountKeys;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};
use std::sync::Arc;

const SECRET_TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
const WORKERS: usize = 2;

struct Controller {
    client: Client,
    secrets: Shared<Secret>,
    accounts: Shared<ServiceAccount>,
    signer: Signer,
    ca_pem: String,
}

pub(crate) async fn run(context: Context, keys: ServiceAccountKeys, ca_pem: String) {
    let signer = match Signer::new(&keys) {
        Ok(signer) => signer,
        Err(error) => {
            tracing::error!(%error, "the keys of ServiceAccounts' tokens are not usable");
            return;
        }
    };
    let scope = Scope::fields(format!("type={SECRET_TYPE}"));
    let secrets = context.informers.scoped::<Secret>(scope);
    let accounts = context.informers.all::<ServiceAccount>();
    let queue: Queue<ObjectKey> = Queue::default();
    let (on_secrets, on_accounts, all) = (queue.clone(), queue.clone(), secrets.clone());
    secrets.on_change_until(&context.shutdown, move |change| {
        on_secrets.add(ObjectKey::of(&**change.object()))
    });
    accounts.on_change_until(&context.shutdown, move |change| {
        let account = change.object();
        for secret in all.list_in(&account.namespace().unwrap_or_default()) {
            if annotation(&secret, ACCOUNT_NAME) == account.name_any() {
                on_accounts.add(ObjectKey::of(&*secret));
            }
        }
    });
    secrets.wait_until_synced().await;
    accounts.wait_until_synced().await;
    let controller = Arc::new(Controller {
        client: context.client,
        secrets,
        accounts,
        signer,
        ca_pem,
    });
    reconcile_all(
        "service account tokens",
        queue,
        WORKERS,
        context.shutdown,
        move |key| {
            let controller = controller.clone();
            async move { controller.reconcile(&key).await }
        },
    )
    .await;
}

fn annotation<'s>(secret: &'s Secret, key: &str) -> &'s str {
    let annotations = secret.metadata.annotations.as_ref();
    annotations
        .and_then(|annotations| annotations.get(key))
        .map_or("", String::as_str)
}

fn is_of(secret: &Secret, account: &ServiceAccount) -> bool {
    let uid = annotation(secret, ACCOUNT_UID);
    uid.is_empty() || account.metadata.uid.as_deref() == Some(uid)
}

impl Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failed> {
        let Some(secret) = self.secrets.get_key(key) else {
            self.forget_references(key).await?;
            return Ok(Next::OnChange);
        };
        let name = annotation(&secret, ACCOUNT_NAME);
        if name.is_empty() || secret.metadata.deletion_timestamp.is_some() {
            return Ok(Next::OnChange);
        }
        match self.account(&key.namespace, name).await? {
            Some(account) if is_of(&secret, &account) => self.fill(&secret, &account).await?,
            _ => self.delete(&secret, key).await?,
        }
        Ok(Next::OnChange)
    }

    /// The account, asked for where the watch doesn't know it yet.
    async fn account(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<ServiceAccount>>, Failed> {
        if let Some(account) = self.accounts.get(namespace, name) {
            return Ok(Some(account));
        }
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let found = api.get_opt(name).await;
        let found = found.attempt(|| format!("reading ServiceAccount {namespace}/{name}"))?;
        Ok(found.map(Arc::new))
    }

    async fn fill(&self, secret: &Secret, account: &ServiceAccount) -> Result<(), Failed> {
        let mut filled = secret.clone();
        let namespace = secret.namespace().unwrap_or_default();
        let data = filled.data.get_or_insert_default();
        let lacks = |data: &std::collections::BTreeMap<String, ByteString>, key: &str| {
            data.get(key).is_none_or(|value| value.0.is_empty())
        };
        let ca = ByteString(self.ca_pem.clone().into_bytes());
        if data.get("ca.crt") != Some(&ca) {
            data.insert("ca.crt".to_owned(), ca);
        }
        if lacks(data, "namespace") {
            let namespace = ByteString(namespace.clone().into_bytes());
            data.insert("namespace".to_owned(), namespace);
        }
        if lacks(data, "token") {
            let token = self.signer.token(account, &secret.name_any());
            match token {
                Ok(token) => {
                    data.insert("token".to_owned(), ByteString(token.into_bytes()));
                }
                Err(error) => {
                    tracing::error!(%error, "signing a ServiceAccount's token");
                    return Ok(());
                }
            }
        }
        let annotations = filled.metadata.annotations.get_or_insert_default();
        annotations.insert(ACCOUNT_NAME.to_owned(), account.name_any());
        annotations.insert(ACCOUNT_UID.to_owned(), account.uid().unwrap_or_default());
        if filled == *secret {
            return Ok(());
        }
        let name = secret.name_any();
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &namespace);
        match api.replace(&name, &PostParams::default(), &filled).await {
            // Its change brings this back.
            Err(error) if is_conflict(&error) || is_not_found(&error) => Ok(()),
            result => result
                .map(drop)
                .attempt(|| format!("writing the token into Secret {namespace}/{name}")),
        }
    }

    async fn delete(&self, secret: &Secret, key: &ObjectKey) -> Result<(), Failed> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: secret.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match api.delete(&key.name, &params).await {
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
            result => result
                .map(drop)
                .attempt(|| format!("deleting the token {}/{}", key.namespace, key.name)),
        }
    }

    /// A Secret that is gone is no longer one of its account's.
    async fn forget_references(&self, key: &ObjectKey) -> Result<(), Failed> {
        for account in self.accounts.list_in(&key.namespace) {
            let refers = |name: &Option<String>| name.as_deref() == Some(&*key.name);
            let all = account.secrets.as_deref().unwrap_or_default();
            if !all.iter().any(|reference| refers(&reference.name)) {
                continue;
            }
            let mut account = (*account).clone();
            if let Some(secrets) = &mut account.secrets {
                secrets.retain(|reference| !refers(&reference.name));
            }
            let name = account.name_any();
            let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &key.namespace);
            match api.replace(&name, &PostParams::default(), &account).await {
                Err(error) if is_not_found(&error) => {}
                result => result
                    .map(drop)
                    .attempt(|| format!("taking a Secret from ServiceAccount {name}"))?,
            }
        }
        Ok(())
    }
}
