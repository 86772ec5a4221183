//! Images come and go by other processes too (`kernelet image load`): pods that wait for one hear of it at once.

use std::sync::Arc;

use tokio::sync::OnceCell;

use crate::{context::Context, inotify::Folders, pods::Pods};

pub(crate) async fn follow(ctx: Arc<Context>, pods: Arc<OnceCell<Arc<Pods>>>) {
    let dir = ctx.config.data_dir.join("images");
    let watched = Folders::get().and_then(|folders| folders.watch(&dir));
    let mut changes = match watched {
        Ok(changes) => changes,
        Err(error) => {
            tracing::warn!(%error, "the image store can't be watched: pods that wait for an image try again by themselves");
            return;
        }
    };
    loop {
        tokio::select! {
            () = ctx.shutdown.cancelled() => return,
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                if let Some(pods) = pods.get() {
                    pods.images_changed();
                }
            }
        }
    }
}
