//! events: figures and out-of-memory kills, a JSON line each.

use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use kernelet_sys::cgroup::{Group, Layout};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};

use crate::{
    cli::Global,
    container::{group, named},
    flags::{Flag, Given},
    log, stats,
};

pub const FLAGS: &[Flag] = &[
    Flag::text(
        "interval",
        "set the stats collection interval (default: 5s)",
    ),
    Flag::switch("stats", "display the container's stats then exit"),
];

pub fn events(global: &Global, given: &Given) -> Result<ExitCode> {
    let (id, _, saved) = named(global, given)?;
    let interval = match given.text("interval")? {
        None => Duration::from_secs(5),
        Some(text) => duration(text)
            .with_context(|| format!("invalid value {text:?} for flag -interval: parse error"))?,
    };
    if interval.is_zero() {
        bail!("duration interval must be greater than 0");
    }
    let Ok(pidfd) = saved.pidfd() else {
        bail!("container with id {id} is not running");
    };
    let layout = Layout::detect()?;
    let group = group(&saved, &layout)?;
    if given.on("stats") {
        log::out(&format!("{}\n", stats::line(id.as_str(), &group)?));
        return Ok(ExitCode::SUCCESS);
    }
    let kills = Kills::watch(&group)?;
    let mut next = Instant::now() + interval;
    // Until the container ends.
    loop {
        let left = next.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [
            PollFd::new(pidfd.as_fd(), PollFlags::POLLIN),
            PollFd::new(kills.fd.as_fd(), kills.flags),
        ];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e).context("wait for events"),
        }
        let ready = |at: usize| fds[at].revents().is_some_and(|r| !r.is_empty());
        let (ended, killed) = (ready(0), ready(1));
        if killed && kills.any() {
            // In this order: there are those who look for the text.
            log::out(&format!("{{\"type\":\"oom\",\"id\":\"{id}\"}}\n"));
        }
        if ended {
            return Ok(ExitCode::SUCCESS);
        }
        if Instant::now() >= next {
            next += interval;
            match stats::line(id.as_str(), &group) {
                Ok(line) => log::out(&format!("{line}\n")),
                Err(error) => log::warn(&format!("{error:#}")),
            }
        }
    }
}

/// The kernel's word that a process of the group was killed for want of memory.
struct Kills {
    fd: OwnedFd,
    flags: PollFlags,
    v2: bool,
    seen: std::cell::Cell<u64>,
}

impl Kills {
    fn watch(group: &Group<'_>) -> Result<Kills> {
        if let Some(dir) = group.v1_dir("memory") {
            let control =
                File::open(dir.join("memory.oom_control")).context("open memory.oom_control")?;
            let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
                .context("make an event descriptor")?;
            use std::os::fd::AsRawFd;
            let line = format!("{} {}", event.as_fd().as_raw_fd(), control.as_raw_fd());
            std::fs::write(dir.join("cgroup.event_control"), line)
                .context("ask for out-of-memory events")?;
            return Ok(Kills {
                fd: event.into(),
                flags: PollFlags::POLLIN,
                v2: false,
                seen: 0.into(),
            });
        }
        let counter = group
            .oom_counter()
            .context("no cgroup controller \"memory\"")?;
        let seen = Group::oom_kills_in(counter.as_fd())?;
        Ok(Kills {
            fd: counter,
            // kernfs wakes pollers of a file it has changed, for all who read it before.
            flags: PollFlags::POLLPRI,
            v2: true,
            seen: seen.into(),
        })
    }

    fn any(&self) -> bool {
        if !self.v2 {
            let mut count = [0_u8; 8];
            return matches!(nix::unistd::read(&self.fd, &mut count), Ok(8));
        }
        let now = Group::oom_kills_in(self.fd.as_fd()).unwrap_or(0);
        now > self.seen.replace(now)
    }
}

/// Go's durations: `5s`, `1m30s`, `100ms`. A bare number is seconds.
fn duration(text: &str) -> Result<Duration> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let (mut total, mut rest) = (0.0, text);
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .context("no unit")?;
        let number: f64 = rest[..end].parse()?;
        rest = &rest[end..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        total += number
            * match &rest[..end] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                unit => bail!("unknown unit {unit:?}"),
            };
        rest = &rest[end..];
    }
    Ok(Duration::try_from_secs_f64(total)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_gos() {
        for (text, ms) in [
            ("5s", 5000),
            ("100ms", 100),
            ("1m30s", 90_000),
            ("2", 2000),
            ("0s", 0),
            ("1.5s", 1500),
        ] {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for text in ["x", "-1s", "5y", "5s3"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
