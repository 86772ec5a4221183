//! One task for each probe of a running container. It asks and tells; what an answer means is counted in the plan.

use std::{collections::HashMap, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Container, Probe};
use kernelet_pod_plan::{
    ContainerId, Observed, Run, Stop, Wanted,
    probe::{ProbeAnswer, ProbeKind, ProbeTiming},
};
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};

use crate::{
    pod::PodHome,
    steps::{
        HandlerError, Scene, exec_capture, grpc_health, handler_port, http_get, pod_ip, tcp_connect,
    },
};

#[derive(Debug)]
pub(crate) struct ProbeNews {
    pub container: String,
    pub id: ContainerId,
    pub kind: ProbeKind,
    pub answer: ProbeAnswer,
    /// What a failed probe said.
    pub output: String,
}

type Key = (String, ContainerId, ProbeKind);

/// The probes that run now.
pub(crate) struct Probes {
    home: Arc<PodHome>,
    news: mpsc::UnboundedSender<ProbeNews>,
    running: HashMap<Key, JoinHandle<()>>,
}

impl Probes {
    pub fn new(home: Arc<PodHome>, news: mpsc::UnboundedSender<ProbeNews>) -> Self {
        Self {
            home,
            news,
            running: HashMap::new(),
        }
    }

    /// Starts what should run and stops what shouldn't.
    pub fn reconcile(&mut self, wanted: &Wanted, seen: &Observed) {
        let due = due(wanted, seen);
        self.running.retain(|key, task| {
            let keep = due.iter().any(|(k, _)| k == key);
            if !keep {
                task.abort();
            }
            keep
        });
        for (key, since) in due {
            if self.running.contains_key(&key) {
                continue;
            }
            let Some((_, container)) = wanted.container(&key.0) else {
                continue;
            };
            let Some(probe) = probe_of(container, key.2) else {
                continue;
            };
            let scene = Scene {
                wanted: wanted.clone(),
                ips: seen.ips.clone(),
                reported: None,
            };
            let task = Task {
                home: self.home.clone(),
                scene,
                container: container.clone(),
                probe: probe.clone(),
                key: key.clone(),
            };
            self.running
                .insert(key, tokio::spawn(task.run(since, self.news.clone())));
        }
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.running.values().for_each(JoinHandle::abort);
    }
}

fn probe_of(container: &Container, kind: ProbeKind) -> Option<&Probe> {
    match kind {
        ProbeKind::Startup => container.startup_probe.as_ref(),
        ProbeKind::Readiness => container.readiness_probe.as_ref(),
        ProbeKind::Liveness => container.liveness_probe.as_ref(),
    }
}

/// Which probes should be running: the startup probe until it has passed, then the others; liveness no more once
/// the container is being ended, readiness to the end.
fn due(wanted: &Wanted, seen: &Observed) -> Vec<(Key, jiff::Timestamp)> {
    let mut due = Vec::new();
    for (_, container) in wanted.containers() {
        let Some(c) = seen.containers.get(&container.name) else {
            continue;
        };
        let Run::Running {
            id,
            started_at,
            stop,
            ..
        } = &c.run
        else {
            continue;
        };
        let started = container.startup_probe.is_none() || c.startup.is(ProbeAnswer::Success);
        let ending = *stop != Stop::No || wanted.deletion().is_some();
        let mut add = |kind| due.push(((container.name.clone(), id.clone(), kind), *started_at));
        if !started && !ending && !c.startup.is(ProbeAnswer::Failure) {
            add(ProbeKind::Startup);
        }
        if started && container.readiness_probe.is_some() {
            add(ProbeKind::Readiness);
        }
        if started && container.liveness_probe.is_some() && !ending {
            add(ProbeKind::Liveness);
        }
    }
    due
}

struct Task {
    home: Arc<PodHome>,
    scene: Scene,
    container: Container,
    probe: Probe,
    key: Key,
}

impl Task {
    /// The first time after the initial delay, then every period. A container that has just been started is asked a
    /// few times in quick succession before its first failure counts, so that it needn't wait for a whole period.
    async fn run(self, started_at: jiff::Timestamp, news: mpsc::UnboundedSender<ProbeNews>) {
        let timing = ProbeTiming::of(&self.probe);
        let age = jiff::Timestamp::now().duration_since(started_at);
        let age = Duration::try_from(age).unwrap_or_default();
        tokio::time::sleep(timing.initial_delay.saturating_sub(age)).await;
        let mut begun = Instant::now();
        let mut answer = self.ask(&timing).await;
        // An exec costs a process, and a liveness probe's failure must not be hurried.
        if self.key.2 != ProbeKind::Liveness && self.probe.exec.is_none() {
            for pause in EAGER {
                if answer.is_ok() || begun.elapsed() + pause >= timing.period {
                    break;
                }
                tokio::time::sleep(pause).await;
                answer = self.ask(&timing).await;
            }
        }
        loop {
            if !self.tell(answer, &news) {
                return;
            }
            tokio::time::sleep_until(begun + timing.period).await;
            begun = Instant::now();
            answer = self.ask(&timing).await;
        }
    }

    /// False when nobody listens any more.
    fn tell(
        &self,
        answer: Result<(), HandlerError>,
        news: &mpsc::UnboundedSender<ProbeNews>,
    ) -> bool {
        let (container, id, kind) = self.key.clone();
        let (answer, output) = match answer {
            Ok(()) => (ProbeAnswer::Success, String::new()),
            Err(error) => (ProbeAnswer::Failure, error.to_string()),
        };
        news.send(ProbeNews {
            container,
            id,
            kind,
            answer,
            output,
        })
        .is_ok()
    }

    async fn ask(&self, timing: &ProbeTiming) -> Result<(), HandlerError> {
        let limit = timing.timeout;
        let ip = || {
            pod_ip(&self.home, &self.scene)
                .ok_or_else(|| HandlerError::Broken("the pod has no address".to_owned()))
        };
        if let Some(exec) = &self.probe.exec {
            let command = exec.command.clone().unwrap_or_default();
            let exit = exec_capture(&self.home, &self.key.1, command.clone(), limit).await?;
            if exit.timed_out {
                let text = format!(
                    "command timed out: {:?} timed out after {}s",
                    command.join(" "),
                    limit.as_secs()
                );
                return Err(HandlerError::Failed(text));
            }
            return match exit.exit_code {
                0 => Ok(()),
                _ => Err(HandlerError::Failed(
                    String::from_utf8_lossy(&exit.output).into_owned(),
                )),
            };
        }
        if let Some(get) = &self.probe.http_get {
            return http_get(ip()?, get, &self.container, limit).await.map(drop);
        }
        if let Some(tcp) = &self.probe.tcp_socket {
            let port = handler_port(&tcp.port, &self.container)?;
            let host = tcp
                .host
                .clone()
                .filter(|h| !h.is_empty())
                .map_or_else(|| ip().map(|i| i.to_string()), Ok)?;
            return tcp_connect(&host, port, limit).await;
        }
        if let Some(grpc) = &self.probe.grpc {
            let port = u16::try_from(grpc.port)
                .map_err(|_| HandlerError::Broken(format!("couldn't find port: {}", grpc.port)))?;
            let service = grpc.service.as_deref().unwrap_or_default();
            return grpc_health(&ip()?.to_string(), port, service, limit).await;
        }
        Err(HandlerError::Broken(
            "the probe's kind is not implemented".to_owned(),
        ))
    }
}

const EAGER: [Duration; 5] = [
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
];
