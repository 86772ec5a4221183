//! Priority and fairness: whose requests run when there are more than the server answers at once.
//!
//! ```text
//! request ─► rules: which FlowSchema? ─► its level: a free seat? ─► runs, gives the seat back
//!                                            │ no
//!                                            ▼
//!                            queues: one of the flow's hand ─► turn ─► runs
//!                                            │ full, or 15 s without a turn
//!                                            ▼
//!                                           429
//! ```
//!
//! As upstream's, with one difference: while a level has free seats, a request takes one without entering a queue (two
//! atomic operations, no lock, no allocation), so that a flow is charged only for what it does once others wait.
//! Upstream also lets a write hold seats for a moment longer for the watchers that it wakes; here an event is encoded
//! once for all of them, and no such time is added.

mod config;
mod controller;
mod level;
mod metrics;
mod queues;
mod rules;
mod shares;
mod width;

pub use controller::{run, settle};
pub use metrics::FlowMetrics;
pub use width::width;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use self::{
    config::{Config, Flow},
    level::Seat,
    rules::Asked,
};
use crate::{body::ResponseBody, request::RequestInfo, user::UserInfo};

/// Seats of the whole server: upstream's 400 reading and 200 writing requests.
pub const SERVER_SEATS: u32 = 600;
/// A request waits for its turn at most so long, or a quarter of its own timeout.
pub const LONGEST_WAIT: Duration = Duration::from_secs(15);

const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// All levels and schemas of the server.
pub struct Flows {
    config: ArcSwap<Config>,
    /// One at a time makes a new configuration: levels live on from the one before.
    building: Mutex<()>,
    /// Some level has no free seat: the time to lend and borrow has come.
    pressure: Arc<Notify>,
    metrics: FlowMetrics,
    seats: u32,
}

/// One request's place in the order of things.
pub struct Ticket {
    flow: Arc<Flow>,
    hash: u64,
    width: u32,
    wait: Duration,
    seat: Option<Seat>,
}

impl Flows {
    /// With the mandatory levels alone, until the store has been read.
    pub fn new(metrics: FlowMetrics, seats: u32) -> Flows {
        let pressure = Arc::new(Notify::new());
        let config = Config::build(&[], &[], None, seats, &metrics, &pressure);
        Flows {
            config: ArcSwap::from_pointee(config),
            building: Mutex::new(()),
            pressure,
            metrics,
            seats,
        }
    }

    /// Finds the request's flow. `None` for what takes the connection over: it stands outside of all this.
    ///
    /// `width` tells how many seats the request takes at a level that gives it at most so many; `wait` is how long it
    /// may wait for them.
    pub fn classify(
        &self,
        user: &UserInfo,
        info: &RequestInfo,
        width: impl FnOnce(u32) -> u32,
        wait: Duration,
    ) -> Option<Ticket> {
        if info
            .resource
            .as_ref()
            .is_some_and(|resource| takes_over(&resource.subresource))
        {
            return None;
        }
        let config = self.config.load();
        let flow = config.flow_of(&Asked { user, info })?.clone();
        let (hash, width) = if flow.exempt {
            (0, 1)
        } else {
            (
                flow_hash(&flow.name, flow.rules.distinguisher(user, info)),
                width(flow.level.widest()),
            )
        };
        Some(Ticket {
            flow,
            hash,
            width,
            wait,
            seat: None,
        })
    }
}

/// Upstream's long-running requests other than watches.
fn takes_over(subresource: &str) -> bool {
    matches!(
        subresource,
        "attach" | "exec" | "proxy" | "log" | "portforward"
    )
}

/// Chooses the flow's queues.
fn flow_hash(schema: &str, distinguisher: &str) -> u64 {
    let digest = Sha256::new()
        .chain_update(schema)
        .chain_update([0])
        .chain_update(distinguisher)
        .finalize();
    let mut head = [0; 8];
    head.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(head)
}

impl Ticket {
    /// Waits for a seat. An error is the request's answer.
    pub async fn enter(&mut self) -> Result<(), Response<ResponseBody>> {
        let flow = &self.flow;
        let seat = if flow.exempt {
            Ok(flow.level.exempt(flow.clone()))
        } else {
            flow.level
                .clone()
                .enter(flow.clone(), self.hash, self.width, self.wait)
                .await
        };
        match seat {
            Ok(seat) => {
                self.seat = Some(seat);
                Ok(())
            }
            Err(rejection) => {
                flow.rejected(rejection);
                Err(too_many_requests())
            }
        }
    }

    /// Gives the seat back; the request may enter again.
    pub fn leave(&mut self) {
        self.seat = None;
    }

    /// Says in an answer who let the request in.
    pub fn note(&self, headers: &mut HeaderMap) {
        for (name, uid) in [
            (SCHEMA_UID, &self.flow.uid),
            (LEVEL_UID, &self.flow.level_uid),
        ] {
            if let Some(uid) = uid {
                headers.insert(name, uid.clone());
            }
        }
    }
}

/// Upstream answers in plain text, and clients wait for so many seconds.
fn too_many_requests() -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::whole(
        "Too many requests, please try again later.\n",
    ));
    *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    for (name, value) in [
        (header::RETRY_AFTER, "1"),
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

/// What the pure parts call time: since the server's start.
fn now(start: Instant) -> Duration {
    start.elapsed()
}
