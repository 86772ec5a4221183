//! The pods of this node: who is here, and one task for each.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kernelet_attach::{Attached, PodId};
use kernelet_client::{Change, Shared};
use kernelet_pod_plan::{Observed, Presence, Wanted, cgroup::qos_path, resources::QosClass};
use kube::ResourceExt;
use tokio::sync::{Notify, mpsc, watch};

use crate::{
    adopt,
    context::Context,
    errors::chain,
    pod::PodHome,
    qos,
    steps::{POD_FILE, remove_cgroups},
    worker::{Channels, Request, View, Worker},
};

pub(crate) struct Pods {
    ctx: Arc<Context>,
    slots: Mutex<HashMap<String, Slot>>,
    /// What the network held when this agent started.
    attached: Mutex<HashMap<String, Attached>>,
    ended: Notify,
    /// The set of pods has changed.
    changed: Arc<Notify>,
}

struct Slot {
    home: Arc<PodHome>,
    pod: watch::Sender<Option<Arc<Pod>>>,
    requests: mpsc::Sender<Request>,
    view: watch::Receiver<View>,
}

impl Pods {
    /// Takes over what an earlier agent left, then follows the API.
    pub async fn start(ctx: Arc<Context>, api: &Shared<Pod>) -> Arc<Self> {
        let attached = match ctx.config.network.attached().await {
            Ok(list) => list
                .into_iter()
                .map(|(pod, attached)| (pod.uid.clone(), (pod, attached)))
                .collect(),
            Err(error) => {
                tracing::warn!(error = %chain(&error), "the network doesn't say which pods it holds");
                HashMap::new()
            }
        };
        let pods = Arc::new(Self {
            ctx: ctx.clone(),
            slots: Mutex::default(),
            attached: Mutex::new(
                attached
                    .iter()
                    .map(|(uid, (_, a))| (uid.clone(), a.clone()))
                    .collect(),
            ),
            ended: Notify::new(),
            changed: Arc::default(),
        });
        // Nothing may be taken for an orphan before the whole list is here.
        tokio::select! {
            () = api.wait_until_synced() => {}
            () = ctx.shutdown.cancelled() => return pods,
        }
        ctx.services.wait_until_synced().await;
        let weak = Arc::downgrade(&pods);
        tokio::spawn(qos::keep(ctx.clone(), weak.clone(), pods.changed.clone()));
        api.on_change(move |change| follow(&weak, change));
        let known: BTreeSet<String> = api.list().iter().filter_map(|p| p.uid()).collect();
        pods.orphans(&known, attached.into_values().map(|(pod, _)| pod).collect())
            .await;
        pods
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everybody's view of every pod.
    pub fn views(&self) -> Vec<View> {
        self.slots()
            .values()
            .map(|slot| slot.view.borrow().clone())
            .collect()
    }

    /// The pod of a name, to be followed.
    pub fn find(&self, namespace: &str, name: &str) -> Option<watch::Receiver<View>> {
        let slots = self.slots();
        named(&slots, namespace, name).map(|slot| slot.view.clone())
    }

    /// The pod of a name: what its sessions need, and how it is now.
    pub fn home(&self, namespace: &str, name: &str) -> Option<(Arc<PodHome>, View)> {
        let slots = self.slots();
        named(&slots, namespace, name).map(|slot| (slot.home.clone(), slot.view.borrow().clone()))
    }

    /// After the shutdown: waits until no pod's task is in the middle of a step, for a while.
    pub async fn let_go(&self) {
        let _ = tokio::time::timeout(Duration::from_secs(3), self.all_ended()).await;
    }

    async fn all_ended(&self) {
        loop {
            let ended = self.ended.notified();
            if self.slots().is_empty() {
                return;
            }
            ended.await;
        }
    }

    /// Ends every pod's containers and sandboxes; the names of those that are left after the time.
    pub async fn suspend(&self, grace: Duration) -> Vec<String> {
        let requests: Vec<_> = self
            .slots()
            .values()
            .map(|slot| slot.requests.clone())
            .collect();
        for request in requests {
            let _ = request.send(Request::Suspend(grace)).await;
        }
        // What is killed at the end of the grace needs time to be taken down.
        let _ = tokio::time::timeout(grace + Duration::from_secs(15), self.all_ended()).await;
        let name = |slot: &Slot| {
            let pod = slot.view.borrow().pod.clone();
            format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
        };
        self.slots().values().map(name).collect()
    }

    pub fn images_changed(&self) {
        for slot in self.slots().values() {
            // A task whose queue is full has work enough to look again by itself.
            let _ = slot.requests.try_send(Request::ImagesChanged);
        }
    }

    /// Where there is no API: the pods whose remains are here, each told from the start to end within `grace`.
    /// With how many there are, those of them that had a shim.
    pub fn of_remains(ctx: Arc<Context>, grace: Duration) -> (Arc<Self>, usize) {
        let (folders, shims) = (
            names(&ctx.config.data_dir.join("pods")),
            names(&ctx.config.run_dir.join("pods")),
        );
        let pods = Arc::new(Self {
            ctx,
            slots: Mutex::default(),
            attached: Mutex::default(),
            ended: Notify::new(),
            changed: Arc::default(),
        });
        for uid in folders.union(&shims) {
            let pod = Arc::new(remembered(&pods.ctx, uid));
            pods.add_with(&pod, Presence::Present, Some(grace));
        }
        (pods, shims.len())
    }

    fn add(self: &Arc<Self>, pod: &Arc<Pod>, presence: Presence) {
        self.add_with(pod, presence, None);
    }

    fn add_with(self: &Arc<Self>, pod: &Arc<Pod>, presence: Presence, suspended: Option<Duration>) {
        let Some(uid) = pod.uid() else { return };
        let mut slots = self.slots();
        if let Some(slot) = slots.get(&uid) {
            slot.pod.send_replace(Some(pod.clone()));
            return;
        }
        let (pod_sender, pods) = watch::channel(Some(pod.clone()));
        let (requests, request_receiver) = mpsc::channel(16);
        let (view_sender, view) = watch::channel(View {
            pod: pod.clone(),
            ..View::default()
        });
        let (news_sender, news) = mpsc::unbounded_channel();
        let home = Arc::new(PodHome::new(self.ctx.clone(), pod, news_sender));
        slots.insert(
            uid.clone(),
            Slot {
                home: home.clone(),
                pod: pod_sender,
                requests,
                view,
            },
        );
        drop(slots);
        self.changed.notify_one();
        let (this, pod) = (self.clone(), pod.clone());
        tokio::spawn(async move {
            let mut wanted = Wanted::new(pod, this.ctx.facts.clone());
            (wanted.presence, wanted.suspended) = (presence, suspended);
            let attached = this
                .attached
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&uid);
            let survivors = adopt::survivors(&home, &wanted, attached).await;
            let seen = Observed::restored(&wanted, survivors, Timestamp::now());
            let channels = Channels {
                pods,
                requests: request_receiver,
                news,
                view: view_sender,
            };
            Worker::new(home, wanted, seen, channels).run().await;
            this.slots().remove(&uid);
            this.ended.notify_waiters();
            this.changed.notify_one();
        });
    }

    fn gone(&self, pod: &Pod) {
        if let Some(slot) = pod
            .uid()
            .and_then(|uid| self.slots().get(&uid).map(|s| s.pod.clone()))
        {
            slot.send_replace(None);
        }
    }

    /// What is here of pods that the API no longer has.
    async fn orphans(self: &Arc<Self>, known: &BTreeSet<String>, attached: Vec<PodId>) {
        let ctx = &self.ctx;
        let mut left: BTreeSet<String> = names(&ctx.config.data_dir.join("pods"));
        left.extend(names(&ctx.config.run_dir.join("pods")));
        for uid in left.iter().filter(|uid| !known.contains(*uid)) {
            let pod = remembered(ctx, uid);
            tracing::info!(uid, name = %pod.name_any(), "a pod of an earlier agent is no longer in the API: taken down");
            self.add(&Arc::new(pod), Presence::Removed);
        }
        for pod in attached
            .iter()
            .filter(|p| !known.contains(&p.uid) && !left.contains(&p.uid))
        {
            if let Err(error) = ctx.config.network.detach(pod).await {
                tracing::warn!(pod = %pod.name, error = %chain(&error), "take down the network of a pod that is gone");
            }
        }
        self.forgotten_holds().await;
        let root = ctx.config.cgroup_root.clone();
        let (layout, known) = (ctx.layout.clone(), known.clone());
        let swept = tokio::task::spawn_blocking(move || {
            let unknown = |path: &String| {
                let name = path.rsplit('/').next().unwrap_or_default();
                let uid = name.strip_prefix("pod").unwrap_or(name);
                let is_pod = path.contains("/shims/") || name.starts_with("pod");
                is_pod && !known.contains(uid) && !left.contains(uid)
            };
            let mut parents = vec![format!("{root}/shims")];
            parents.extend(
                [
                    QosClass::Guaranteed,
                    QosClass::Burstable,
                    QosClass::BestEffort,
                ]
                .map(|q| qos_path(&root, q)),
            );
            let children = parents
                .iter()
                .flat_map(|p| layout.group(p).children().unwrap_or_default());
            let paths: Vec<String> = children.filter(unknown).collect();
            remove_cgroups(&layout, &paths)
        });
        for problem in swept.await.unwrap_or_default() {
            tracing::warn!(problem, "remove the cgroup of a pod that is gone");
        }
    }
}

impl Pods {
    /// Images held for containers that are gone: a crash may come between the two.
    async fn forgotten_holds(&self) {
        let (images, pods) = (
            self.ctx.images.clone(),
            self.ctx.config.data_dir.join("pods"),
        );
        let work = tokio::task::spawn_blocking(move || {
            // The holders first: a container's folder is made before its image is held.
            let holders = images.store().holders()?;
            let containers: BTreeSet<String> = names(&pods)
                .iter()
                .flat_map(|uid| names(&pods.join(uid).join("containers")))
                .collect();
            for (_, holder) in holders
                .iter()
                .filter(|(_, holder)| !containers.contains(holder))
            {
                images.release(holder)?;
            }
            Ok::<_, kernelet_image::ImageError>(())
        });
        match work.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = %chain(&error), "release images of containers that are gone")
            }
            Err(error) => tracing::warn!(%error, "release images of containers that are gone"),
        }
    }
}

fn named<'a>(slots: &'a HashMap<String, Slot>, namespace: &str, name: &str) -> Option<&'a Slot> {
    slots.values().find(|slot| {
        let view = slot.view.borrow();
        view.pod.metadata.namespace.as_deref() == Some(namespace)
            && view.pod.metadata.name.as_deref() == Some(name)
    })
}

fn follow(pods: &Weak<Pods>, change: &Change<Pod>) {
    let Some(pods) = pods.upgrade() else { return };
    // The same name again is another pod.
    if let Some(old) = change.old()
        && change.new().is_none_or(|new| new.uid() != old.uid())
    {
        pods.gone(old);
    }
    match change {
        Change::Deleted(pod) => pods.gone(pod),
        Change::Added(pod) | Change::Updated { new: pod, .. } => pods.add(pod, Presence::Present),
    }
}

/// The object as the last agent knew it.
fn remembered(ctx: &Context, uid: &str) -> Pod {
    let file = ctx.pod_dir(uid).join(POD_FILE);
    let pod = fs::read(&file)
        .ok()
        .and_then(|text| serde_json::from_slice::<Pod>(&text).ok());
    // Without its file only the uid is known; that suffices for what can be left of it.
    pod.unwrap_or_else(|| Pod {
        metadata: ObjectMeta {
            uid: Some(uid.to_owned()),
            ..ObjectMeta::default()
        },
        ..Pod::default()
    })
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|e| e.file_name().into_string().ok())
        .collect()
}
