//! One inotify instance for all of the node's needs: the kernel allows few of them.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::sync::watch;

/// Watches folders; many may ask for the same one.
pub(crate) struct Folders {
    inner: Mutex<Inner>,
    inotify: Inotify,
}

#[derive(Default)]
struct Inner {
    by_path: HashMap<PathBuf, WatchDescriptor>,
    by_watch: HashMap<WatchDescriptor, (PathBuf, watch::Sender<u64>)>,
}

impl Folders {
    /// The process's one.
    pub fn get() -> io::Result<&'static Arc<Self>> {
        static ONE: OnceLock<Arc<Folders>> = OnceLock::new();
        if let Some(one) = ONE.get() {
            return Ok(one);
        }
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
        let folders = Arc::new(Self {
            inner: Mutex::default(),
            inotify,
        });
        let mut reader = None;
        let one = ONE.get_or_init(|| {
            reader = Some(folders.clone());
            folders
        });
        if let Some(folders) = reader {
            std::thread::Builder::new()
                .name("inotify".to_owned())
                .spawn(move || read_all(&folders))?;
        }
        Ok(one)
    }

    /// A level that rises whenever something in the folder is written, made, renamed or removed.
    pub fn watch(&self, folder: &Path) -> io::Result<watch::Receiver<u64>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.drop_unused(&self.inotify);
        let known = inner
            .by_path
            .get(folder)
            .and_then(|wd| inner.by_watch.get(wd));
        if let Some((_, sender)) = known {
            return Ok(sender.subscribe());
        }
        let flags = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF;
        let wd = self.inotify.add_watch(folder, flags)?;
        let (sender, receiver) = watch::channel(0);
        inner.by_path.insert(folder.to_owned(), wd);
        inner.by_watch.insert(wd, (folder.to_owned(), sender));
        Ok(receiver)
    }
}

impl Inner {
    fn drop_unused(&mut self, inotify: &Inotify) {
        let unused: Vec<WatchDescriptor> = self
            .by_watch
            .iter()
            .filter(|(_, (_, s))| s.receiver_count() == 0)
            .map(|(wd, _)| *wd)
            .collect();
        for wd in unused {
            if let Some((path, _)) = self.by_watch.remove(&wd) {
                self.by_path.remove(&path);
            }
            // The folder may be gone, and its watch with it.
            let _ = inotify.rm_watch(wd);
        }
    }
}

/// A thread of its own: tokio's way to wait for a foreign descriptor is unsafe, and this one sleeps in the kernel.
fn read_all(folders: &Folders) {
    loop {
        match folders.inotify.read_events() {
            Ok(events) => {
                let inner = folders.inner.lock().unwrap_or_else(PoisonError::into_inner);
                for event in events {
                    if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                        // What was lost may have been anything: everybody looks.
                        inner
                            .by_watch
                            .values()
                            .for_each(|(_, sender)| sender.send_modify(|level| *level += 1));
                    } else if let Some((_, sender)) = inner.by_watch.get(&event.wd) {
                        sender.send_modify(|level| *level += 1);
                    }
                }
            }
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => {
                tracing::warn!(%error, "folder events can't be read any more");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_write_in_a_folder_is_told_to_all_who_watch_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let folders = Folders::get().expect("inotify");
        let mut one = folders.watch(dir.path()).expect("watched");
        let mut two = folders.watch(dir.path()).expect("watched");
        std::fs::write(dir.path().join("x"), "y").expect("written");
        for receiver in [&mut one, &mut two] {
            tokio::time::timeout(std::time::Duration::from_secs(5), receiver.changed())
                .await
                .expect("told in time")
                .expect("open");
        }
    }
}
