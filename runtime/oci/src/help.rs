//! Usage texts, in the form that runc prints them.

use std::{fmt::Write, path::Path, sync::OnceLock};

use crate::{
    cli::{COMMANDS, Command, GLOBAL},
    flags::{Flag, Kind},
    info,
};

/// By the name that it was called by: where it stands in for runc, that may be runc's.
pub fn name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let called = std::env::args_os().next().unwrap_or_default();
        match Path::new(&called).file_name() {
            Some(name) => name.to_string_lossy().into_owned(),
            None => "kernelet-oci".to_owned(),
        }
    })
}

/// `kernelet-oci --help`.
pub fn program() -> String {
    let name = name();
    let mut text = format!(
        "NAME:\n   {name} - Open Container Initiative runtime\n\n\
         {name} runs containers packaged according to the Open Container Initiative (OCI) format, straight on the kernel. \
         It takes runc's command line.\n\n\
         USAGE:\n   {name} [global options] command [command options] [arguments...]\n\n\
         VERSION:\n   {}\n\nCOMMANDS:\n",
        info::version()
            .trim_end()
            .replace(&format!("{name} version "), "")
    );
    for command in COMMANDS {
        let _ = writeln!(text, "   {:<10}  {}", command.name, command.help);
    }
    let _ = writeln!(
        text,
        "   {:<10}  Shows a list of commands or help for one command",
        "help, h"
    );
    text.push_str("\nGLOBAL OPTIONS:\n");
    options(&mut text, GLOBAL);
    text.push_str("   --help, -h     show help\n   --version, -v  print the version\n");
    text
}

/// `kernelet-oci COMMAND --help`.
pub fn of_command(command: &Command) -> String {
    let program = name();
    let options_word = if command.flags.is_empty() {
        ""
    } else {
        " [command options]"
    };
    let mut text = format!(
        "NAME:\n   {program} {} - {}\n\nUSAGE:\n   {program} {}{options_word} {}\n",
        command.name, command.help, command.name, command.arguments
    );
    if !command.flags.is_empty() {
        text.push_str("\nOPTIONS:\n");
        options(&mut text, command.flags);
    }
    text
}

fn options(text: &mut String, flags: &[Flag]) {
    let shown = |flag: &Flag| {
        let value = if flag.kind == Kind::Switch {
            ""
        } else {
            " value"
        };
        let mut name = format!("--{}{value}", flag.name);
        if let Some(short) = flag.short {
            let _ = write!(name, ", -{short}{value}");
        }
        name
    };
    let width = flags
        .iter()
        .map(|flag| shown(flag).len())
        .max()
        .unwrap_or(0);
    for flag in flags {
        let _ = writeln!(text, "   {:<width$}  {}", shown(flag), flag.help);
    }
}
