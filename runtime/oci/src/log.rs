//! What this program has to say, where its caller wants it: stderr, or `--log`'s file, as text or JSON in the form of
//! runc's logger. containerd, conmon and podman look for the errors there.

use std::{
    fs::File,
    io::{IsTerminal, Write},
    path::PathBuf,
    sync::OnceLock,
};

use anyhow::{Result, bail};
use kernelet_spec::ProcessPlan;
use kernelet_sys::seccomp::Filter;

use crate::state;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Error,
    Warning,
    Debug,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Debug => "debug",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
}

struct Sink {
    /// stderr without.
    path: Option<PathBuf>,
    format: Format,
    least: Level,
}

static SINK: OnceLock<Sink> = OnceLock::new();

/// Says where messages go from here on. Nothing is opened before there is one.
pub fn set(
    path: Option<PathBuf>,
    format: Option<&str>,
    level: Option<&str>,
    debug: bool,
) -> Result<()> {
    let format = match format {
        None | Some("text") => Format::Text,
        Some("json") => Format::Json,
        Some(other) => bail!("invalid log-format: {other}"),
    };
    let least = match level {
        None if debug => Level::Debug,
        None | Some("warning") => Level::Warning,
        Some("debug") => Level::Debug,
        Some("error") => Level::Error,
        Some(other) => bail!("invalid log-level: {other}"),
    };
    let _ = SINK.set(Sink {
        path,
        format,
        least,
    });
    Ok(())
}

/// What a command was asked for, on stdout. Who doesn't want to hear the end of it ends the command.
pub fn out(text: &str) {
    let mut stdout = std::io::stdout();
    if stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .is_err()
    {
        std::process::exit(1);
    }
}

/// The end of a command: also on stderr when the log is elsewhere.
pub fn fatal(error: &anyhow::Error) {
    let message = format!("{error:#}");
    say(Level::Error, &message);
    if SINK.get().is_some_and(|sink| sink.path.is_some()) {
        eprintln!("{message}");
    }
}

pub fn warn(message: &str) {
    say(Level::Warning, message);
}

/// What of a process's plan will not be as it was asked for, and what runc's debug log tells of it: its users read those
/// texts, here and where a container is made.
pub fn of_process(plan: &ProcessPlan, filter: Option<&Filter>) {
    let caps = &plan.capabilities;
    for cap in caps.ambient.iter() {
        if !(caps.permitted.contains(cap) && caps.inheritable.contains(cap)) {
            warn(&format!(
                "can't raise ambient capability {cap}: operation not permitted"
            ));
        }
    }
    if let Some(filter) = filter {
        debug(|| format!("seccomp filter flags: {}", filter.flag_bits()));
    }
    let affinity = &plan.attributes.exec_cpu_affinity;
    if let Some(initial) = affinity.as_ref().and_then(|a| a.initial.as_ref()) {
        let mask = initial.words.first().copied().unwrap_or_default();
        debug(|| format!("nsexec[{}]: affinity: {mask:#x}", std::process::id()));
    }
}

/// The message is only made when somebody wants it.
pub fn debug(message: impl FnOnce() -> String) {
    if SINK.get().is_some_and(|sink| sink.least == Level::Debug) {
        say(Level::Debug, &message());
    }
}

fn say(level: Level, message: &str) {
    let standard = Sink {
        path: None,
        format: Format::Text,
        least: Level::Warning,
    };
    let sink = SINK.get().unwrap_or(&standard);
    if level > sink.least {
        return;
    }
    let colours = sink.path.is_none() && std::io::stderr().is_terminal();
    let line = line(
        sink.format,
        colours,
        level,
        message,
        &state::rfc3339_seconds(state::now_ns()),
    );
    let written = match &sink.path {
        None => std::io::stderr().write_all(line.as_bytes()),
        Some(path) => File::options()
            .append(true)
            .create(true)
            .open(path)
            .and_then(|mut file| file.write_all(line.as_bytes())),
    };
    if let (Err(error), Some(path)) = (written, &sink.path) {
        // No reason to hide the message itself.
        eprintln!("{message}\nwrite {}: {error}", path.display());
    }
}

fn line(format: Format, colours: bool, level: Level, message: &str, time: &str) -> String {
    let name = level.name();
    match (format, colours) {
        (Format::Json, _) => {
            let value = serde_json::json!({"level": name, "msg": message, "time": time});
            format!("{value}\n")
        }
        (Format::Text, false) => {
            format!("time=\"{time}\" level={name} msg={}\n", quoted(message))
        }
        (Format::Text, true) => {
            let short = &name.to_ascii_uppercase()[..4.min(name.len())];
            let colour = match level {
                Level::Error => 31,
                Level::Warning => 33,
                Level::Debug => 37,
            };
            format!("\x1b[{colour}m{short}\x1b[0m[0000] {message}\n")
        }
    }
}

/// In quotes where it isn't one plain word.
fn quoted(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._/@^+".contains(&b);
    match !text.is_empty() && text.bytes().all(plain) {
        true => text.to_owned(),
        false => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_runcs_logger() {
        let line = |format, colours, message| {
            line(
                format,
                colours,
                Level::Error,
                message,
                "2026-01-02T03:04:05Z",
            )
        };
        assert_eq!(
            line(Format::Text, false, "container \"a\" does not exist"),
            "time=\"2026-01-02T03:04:05Z\" level=error msg=\"container \\\"a\\\" does not exist\"\n"
        );
        assert_eq!(
            line(Format::Text, false, "word"),
            "time=\"2026-01-02T03:04:05Z\" level=error msg=word\n"
        );
        assert_eq!(
            line(Format::Json, false, "a b"),
            "{\"level\":\"error\",\"msg\":\"a b\",\"time\":\"2026-01-02T03:04:05Z\"}\n"
        );
        assert_eq!(
            line(Format::Text, true, "a b"),
            "\x1b[31mERRO\x1b[0m[0000] a b\n"
        );
    }
}
