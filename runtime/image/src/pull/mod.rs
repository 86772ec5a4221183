//! Pulling images from registries.
//!
//! ```text
//!   reference ─► session (endpoints, identities, tries) ─► index ─► manifest ─► configuration
//!                                                                      │
//!   for each layer:  download ─► spool ─► decompress, hash, unpack ─► digests right? ─► in its place
//!                    (3 at once)  (a file that grows)   (on a thread that sees only its folder)
//!                                                                      │
//!                                          all layers there ─► image and name, in one step
//! ```
//! Whoever needs a layer that is already on its way waits for it, also for another image's sake. A layer's folder is
//! made in the pull's own folder below `tmp/` and comes into its place when its digests are right; a pull that ends
//! early, by error, kill or power, leaves that folder, which the next opening of the store removes.

mod credentials;
mod download;
mod error;
mod http;
mod platform;
mod registries;
mod resolve;
mod session;
mod spool;
mod url;

use std::{
    collections::HashMap,
    fmt,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Serialize;
use tokio::{
    sync::{OwnedMutexGuard, Semaphore, watch},
    task::JoinSet,
};

use self::{
    http::Http,
    resolve::{Part, Resolved},
    session::Session,
    spool::{EndOnDrop, Spool, SpoolReader},
};
use crate::{
    Digest, Image, ImageError, ImageId, ImageStore, Reference, digest, document, layer::NewLayer,
    work::Work,
};

pub use self::{
    credentials::{Credential, CredentialError, Keyring},
    error::{PullError, RegistryError},
    platform::Platform,
    registries::{Registries, RegistriesError, RegistryOptions},
};

/// Layers of one image that are downloaded at the same time.
const DOWNLOADS: usize = 3;

/// What a pull tells while it goes on. `-o json` prints these.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(
    tag = "event",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum PullEvent {
    /// The registry is asked.
    Resolving {
        /// The image's full name.
        reference: String,
    },
    /// It has the image.
    Resolved {
        /// What the name stands for.
        digest: Digest,
        /// Compressed bytes of the layers.
        size: u64,
        /// How many there are.
        layers: usize,
    },
    /// A layer is here already.
    Present {
        /// As the manifest names it.
        digest: Digest,
    },
    /// A layer is on its way.
    Downloading {
        /// As the manifest names it.
        digest: Digest,
        /// What has come.
        bytes: u64,
        /// What there is.
        of: u64,
    },
    /// A layer is unpacked, verified and in its place.
    Unpacked {
        /// As the manifest names it.
        digest: Digest,
    },
    /// Something is tried again.
    Retry {
        /// What went wrong.
        reason: String,
        /// How long it waits before that.
        #[serde(rename = "pauseSeconds", serialize_with = "seconds")]
        pause: Duration,
    },
}

fn seconds<S: serde::Serializer>(pause: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(pause.as_secs_f64())
}

/// Hears of a pull's events; called from many threads.
pub type Progress = Arc<dyn Fn(&PullEvent) + Send + Sync>;

/// How often what may pass is tried, and after which pauses.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// In all.
    pub tries: u32,
    /// Before the second; doubled each time, to 60 s at most.
    pub first: Duration,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry {
            tries: 5,
            first: Duration::from_secs(1),
        }
    }
}

impl Retry {
    fn pause(&self, tried: u32) -> Duration {
        let doubled = self
            .first
            .saturating_mul(1 << tried.saturating_sub(1).min(10));
        doubled.min(Duration::from_secs(60))
    }
}

/// What a pull is told beside the image's name.
#[derive(Clone)]
pub struct PullOptions {
    /// As whom registries are asked. What these open is everybody's.
    pub keyring: Keyring,
    /// As whom before that; what these open is for those who hold them.
    pub own: Keyring,
    /// For whom the image is.
    pub platform: Platform,
    /// Who hears of it.
    pub progress: Progress,
}

impl Default for PullOptions {
    fn default() -> PullOptions {
        PullOptions {
            keyring: Keyring::default(),
            own: Keyring::default(),
            platform: Platform::here(),
            progress: Arc::new(|_| {}),
        }
    }
}

impl fmt::Debug for PullOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullOptions")
            .field("platform", &self.platform)
            .finish_non_exhaustive()
    }
}

/// A pulled image.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// As the store has it.
    pub image: Image,
    /// What the name stands for at its registry.
    pub digest: Digest,
    /// Bytes that were downloaded for it.
    pub downloaded: u64,
}

/// Pulls images into a store. Cloning gives another handle on the same work.
#[derive(Clone)]
pub struct Puller {
    inner: Arc<Inner>,
}

struct Inner {
    store: ImageStore,
    registries: Arc<Registries>,
    http: Arc<Http>,
    retry: Retry,
    /// Layers that are being made.
    turns: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    running: Mutex<usize>,
}

impl fmt::Debug for Puller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Puller")
            .field("store", &self.inner.store)
            .finish_non_exhaustive()
    }
}

/// What the tasks of one pull share.
struct Pull {
    puller: Puller,
    session: Session,
    resolved: Resolved,
    diff_ids: Vec<Digest>,
    chain: Vec<Digest>,
    work: Arc<Work>,
    reference: String,
    downloads: Arc<Semaphore>,
}

/// Counts the pulls, so that the last one lets connections go.
struct Running<'a>(&'a Inner);

impl<'a> Running<'a> {
    fn new(inner: &'a Inner) -> Running<'a> {
        *inner.running.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Running(inner)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut running = self
            .0
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *running -= 1;
        if *running == 0 {
            self.0.http.rest();
        }
    }
}

impl Puller {
    /// Pulls into `store`, from where `registries` says.
    #[must_use]
    pub fn new(store: ImageStore, registries: Registries) -> Puller {
        Puller::with(store, registries, Retry::default(), None)
    }

    /// The same with other tries, and another time after which a silent registry counts as gone (60 s).
    #[must_use]
    pub fn with(
        store: ImageStore,
        registries: Registries,
        retry: Retry,
        silence: Option<Duration>,
    ) -> Puller {
        let registries = Arc::new(registries);
        Puller {
            inner: Arc::new(Inner {
                store,
                http: Arc::new(Http::new(registries.clone(), silence)),
                registries,
                retry,
                turns: Mutex::default(),
                running: Mutex::default(),
            }),
        }
    }

    /// Makes the store have what the reference stands for at its registry now, under that name. Layers that are here
    /// aren't fetched again. Needs a tokio runtime; dropping the future ends the pull.
    pub async fn pull(
        &self,
        reference: &Reference,
        options: &PullOptions,
    ) -> Result<Pulled, PullError> {
        let _running = Running::new(&self.inner);
        let name = reference.to_string();
        let wrong = |source| PullError::Image {
            reference: name.clone(),
            source,
        };
        (options.progress)(&PullEvent::Resolving {
            reference: name.clone(),
        });
        let session = Session::new(
            self.inner.http.clone(),
            &self.inner.registries,
            reference.registry(),
            reference.repository(),
            (&options.own, &options.keyring),
            (self.inner.retry, options.progress.clone()),
        );
        let resolved = resolve::resolve(&session, reference, &options.platform).await?;
        (options.progress)(&PullEvent::Resolved {
            digest: resolved.digest,
            size: resolved.layers.iter().map(|layer| layer.size).sum(),
            layers: resolved.layers.len(),
        });
        let id = ImageId(resolved.config.digest);
        let store = self.inner.store.clone();
        let known = blocking(move || Ok(store.config(id).ok()))
            .await
            .map_err(wrong)?;
        let config = match known {
            Some(config) => config,
            None => resolve::config(&session, &resolved)
                .await
                .map_err(|source| PullError::Copy {
                    reference: name.clone(),
                    what: "its configuration".to_owned(),
                    source,
                })?,
        };
        let what = format!("the configuration {id}");
        document::config(&what, &config).map_err(wrong)?;
        let diff_ids = document::diff_ids(&what, &config, &options.platform).map_err(wrong)?;
        if diff_ids.len() != resolved.layers.len() {
            return Err(wrong(ImageError::NotAnImage(format!(
                "the manifest {} has {} layers, its configuration {}",
                resolved.manifest,
                resolved.layers.len(),
                diff_ids.len()
            ))));
        }
        let chain: Vec<_> = diff_ids
            .iter()
            .scan(None, |last, diff_id| {
                *last = Some(digest::chain(last.as_ref(), diff_id));
                *last
            })
            .collect();
        let (store, reserved) = (self.inner.store.clone(), chain.clone());
        let work = blocking(move || store.work(&reserved))
            .await
            .map_err(wrong)?;
        let pull = Arc::new(Pull {
            puller: self.clone(),
            session,
            diff_ids,
            chain,
            work: Arc::new(work),
            reference: name.clone(),
            downloads: Arc::new(Semaphore::new(DOWNLOADS)),
            resolved,
        });
        pull.room().await.map_err(wrong)?;
        let downloaded = pull.layers().await?;
        let repository = format!("{}/{}", reference.registry(), reference.repository());
        let credential = pull.session.opened_by(pull.resolved.endpoint);
        let (reference, committed) = (reference.clone(), pull.clone());
        let commit = move || {
            let digests = [committed.resolved.digest, committed.resolved.manifest];
            let digests = digests.map(|digest| format!("{repository}@{digest}"));
            let store = &committed.puller.inner.store;
            store.commit(
                id,
                &config,
                &committed.chain,
                &reference,
                &committed.resolved.manifest,
                &digests,
                credential.as_deref(),
            )
        };
        Ok(Pulled {
            image: blocking(commit).await.map_err(wrong)?,
            digest: pull.resolved.digest,
            downloaded,
        })
    }

    /// The right to make a layer, which one at a time has.
    async fn turn(&self, layer: Digest) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self
                .inner
                .turns
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry(layer).or_default().clone()
        };
        turn.lock_owned().await
    }
}

impl Pull {
    /// Whether the disk has room for what will come; what it becomes unpacked is only known then.
    async fn room(self: &Arc<Self>) -> Result<(), ImageError> {
        let pull = self.clone();
        blocking(move || {
            let store = &pull.puller.inner.store;
            let missing = pull
                .chain
                .iter()
                .zip(&pull.resolved.layers)
                .filter(|(id, _)| !store.layer(id).exists());
            let needed = missing
                .map(|(_, layer)| layer.size)
                .fold(0, u64::saturating_add);
            let available = store.available()?;
            if needed <= available {
                return Ok(());
            }
            let text = format!("its layers have {needed} bytes, and {available} are free");
            Err(ImageError::Io {
                attempt: "make room for the image in",
                path: store.dir.clone(),
                source: std::io::Error::new(std::io::ErrorKind::StorageFull, text),
            })
        })
        .await
    }

    /// Makes all layers; answers what was downloaded.
    async fn layers(self: &Arc<Self>) -> Result<u64, PullError> {
        let mut tasks = JoinSet::new();
        let mut below = None;
        for at in 0..self.chain.len() {
            let (done, level) = watch::channel(false);
            let pull = self.clone();
            tasks.spawn(async move { pull.layer(at, below, done).await });
            below = Some(level);
        }
        let mut downloaded = 0;
        // The first error ends the others, as they are dropped.
        while let Some(ended) = tasks.join_next().await {
            match ended {
                Ok(bytes) => downloaded += bytes?,
                Err(error) => {
                    return Err(self.wrong(ImageError::Io {
                        attempt: "make a layer of",
                        path: self.reference.clone().into(),
                        source: std::io::Error::other(error),
                    }));
                }
            }
        }
        Ok(downloaded)
    }

    fn wrong(&self, source: ImageError) -> PullError {
        PullError::Image {
            reference: self.reference.clone(),
            source,
        }
    }

    /// Makes one layer, unless it is there. Locks are taken from the topmost layer's down, by everybody alike: a chain's
    /// id stands for all below it, so no two pulls wait for each other.
    async fn layer(
        &self,
        at: usize,
        below: Option<watch::Receiver<bool>>,
        done: watch::Sender<bool>,
    ) -> Result<u64, PullError> {
        let (id, part) = (self.chain[at], self.resolved.layers[at]);
        let store = &self.puller.inner.store;
        let _turn = self.puller.turn(id).await;
        if store.layer(&id).exists() {
            (self.session.progress)(&PullEvent::Present {
                digest: part.digest,
            });
            done.send_replace(true);
            return Ok(0);
        }
        let permit = self
            .downloads
            .clone()
            .acquire_owned()
            .await
            .expect("it is never closed");
        let file = self.work.file().map_err(|e| self.wrong(e))?;
        let spool = Spool::new(file, part.size);
        let mut download = pin!(async {
            let _permit = permit;
            let _end = EndOnDrop(spool.clone());
            let endpoint = self.resolved.endpoint;
            download::download(&self.session, endpoint, part, &spool)
                .await
                .map_err(|source| PullError::Copy {
                    reference: self.reference.clone(),
                    what: format!("the layer {}", part.digest),
                    source,
                })
        });
        let mut unpack = pin!(self.unpack(at, below, spool.clone()));
        let unpacked = tokio::select! {
            downloaded = &mut download => {
                downloaded?;
                unpack.await
            }
            unpacked = &mut unpack => {
                // That there is nothing to read any more is the download's error.
                if spool.failed() || matches!(unpacked, Ok(Unpacked::Yes)) {
                    download.await?;
                }
                unpacked
            }
        };
        match unpacked? {
            Unpacked::Yes => {
                (self.session.progress)(&PullEvent::Unpacked {
                    digest: part.digest,
                });
                done.send_replace(true);
            }
            // Its error is another task's.
            Unpacked::NothingBelow => {}
        }
        Ok(part.size)
    }

    async fn unpack(
        &self,
        at: usize,
        below: Option<watch::Receiver<bool>>,
        spool: Arc<Spool>,
    ) -> Result<Unpacked, PullError> {
        if let Some(mut below) = below
            && below.wait_for(|done| *done).await.is_err()
        {
            return Ok(Unpacked::NothingBelow);
        }
        let store = self.puller.inner.store.clone();
        let (work, chain) = (self.work.clone(), self.chain[..at].to_vec());
        let (id, diff_id) = (self.chain[at], self.diff_ids[at]);
        let Part { digest, .. } = self.resolved.layers[at];
        let made = blocking(move || {
            let layer = NewLayer {
                what: format!("the layer {digest}"),
                blob: Some(digest),
                diff_id,
                id,
                below: &chain,
            };
            store.unpack_layer(work.path(), &layer, &mut SpoolReader::new(spool))
        });
        made.await.map_err(|e| self.wrong(e))?;
        Ok(Unpacked::Yes)
    }
}

enum Unpacked {
    Yes,
    NothingBelow,
}

/// Runs what blocks where that is allowed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panic) => Err(ImageError::Io {
            attempt: "work in",
            path: "the image store".into(),
            source: std::io::Error::other(panic),
        }),
    }
}
