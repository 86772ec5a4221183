//! The command line: each flag does what runc's manual says, and says what runc says when it can't.

#[path = "../bundle/mod.rs"]
mod bundle;
mod exec;
mod found;
mod life;
mod limits;
mod sockets;
mod usage;

use std::time::{Duration, Instant};

use bundle::{Bundle, bundle};
use serde_json::Value;

fn fails(b: &Bundle, args: &[&str], expect: &str) {
    let ran = b.call(args);
    assert!(
        ran.code != Some(0) && ran.err.contains(expect),
        "{args:?}: {ran:?} instead of {expect:?}"
    );
}

fn state(b: &Bundle) -> Value {
    serde_json::from_str(&b.succeeds(&["state", &b.id])).unwrap()
}

fn wait_for(b: &Bundle, status: &str) {
    until(|| state(b)["status"] == status, status);
}

fn until(mut holds: impl FnMut() -> bool, what: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A container that runs until it is told not to.
fn sleeping(test: &str) -> Option<Bundle> {
    let b = bundle(test)?;
    b.script("trap 'exit 7' TERM; while :; do sleep 0.05; done");
    Some(b)
}
