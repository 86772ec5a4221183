//! SPDY/3.1's windows, for peers that keep them.
//!
//! Go's spdystream, which every client of Kubernetes' uses, knows none: it grants nothing and waits for no grant. So
//! windows count only for a peer that has named them, by SETTINGS or WINDOW_UPDATE; for others the connection's own
//! back-pressure is all there is.

use super::{Hub, lock};

/// Both ends begin with it.
const WINDOW: i64 = 64 << 10;
const SETTINGS_WINDOW: u32 = 7;

/// The connection's own window, and what new streams begin with.
pub(super) struct Flow {
    on: bool,
    initial: i64,
    session: i64,
}

impl Default for Flow {
    fn default() -> Self {
        Flow {
            on: false,
            initial: WINDOW,
            session: WINDOW,
        }
    }
}

impl Flow {
    pub fn is_on(&self) -> bool {
        self.on
    }

    pub fn initial(&self) -> i64 {
        self.initial
    }
}

impl Hub {
    /// How much of `wanted` may be sent on a stream now; 0: wait until it has grown.
    pub(super) fn take_window(&self, id: u32, wanted: usize) -> usize {
        let mut flow = lock(&self.flow);
        let mut entries = lock(&self.entries);
        let window = entries.get_mut(&id).map(|entry| &mut entry.window);
        let Some(window) = window.filter(|_| flow.is_on()) else {
            return wanted;
        };
        let most = i64::try_from(wanted).unwrap_or(i64::MAX);
        let part = most.min(*window).min(flow.session).max(0);
        *window -= part;
        flow.session -= part;
        usize::try_from(part).unwrap_or(0)
    }

    /// Of the peer's settings only the windows' size matters.
    pub(super) fn settings(&self, all: &[(u32, u32)]) {
        let mut flow = lock(&self.flow);
        flow.on = true;
        for (_, value) in all.iter().filter(|(id, _)| *id == SETTINGS_WINDOW) {
            let change = i64::from(*value) - flow.initial;
            flow.initial += change;
            for entry in lock(&self.entries).values_mut() {
                entry.window += change;
            }
        }
        drop(flow);
        self.grown.notify_waiters();
    }

    /// The peer takes so much more, on a stream or (0) on all of them together.
    pub(super) fn grant(&self, id: u32, delta: u32) {
        let mut flow = lock(&self.flow);
        flow.on = true;
        match id {
            0 => flow.session = flow.session.saturating_add(i64::from(delta)),
            id => {
                if let Some(entry) = lock(&self.entries).get_mut(&id) {
                    entry.window = entry.window.saturating_add(i64::from(delta));
                }
            }
        }
        drop(flow);
        self.grown.notify_waiters();
    }
}
