//! One pod's hands: the handles on the kernel that its steps share. Its task owns the decisions (`worker`).

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Pod, Secret};
use kernelet_attach::PodId;
use kernelet_client::EventType;
use kernelet_pod_plan::{FailureReason, StepError};
use kernelet_shim_client::{Sandbox, Shim, ShimError};
use kernelet_spec::{ContainerPlan, ExecPlan};
use kube::ResourceExt;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    context::Context,
    errors::chain,
    images::LocalImage,
    objects::{Kept, NoAnswer},
    volumes::{Mounted, Tokens},
};

pub(crate) struct PodHome {
    pub ctx: Arc<Context>,
    pub id: PodId,
    pub tokens: Tokens,
    /// Ends what was begun for this pod beside its task: the following of objects, probes.
    pub over: CancellationToken,
    shim: watch::Sender<ShimLevel>,
    /// The shim has let a call wait too long.
    silent: AtomicBool,
    news: mpsc::UnboundedSender<Follower>,
    inner: Mutex<Inner>,
}

/// What in the pod was made from an object of the API, and must hear of its changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Follower {
    Volume(String),
    /// A container that couldn't be configured.
    Configuration,
}

/// Whether there is a shim.
#[derive(Clone, Debug, Default)]
enum ShimLevel {
    /// Not yet.
    #[default]
    None,
    Lives(Shim),
    /// It ended, or couldn't be made.
    Gone,
}

#[derive(Default)]
struct Inner {
    sandbox: Option<Sandbox>,
    volumes: HashMap<String, Mounted>,
    images: HashMap<String, LocalImage>,
    /// The volume of `/etc/hosts` and the like has been made and filled.
    files_ready: bool,
    /// How the running containers were made: what an exec in one takes over.
    plans: HashMap<String, Arc<ContainerPlan>>,
    followed: HashSet<(Follower, &'static str, String)>,
}

impl PodHome {
    /// `news`: hears of changed objects.
    pub fn new(ctx: Arc<Context>, pod: &Pod, news: mpsc::UnboundedSender<Follower>) -> Self {
        let id = PodId {
            uid: pod.uid().unwrap_or_default(),
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
        };
        let over = ctx.shutdown.child_token();
        Self {
            ctx,
            id,
            tokens: Tokens::default(),
            over,
            shim: watch::Sender::default(),
            silent: AtomicBool::new(false),
            news,
            inner: Mutex::default(),
        }
    }

    /// A configMap of the pod's namespace as it is now; its changes are told to the follower from here on.
    pub async fn config_map(
        &self,
        who: &Follower,
        name: &str,
    ) -> Result<Option<Arc<ConfigMap>>, NoAnswer> {
        let kept = self.ctx.objects.config_map(&self.id.namespace, name);
        self.follow(who, "ConfigMap", name, kept).await
    }

    pub async fn secret(
        &self,
        who: &Follower,
        name: &str,
    ) -> Result<Option<Arc<Secret>>, NoAnswer> {
        let kept = self.ctx.objects.secret(&self.id.namespace, name);
        self.follow(who, "Secret", name, kept).await
    }

    async fn follow<K>(
        &self,
        who: &Follower,
        kind: &'static str,
        name: &str,
        kept: Kept<K>,
    ) -> Result<Option<Arc<K>>, NoAnswer>
    where
        K: kube::Resource<DynamicType = ()> + Send + Sync + 'static,
    {
        let mut changes = kept.changes();
        kept.get().await?;
        let object = changes.borrow_and_update().clone().flatten();
        if self
            .inner()
            .followed
            .insert((who.clone(), kind, name.to_owned()))
        {
            let (who, news, over) = (who.clone(), self.news.clone(), self.over.clone());
            tokio::spawn(async move {
                let _kept = kept;
                loop {
                    tokio::select! {
                        // Cancelled: the pod is over, and so is its interest.
                        () = over.cancelled() => return,
                        changed = changes.changed() => {
                            if changed.is_err() || news.send(who.clone()).is_err() {
                                return;
                            }
                        }
                    }
                }
            });
        }
        Ok(object)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn dir(&self) -> PathBuf {
        self.ctx.pod_dir(&self.id.uid)
    }

    pub fn log_dir(&self) -> PathBuf {
        self.ctx
            .pod_log_dir(&self.id.namespace, &self.id.name, &self.id.uid)
    }

    pub fn shim(&self) -> Option<Shim> {
        match &*self.shim.borrow() {
            ShimLevel::Lives(shim) => Some(shim.clone()),
            ShimLevel::None | ShimLevel::Gone => None,
        }
    }

    /// The shim as soon as it is there; `None` if it can't be made. Only for steps that the plan lets run beside the
    /// making of the shim: nobody else would end this wait.
    pub async fn await_shim(&self) -> Option<Shim> {
        let mut level = self.shim.subscribe();
        let level = level
            .wait_for(|level| !matches!(level, ShimLevel::None))
            .await
            .ok()?;
        match &*level {
            ShimLevel::Lives(shim) => Some(shim.clone()),
            ShimLevel::None | ShimLevel::Gone => None,
        }
    }

    /// A shim is about to be made: whoever needs one waits for it.
    pub fn shim_comes(&self) {
        self.shim.send_replace(ShimLevel::None);
    }

    /// A shim's error as text. That it didn't answer at all is remembered.
    pub fn shim_error(&self, error: &ShimError) -> String {
        if let ShimError::Silent { .. } = error {
            self.silent.store(true, Ordering::Relaxed);
        }
        chain(error)
    }

    /// Whether the shim has gone silent since this was asked last.
    pub fn take_silent(&self) -> bool {
        self.silent.swap(false, Ordering::Relaxed)
    }

    /// The shim, for a step that can't be without it.
    pub fn need_shim(&self, reason: FailureReason) -> Result<Shim, StepError> {
        self.shim().ok_or_else(|| StepError {
            reason,
            message: "the pod's shim is gone".to_owned(),
        })
    }

    pub fn set_shim(&self, shim: Option<Shim>) {
        let mut inner = self.inner();
        if shim.is_none() {
            inner.sandbox = None;
            inner.volumes.clear();
            inner.files_ready = false;
        }
        drop(inner);
        self.shim
            .send_replace(shim.map_or(ShimLevel::Gone, ShimLevel::Lives));
    }

    pub fn sandbox(&self) -> Option<Sandbox> {
        self.inner().sandbox.clone()
    }

    pub fn set_sandbox(&self, sandbox: Option<Sandbox>) {
        self.inner().sandbox = sandbox;
    }

    pub fn volume(&self, name: &str) -> Option<Mounted> {
        self.inner().volumes.get(name).cloned()
    }

    pub fn set_volume(&self, name: &str, mounted: Mounted) {
        self.inner().volumes.insert(name.to_owned(), mounted);
    }

    pub fn forget_volumes(&self) {
        let mut inner = self.inner();
        inner.volumes.clear();
        inner.files_ready = false;
    }

    pub fn image(&self, container: &str) -> Option<LocalImage> {
        self.inner().images.get(container).cloned()
    }

    pub fn set_image(&self, container: &str, image: LocalImage) {
        self.inner().images.insert(container.to_owned(), image);
    }

    /// Keeps the container's plan, on disk too: an agent after this one must be able to exec.
    pub fn set_plan(&self, plan: &ContainerPlan) -> std::io::Result<()> {
        let text = serde_json::to_vec(plan).map_err(std::io::Error::other)?;
        std::fs::write(self.plan_file(plan.id.as_str()), text)?;
        self.inner()
            .plans
            .insert(plan.id.as_str().to_owned(), Arc::new(plan.clone()));
        Ok(())
    }

    pub fn forget_plan(&self, id: &str) {
        self.inner().plans.remove(id);
    }

    fn plan_file(&self, id: &str) -> PathBuf {
        self.dir().join("containers").join(id).join("plan.json")
    }

    /// One more process in the container: its own environment, user and limits, another command.
    pub fn exec_plan(
        &self,
        id: &kernelet_spec::ContainerId,
        command: Vec<String>,
        limit: Option<Duration>,
    ) -> Option<ExecPlan> {
        let known = self.inner().plans.get(id.as_str()).cloned();
        let plan = known.or_else(|| {
            let text = std::fs::read(self.plan_file(id.as_str())).ok()?;
            let plan: Arc<ContainerPlan> = Arc::new(serde_json::from_slice(&text).ok()?);
            self.inner()
                .plans
                .insert(id.as_str().to_owned(), plan.clone());
            Some(plan)
        })?;
        let mut process = plan.process.clone();
        process.args = command;
        Some(ExecPlan {
            process,
            terminal: false,
            timeout: limit,
        })
    }

    pub fn files_ready(&self) -> bool {
        self.inner().files_ready
    }

    pub fn set_files_ready(&self) {
        self.inner().files_ready = true;
    }

    pub fn event(&self, type_: EventType, reason: &str, message: impl Into<String>) {
        self.ctx
            .recorder
            .event_about(self.reference(None), type_, reason, message);
    }

    /// `field`: `spec.containers{name}`.
    pub fn container_event(
        &self,
        field: &str,
        type_: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.ctx
            .recorder
            .event_about(self.reference(Some(field)), type_, reason, message);
    }

    fn reference(&self, field: Option<&str>) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(self.id.namespace.clone()),
            name: Some(self.id.name.clone()),
            uid: Some(self.id.uid.clone()),
            field_path: field.map(str::to_owned),
            ..ObjectReference::default()
        }
    }
}
