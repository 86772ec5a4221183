//! The audit log: who asked for what, when, and what was answered, as upstream's `audit.k8s.io/v1` Events, one JSON
//! line each.
//!
//! ```text
//! pipeline ── Trail (what is known of a request) ──► Policy (how much is told) ──► bounded queue ──► thread ──► file
//! ```
//!
//! **Invariant:** no request waits for the log: what the queue can't hold is dropped and counted.
//! **Invariant:** bodies of Secrets, tokens and token reviews are in no log, whatever the policy says.

mod event;
mod log;
mod policy;

pub use event::Trail;
pub use log::LogFile;
pub use policy::{Level, Policy, PolicyError, Stage};

use std::{io, sync::Arc};

use http::{Response, request::Parts};

use crate::{body::ResponseBody, state::State};
use event::Event;
use log::Writer;

/// What is logged, and where.
#[derive(Clone, Debug)]
pub struct AuditConfig {
    pub policy: Policy,
    pub file: LogFile,
}

/// A running audit log; it ends, with what is queued written, when it is dropped.
pub struct Audit {
    policy: Policy,
    writer: Writer,
}

impl Audit {
    /// Opens the file and starts its thread.
    pub fn start(config: AuditConfig) -> io::Result<Audit> {
        Ok(Audit {
            policy: config.policy,
            writer: Writer::start(config.file)?,
        })
    }

    fn tell(&self, event: &Event, stage: Stage, omitted: &[Stage]) {
        if !omitted.contains(&stage) {
            self.writer.write(event.line(stage));
        }
    }
}

/// Tells of an answered request. Of an answer that goes on (a watch, a followed log) it tells twice: when it begins
/// and, through the body that is given back, when it has ended.
pub fn answered(
    state: &Arc<State>,
    trail: Trail,
    parts: &Parts,
    response: Response<ResponseBody>,
) -> Response<ResponseBody> {
    let Some(audit) = &state.audit else {
        return response;
    };
    let (level, omitted, managed_fields) = audit.policy.judge(&trail);
    if level == Level::None {
        return response;
    }
    let panicked = trail.panicked;
    let anonymous = trail.user.is_none();
    let mut event = Event::new(state, trail, parts, level, managed_fields);
    audit.tell(&event, Stage::RequestReceived, &omitted);
    event.answered(state, &response);
    if panicked {
        audit.tell(&event, Stage::Panic, &omitted);
        return response;
    }
    if anonymous {
        // Upstream tells of who wasn't let in at this stage.
        audit.tell(&event, Stage::ResponseStarted, &omitted);
        return response;
    }
    let goes_on = response.body().is_stream() || response.status() == 101;
    if !goes_on {
        audit.tell(&event, Stage::ResponseComplete, &omitted);
        return response;
    }
    audit.tell(&event, Stage::ResponseStarted, &omitted);
    let end = AtEnd {
        state: state.clone(),
        event,
        omitted,
    };
    response.map(|body| body.with_guard(end))
}

/// Tells of the end of an answer when it is dropped with the answer's body.
struct AtEnd {
    state: Arc<State>,
    event: Event,
    omitted: Vec<Stage>,
}

impl Drop for AtEnd {
    fn drop(&mut self) {
        if let Some(audit) = &self.state.audit {
            audit.tell(&self.event, Stage::ResponseComplete, &self.omitted);
        }
    }
}
