//! The objects that a ServiceAccount's token is bound to: still there, the same ones, and not long deleted.

use kernelet_api::meta;

use super::{AuthnError, BoundObjects, tokens::Claims};
use crate::cache::{CachedObject, ResourceCache};

/// What was to be deleted by then is given so much longer, upstream's leeway.
const LEEWAY_SECONDS: i64 = 60;

const INVALIDATED: &str = "service account token has been invalidated";

pub fn check(objects: &BoundObjects, claims: &Claims) -> Result<(), AuthnError> {
    let refuse = |why: String| Err(AuthnError::Unbound(why));
    let bound = &claims.kubernetes;
    let (namespace, account) = (&bound.namespace, &bound.service_account);
    let key = format!("{namespace}/{}", account.name);
    let Some(found) = objects.service_accounts.get(&key) else {
        return refuse(format!("serviceaccounts {:?} not found", account.name));
    };
    if *found.index.uid != *account.uid {
        return refuse(format!(
            "service account UID ({}) does not match claim ({})",
            found.index.uid, account.uid
        ));
    }
    if is_gone(&found) {
        return refuse(format!("service account {key} has been deleted"));
    }
    let live = |cache: &ResourceCache, key: &str, uid: &str, lower: &str, upper: &str| {
        let Some(found) = cache.get(key) else {
            return refuse(INVALIDATED.to_owned());
        };
        if *found.index.uid != *uid {
            return refuse(format!(
                "{upper} UID ({}) does not match service account {lower} ref claim ({uid})",
                found.index.uid
            ));
        }
        if is_gone(&found) {
            return refuse(INVALIDATED.to_owned());
        }
        Ok(())
    };
    if let Some(secret) = &bound.secret {
        let key = format!("{namespace}/{}", secret.name);
        live(&objects.secrets, &key, &secret.uid, "secret", "secret")?;
    }
    match (&bound.pod, &bound.node) {
        // The node of a pod's token only says where the pod ran.
        (Some(pod), _) => {
            let key = format!("{namespace}/{}", pod.name);
            live(&objects.pods, &key, &pod.uid, "pod", "pod")
        }
        (None, Some(node)) => live(&objects.nodes, &node.name, &node.uid, "node", "node"),
        (None, None) => Ok(()),
    }
}

/// A pod that ends in grace keeps its identity until then: its last requests are its clean-up.
fn is_gone(object: &CachedObject) -> bool {
    if !object.index.deleting {
        return false;
    }
    let tree = object.tree();
    let deleted: Option<jiff::Timestamp> = meta::deletion_timestamp(&tree).parse().ok();
    let now = jiff::Timestamp::now().as_second();
    deleted.is_none_or(|deleted| deleted.as_second() < now - LEEWAY_SECONDS)
}
