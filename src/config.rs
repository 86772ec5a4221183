//! The configuration file: a flat YAML map whose keys are the long options.
//!
//! A key of the file is put before what the command line says, so that the command line wins. A key that no
//! command knows is an error that names the nearest known one.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

use clap::{ArgMatches, CommandFactory};
use serde_json::Value;

use crate::cli::Cli;

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    Usage(#[from] clap::Error),
    #[error("cannot read the configuration {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the configuration {path} is not a YAML map: {reason}")]
    Parse { path: PathBuf, reason: String },
    #[error(
        "the configuration {path} has an unknown key {key:?}; the nearest known one is {nearest:?}"
    )]
    UnknownKey {
        path: PathBuf,
        key: String,
        nearest: String,
    },
    #[error(
        "the configuration {path}: {key} must be a text, a number, true, false or a list of these"
    )]
    BadValue { path: PathBuf, key: String },
}

/// Parses `args` (the program's name first) with the configuration file's keys put in.
pub fn parse(args: Vec<OsString>) -> Result<ArgMatches, ConfigError> {
    let command = Cli::command();
    let matches = command.clone().try_get_matches_from(&args)?;
    let Some((name, _)) = matches.subcommand() else {
        return Ok(matches);
    };
    let path: &PathBuf = matches.get_one("config").expect("--config has a default");
    let given = matches.value_source("config") == Some(clap::parser::ValueSource::CommandLine);
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !given => return Ok(matches),
        Err(source) => {
            return Err(ConfigError::Read {
                path: path.clone(),
                source,
            });
        }
    };
    let mut names = vec![name];
    let mut innermost = &matches;
    while let Some((name, inner)) = innermost.subcommand() {
        names.push(name);
        innermost = inner;
    }
    names.remove(0);
    let given = |key: &str| {
        let id = key.replace('-', "_");
        innermost.try_contains_id(&id).unwrap_or(false)
            && innermost.value_source(&id) == Some(clap::parser::ValueSource::CommandLine)
    };
    let from_file = options(&text, path, &command, &names, &given)?;
    if from_file.is_empty() {
        return Ok(matches);
    }
    // Right behind the command's name: whatever the command line says comes later and wins.
    let at = names.iter().fold(0, |from, name| {
        let found = args[from..].iter().position(|arg| arg == name);
        found.map_or(args.len(), |position| from + position + 1)
    });
    let mut all = args;
    all.splice(at..at, from_file);
    Ok(command.try_get_matches_from(all)?)
}

/// The options that the file's `text` gives to the command of these names (`image`, `pull`), but for those that are
/// `given` already: a list on the command line replaces the file's.
fn options(
    text: &str,
    path: &Path,
    command: &clap::Command,
    names: &[&str],
    given: &dyn Fn(&str) -> bool,
) -> Result<Vec<OsString>, ConfigError> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let keys: BTreeMap<String, Value> =
        serde_saphyr::from_str(text).map_err(|error| ConfigError::Parse {
            path: path.to_owned(),
            reason: error
                .to_string()
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned(),
        })?;
    let subcommand = names.iter().fold(command, |command, name| {
        command.find_subcommand(name).expect("clap matched it")
    });
    let ours: BTreeMap<&str, bool> = command
        .get_arguments()
        .chain(subcommand.get_arguments())
        .filter_map(|arg| Some((arg.get_long()?, arg.get_action().takes_values())))
        .collect();
    let known = all_keys(command);
    let mut found = Vec::new();
    for (key, value) in keys {
        if !known.contains(&key) {
            let nearest = known
                .iter()
                .max_by(|a, b| {
                    strsim::jaro_winkler(a, &key).total_cmp(&strsim::jaro_winkler(b, &key))
                })
                .cloned()
                .unwrap_or_default();
            return Err(ConfigError::UnknownKey {
                path: path.to_owned(),
                key,
                nearest,
            });
        }
        let Some(takes_value) = ours.get(key.as_str()).filter(|_| !given(&key)) else {
            continue;
        };
        let bad = || ConfigError::BadValue {
            path: path.to_owned(),
            key: key.clone(),
        };
        match (takes_value, &value) {
            (false, Value::Bool(true)) => found.push(format!("--{key}").into()),
            (false, Value::Bool(false)) | (_, Value::Null) => {}
            (false, _) => return Err(bad()),
            (true, Value::Array(items)) => {
                for item in items {
                    found.push(format!("--{key}={}", scalar(item).ok_or_else(bad)?).into());
                }
            }
            (true, value) => {
                found.push(format!("--{key}={}", scalar(value).ok_or_else(bad)?).into());
            }
        }
    }
    Ok(found)
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

/// The long options of every command; `config` itself can't stand in the file it names.
fn all_keys(command: &clap::Command) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let mut commands = vec![command];
    while let Some(command) = commands.pop() {
        keys.extend(
            command
                .get_arguments()
                .filter_map(|arg| arg.get_long().map(str::to_owned)),
        );
        commands.extend(command.get_subcommands());
    }
    for key in [
        "config",
        "help",
        "version",
        "detach",
        "pods",
        "purge",
        "output",
        "count",
        "dropped",
        "from",
        "to",
        "protocol",
        "creds",
        "platform",
        "tls-verify",
        "ca",
    ] {
        keys.remove(key);
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, name: &str, expect: Result<&[&str], &str>) {
        let found = options(
            text,
            Path::new("config.yaml"),
            &Cli::command(),
            &name.split(' ').collect::<Vec<_>>(),
            &|key| key == "registry-ca",
        );
        match (found, expect) {
            (Ok(found), Ok(expect)) => assert_eq!(found, expect, "{text}"),
            (Err(error), Err(expect)) => {
                let error = error.to_string();
                assert!(error.contains(expect), "{error} does not say {expect}");
            }
            (found, expect) => panic!("{text}: {found:?} instead of {expect:?}"),
        }
    }

    #[test]
    fn each_key_is_a_flag_and_an_unknown_one_names_its_neighbour() {
        check("", "up", Ok(&[]));
        check("# nothing\n", "up", Ok(&[]));
        check(
            "node-name: a\napi-port: 7443\n",
            "up",
            Ok(&["--api-port=7443", "--node-name=a"]),
        );
        check("node-name: a\n", "server", Ok(&[]));
        let mirrors =
            "registry-mirror: [docker.io=https://a, docker.io=https://b]\nregistry-ca: a=b\n";
        let flags = [
            "--registry-mirror=docker.io=https://a",
            "--registry-mirror=docker.io=https://b",
        ];
        check(mirrors, "image pull", Ok(&flags));
        check(mirrors, "image ls", Ok(&[]));
        check(
            "without: [scheduler]\n",
            "server",
            Ok(&["--without=scheduler"]),
        );
        check(
            "node-nam: a\n",
            "up",
            Err("unknown key \"node-nam\"; the nearest known one is \"node-name\""),
        );
        check("node-name: {a: b}\n", "up", Err("node-name must be a text"));
        check("- a\n", "up", Err("is not a YAML map"));
        check("detach: true\n", "up", Err("unknown key"));
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        std::fs::write(&file, "node-name: from-file\nkubelet-port: 10260\n").unwrap();
        let args = [
            "kernelet",
            "--config",
            file.to_str().unwrap(),
            "up",
            "--node-name",
            "from-line",
        ];
        let matches = parse(args.map(OsString::from).to_vec()).unwrap();
        let (_, up) = matches.subcommand().unwrap();
        assert_eq!(up.get_one::<String>("node_name").unwrap(), "from-line");
        assert_eq!(*up.get_one::<u16>("kubelet_port").unwrap(), 10260);
    }
}
