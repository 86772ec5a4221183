//! Bootstrap tokens: `kube-public/cluster-info` is signed with each of them, and those that have expired are deleted.
//!
//! Whoever is about to join knows a token and reads `cluster-info` from a server that it can't trust yet; the
//! signature made with the token's secret tells it that the authority in there is the right one.

mod cleaner;
mod signature;
mod signer;
mod token;

use crate::common::Context;
use k8s_openapi::api::core::v1::Secret;
use kernelet_client::{Scope, Shared};

/// Runs both controllers on one watch.
pub(crate) async fn run(context: Context) {
    let selector = format!("type={}", token::SECRET_TYPE);
    let secrets: Shared<Secret> = context.informers.scoped(Scope::fields(selector));
    tokio::join!(
        signer::run(context.clone(), secrets.clone()),
        cleaner::run(context, secrets),
    );
}
