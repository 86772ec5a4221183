//! Waiting for a level, with a deadline.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Asks until it answers `Ok`, at most `within`; the last reason is the panic's.
pub fn eventually<T>(what: &str, within: Duration, ask: impl FnMut() -> Result<T, String>) -> T {
    match try_eventually(within, ask) {
        Ok(value) => value,
        Err(reason) => panic!("{what}: not within {} s: {reason}", within.as_secs_f32()),
    }
}

/// The same, without the panic.
pub fn try_eventually<T>(
    within: Duration,
    mut ask: impl FnMut() -> Result<T, String>,
) -> Result<T, String> {
    let until = Instant::now() + within;
    loop {
        match ask() {
            Ok(value) => return Ok(value),
            Err(reason) if Instant::now() >= until => return Err(reason),
            // Only the test asks again and again; what it waits for is event-driven.
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}
