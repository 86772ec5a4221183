//! Descriptors that a container's program gets beside the first three: those of socket activation (sd_listen_fds(3)),
//! then those of `--preserve-fds`.

use anyhow::{Context, Result, bail};
use oci_spec::runtime::Spec;

use crate::flags::Given;

/// How many of them there are, from 3 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inherited {
    pub count: u16,
    listen: u16,
}

impl Inherited {
    /// By the command line and the environment; every one of them is open.
    pub fn of(given: &Given) -> Result<Inherited> {
        let variable = |name: &str| {
            std::env::var(name)
                .ok()
                .and_then(|text| text.parse::<u32>().ok())
        };
        let listen = match (variable("LISTEN_PID"), variable("LISTEN_FDS")) {
            // Meant for this process, and not for one that it was inherited through.
            (Some(pid), Some(count)) if pid == std::process::id() => count,
            _ => 0,
        };
        let more = preserved(given)?;
        let listen = u16::try_from(listen).context("LISTEN_FDS is too large")?;
        for number in 0..more {
            check(3 + u32::from(listen) + u32::from(number), number, more)?;
        }
        Ok(Inherited {
            count: listen.checked_add(more).context("too many descriptors")?,
            listen,
        })
    }

    /// The program is told of them; it is pid 1 where it runs.
    pub fn change(self, spec: &mut Spec) {
        if self.listen == 0 {
            return;
        }
        if let Some(process) = spec.process_mut() {
            let mut env = process.env().clone().unwrap_or_default();
            env.push(format!("LISTEN_FDS={}", self.listen));
            env.push("LISTEN_PID=1".to_owned());
            process.set_env(Some(env));
        }
    }
}

/// exec knows these only.
pub fn of_exec(given: &Given) -> Result<u16> {
    let more = preserved(given)?;
    for number in 0..more {
        check(3 + u32::from(number), number, more)?;
    }
    Ok(more)
}

fn preserved(given: &Given) -> Result<u16> {
    let wanted = given.number("preserve-fds").unwrap_or(0);
    u16::try_from(wanted)
        .with_context(|| format!("--preserve-fds: {wanted} is no number of descriptors"))
}

fn check(fd: u32, number: u16, of: u16) -> Result<()> {
    let link = format!("/proc/self/fd/{fd}");
    match std::fs::symlink_metadata(link) {
        Ok(_) => Ok(()),
        Err(_) => {
            bail!("unable to stat preserved-fd {number} (of {of}): no such file or directory")
        }
    }
}
