//! cgroups made by systemd: a transient scope for each container, asked for over D-Bus.
//!
//! ```text
//! a short-lived process ─ StartTransientUnit(PIDs) ─ JobRemoved ─► the scope's group is there ─ the container's process
//! is born into it ─ the short-lived one ends │ delete: StopUnit ─ JobRemoved
//! ```
//! A scope can't be made without a process, and the container's shall be born where it belongs, not be moved there: the
//! short-lived one keeps the place. Limits go to systemd as properties, so that it doesn't undo them, and to the group's
//! files, since the scope is delegated.

mod bus;
mod properties;
mod variant;
mod wire;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use kernelet_spec::{ContainerId, Resources};
use kernelet_sys::cgroup::Mode;
use serde::{Deserialize, Serialize};

use self::{
    bus::{Bus, Refused},
    properties::Property,
    wire::{Message, Value},
};

const NAME: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// What systemd may take for a job.
const JOB_WITHIN: Duration = Duration::from_secs(30);

/// A container's unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    pub name: String,
    pub slice: String,
    /// Of the user's own systemd.
    pub user: bool,
}

impl Unit {
    /// `slice:prefix:name` of `linux.cgroupsPath`; empty: the default slice.
    pub fn of(cgroups_path: &str, id: &ContainerId, user: bool) -> Result<Unit> {
        let (slice, prefix, name) = match cgroups_path {
            "" => ("", "kernelet-oci", id.as_str()),
            path => match path.split(':').collect::<Vec<_>>().as_slice() {
                [slice, prefix, name] => (*slice, *prefix, *name),
                _ => bail!(
                    "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {path:?} instead"
                ),
            },
        };
        let slice = match slice {
            "" if user => "user.slice",
            "" => "system.slice",
            slice => slice,
        };
        if name.ends_with(".slice") {
            bail!("linux.cgroupsPath: a container's unit can't be a slice: {name}");
        }
        Ok(Unit {
            name: format!("{prefix}-{name}.scope"),
            slice: slice.to_owned(),
            user,
        })
    }

    /// The group's path below the root of each hierarchy. A user's systemd is asked where its own group is.
    pub fn cgroup(&self) -> Result<String> {
        let below = match self.user {
            false => String::new(),
            true => manager_property(&mut connect(true)?, "ControlGroup")?,
        };
        Ok(format!("{below}{}/{}", expand(&self.slice)?, self.name))
    }

    /// Makes the scope with a process in it, and waits until it is there.
    pub fn start(
        &self,
        pid: i32,
        id: &ContainerId,
        mode: Mode,
        resources: &Resources,
        annotations: &BTreeMap<String, String>,
    ) -> Result<()> {
        let io = if mode == Mode::V2 {
            "IOAccounting"
        } else {
            "BlockIOAccounting"
        };
        let text = |name: &str, value: &str| (name.to_owned(), Value::text(value));
        let on = |name: &str, value: bool| (name.to_owned(), Value::Bool(value));
        let mut all = vec![
            text("Description", &format!("kernelet-oci container {id}")),
            text("Slice", &self.slice),
            on("Delegate", true),
            (
                "PIDs".to_owned(),
                Value::Array("u".into(), vec![Value::Uint32(pid as u32)]),
            ),
            on("MemoryAccounting", true),
            on("CPUAccounting", true),
            on(io, true),
            on("TasksAccounting", true),
            on("DefaultDependencies", false),
        ];
        all.extend(properties::of_resources(resources, mode)?);
        all.extend(properties::of_annotations(annotations)?);
        let mut bus = connect(self.user)?;
        let body = vec![
            Value::text(&*self.name),
            Value::text("replace"),
            pairs(&all),
            Value::Array("(sa(sv))".into(), vec![]),
        ];
        let started = self.job(&mut bus, "StartTransientUnit", body.clone());
        let started = match started {
            // Perhaps one that has failed, and is kept for somebody to look at.
            Err(error) if is_refusal(&error, "UnitExists") => {
                let _ = self.reset_failed(&mut bus);
                self.job(&mut bus, "StartTransientUnit", body)
            }
            other => other,
        };
        let result = started.with_context(|| format!("unable to start unit {:?}", self.name))?;
        if result != "done" {
            let _ = self.reset_failed(&mut bus);
            bail!(
                "error creating systemd unit `{}`: got `{result}`",
                self.name
            );
        }
        Ok(())
    }

    /// Takes the scope away. One that isn't there is no error.
    pub fn stop(&self) -> Result<()> {
        let mut bus = connect(self.user)?;
        let body = vec![Value::text(&*self.name), Value::text("replace")];
        let stopped = self.job(&mut bus, "StopUnit", body);
        // In case it has failed: systemd forgets it then.
        let _ = self.reset_failed(&mut bus);
        match stopped {
            Ok(_) => Ok(()),
            Err(error) if is_refusal(&error, "NoSuchUnit") => Ok(()),
            Err(error) => Err(error.context(format!("unable to stop unit {:?}", self.name))),
        }
    }

    /// Other limits for a scope that is there.
    pub fn set(&self, resources: &Resources, mode: Mode) -> Result<()> {
        let all = properties::of_resources(resources, mode)?;
        if all.is_empty() {
            return Ok(());
        }
        let body = vec![Value::text(&*self.name), Value::Bool(true), pairs(&all)];
        let mut bus = connect(self.user)?;
        bus.call(Message::call(
            NAME,
            PATH,
            MANAGER,
            "SetUnitProperties",
            body,
        ))
        .with_context(|| format!("unable to set properties of unit {:?}", self.name))
        .map(drop)
    }

    /// Calls a method that answers with a job, and waits for the job's result.
    fn job(&self, bus: &mut Bus, method: &str, body: Vec<Value>) -> Result<String> {
        // Before the call: the job may be done before its answer is read.
        bus.watch(&format!(
            "type='signal',sender='{NAME}',interface='{MANAGER}',member='JobRemoved'"
        ))?;
        let answer = bus.call(Message::call(NAME, PATH, MANAGER, method, body))?;
        let job = answer
            .first()
            .and_then(Value::as_text)
            .context("systemd named no job")?;
        let result = bus.signal(JOB_WITHIN, |signal| {
            let removed = signal.member.as_deref() == Some("JobRemoved");
            let [_, path, _, result] = signal.body.as_slice() else {
                return None;
            };
            (removed && path.as_text() == Some(job))
                .then(|| result.as_text().unwrap_or_default().to_owned())
        })?;
        let deed = if method == "StopUnit" {
            "remove"
        } else {
            "create"
        };
        result.ok_or_else(|| anyhow!("Timeout waiting for systemd to {deed} {}", self.name))
    }

    fn reset_failed(&self, bus: &mut Bus) -> Result<()> {
        let body = vec![Value::text(&*self.name)];
        bus.call(Message::call(NAME, PATH, MANAGER, "ResetFailedUnit", body))
            .map(drop)
    }
}

fn is_refusal(error: &anyhow::Error, name: &str) -> bool {
    error
        .downcast_ref::<Refused>()
        .is_some_and(|refused| refused.name == format!("{NAME}.{name}"))
}

fn pairs(all: &[Property]) -> Value {
    let pair = |(name, value): &Property| {
        Value::Struct(vec![Value::text(&**name), value.clone().variant()])
    };
    Value::Array("(sv)".into(), all.iter().map(pair).collect())
}

fn manager_property(bus: &mut Bus, name: &str) -> Result<String> {
    let body = vec![Value::text(MANAGER), Value::text(name)];
    let answer = bus.call(Message::call(
        NAME,
        PATH,
        "org.freedesktop.DBus.Properties",
        "Get",
        body,
    ))?;
    let text = answer.first().and_then(Value::as_text);
    Ok(text
        .with_context(|| format!("systemd has no property {name}"))?
        .to_owned())
}

fn connect(user: bool) -> Result<Bus> {
    // As sd_booted(3) has it.
    let booted = std::fs::symlink_metadata("/run/systemd/system").is_ok_and(|it| it.is_dir());
    if !booted {
        bail!("systemd not running on this host, cannot use systemd cgroups manager");
    }
    let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let address = match user {
        false => variable("DBUS_SYSTEM_BUS_ADDRESS").unwrap_or_else(|| {
            "unix:path=/run/dbus/system_bus_socket;unix:path=/var/run/dbus/system_bus_socket".into()
        }),
        true => match (
            variable("DBUS_SESSION_BUS_ADDRESS"),
            variable("XDG_RUNTIME_DIR"),
        ) {
            (Some(address), _) => address,
            (None, Some(dir)) if Path::new(&dir).join("bus").exists() => {
                format!("unix:path={dir}/bus")
            }
            _ => bail!(
                "could not detect DBUS_SESSION_BUS_ADDRESS from the environment; make sure you have installed the \
                 dbus-user-session or dbus-daemon package; note you may need to re-login"
            ),
        },
    };
    Bus::connect(&address).context("failed to connect to dbus")
}

/// `a-b.slice` lies in `a.slice`: `/a.slice/a-b.slice`.
fn expand(slice: &str) -> Result<String> {
    let stem = slice
        .strip_suffix(".slice")
        .filter(|stem| !stem.is_empty() && !stem.contains('/'));
    let Some(stem) = stem else {
        bail!("invalid slice name: {slice}");
    };
    if stem == "-" {
        return Ok(String::new());
    }
    let (mut path, mut prefix) = (String::new(), String::new());
    for part in stem.split('-') {
        if part.is_empty() {
            bail!("invalid slice name: {slice}");
        }
        prefix.push_str(part);
        path.push_str(&format!("/{prefix}.slice"));
        prefix.push('-');
    }
    Ok(path)
}
