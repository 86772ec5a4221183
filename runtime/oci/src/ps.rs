//! ps: a container's processes, as the program `ps` shows them.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use kernelet_sys::cgroup::Layout;

use crate::{
    cli::Global,
    container::{group, named},
    flags::{Flag, Given},
    log,
};

pub const FLAGS: &[Flag] = &[Flag::text("format", "select one of: table or json").or("f")];

pub fn ps(global: &Global, given: &Given) -> Result<ExitCode> {
    let (_, _, saved) = named(global, given)?;
    let layout = Layout::detect()?;
    let pids = group(&saved, &layout)?
        .pids_of_tree()
        .context("unable to get all container pids")?;
    match given.text("format")?.unwrap_or("table") {
        "table" => {}
        "json" if pids.is_empty() => {
            log::out("null\n");
            return Ok(ExitCode::SUCCESS);
        }
        "json" => {
            log::out(&format!("{}\n", serde_json::to_string(&pids)?));
            return Ok(ExitCode::SUCCESS);
        }
        _ => bail!("invalid format option"),
    }
    let mut command = Command::new("ps");
    match &given.words[1..] {
        [] => command.arg("-ef"),
        options => command.args(options),
    };
    let output = match command.output() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            bail!("exec: \"ps\": executable file not found in $PATH")
        }
        other => other.context("run ps")?,
    };
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "exit status {}: {text}{said}",
            output.status.code().unwrap_or(-1)
        );
    }
    log::out(&of_these(&text, &pids)?);
    Ok(ExitCode::SUCCESS)
}

/// The title, and the lines of these processes.
fn of_these(text: &str, pids: &[i32]) -> Result<String> {
    let mut lines = text.lines();
    let title = lines.next().unwrap_or_default();
    let column = title.split_whitespace().position(|word| word == "PID");
    let column = column.context("couldn't find PID field in ps output")?;
    let mut shown = format!("{title}\n");
    for line in lines.filter(|line| !line.is_empty()) {
        let pid = line.split_whitespace().nth(column).unwrap_or_default();
        let pid: i32 = pid
            .parse()
            .with_context(|| format!("unable to parse pid: {pid:?}"))?;
        if pids.contains(&pid) {
            shown.push_str(line);
            shown.push('\n');
        }
    }
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_processes_are_shown() {
        let text = "UID   PID CMD\nroot    1 init\nroot   12 sh\nroot  123 sleep\n";
        assert_eq!(
            of_these(text, &[12, 123]).unwrap(),
            "UID   PID CMD\nroot   12 sh\nroot  123 sleep\n"
        );
        let error = of_these("CMD\nsh\n", &[1]).unwrap_err();
        assert_eq!(error.to_string(), "couldn't find PID field in ps output");
    }
}
