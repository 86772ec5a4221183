//! Flags as runc's command line has them, which are those of Go's `flag` package: one dash or two, `--name=value` or
//! `--name value`, switches that take `=false`. clap knows none of that, and building its tree took longer than making
//! a container's cgroup.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use anyhow::{Result, anyhow, bail};

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing, or `=true`, `=false`.
    Switch,
    Text,
    Number,
    /// A text, any number of times.
    List,
}

/// One flag of a command.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    pub name: &'static str,
    pub short: Option<&'static str>,
    pub kind: Kind,
    pub help: &'static str,
}

impl Flag {
    const fn new(name: &'static str, kind: Kind, help: &'static str) -> Flag {
        Flag {
            name,
            short: None,
            kind,
            help,
        }
    }

    pub const fn switch(name: &'static str, help: &'static str) -> Flag {
        Flag::new(name, Kind::Switch, help)
    }

    pub const fn text(name: &'static str, help: &'static str) -> Flag {
        Flag::new(name, Kind::Text, help)
    }

    pub const fn number(name: &'static str, help: &'static str) -> Flag {
        Flag::new(name, Kind::Number, help)
    }

    pub const fn list(name: &'static str, help: &'static str) -> Flag {
        Flag::new(name, Kind::List, help)
    }

    pub const fn or(self, short: &'static str) -> Flag {
        Flag {
            short: Some(short),
            ..self
        }
    }
}

/// Whether flags may stand behind the first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Any,
    /// The first word that is no flag ends them: what follows is another program's command line.
    FlagsFirst,
}

/// What was given.
#[derive(Clone, Debug, Default)]
pub struct Given {
    values: BTreeMap<&'static str, Vec<OsString>>,
    /// What isn't a flag.
    pub words: Vec<OsString>,
}

impl Given {
    pub fn on(&self, name: &str) -> bool {
        self.last(name).is_some_and(|value| value == "true")
    }

    pub fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    fn last(&self, name: &str) -> Option<&OsStr> {
        self.values.get(name)?.last().map(OsString::as_os_str)
    }

    /// A text that isn't empty; an empty one counts as not given, as it does for runc.
    pub fn text(&self, name: &str) -> Result<Option<&str>> {
        match self.last(name).filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => match text.to_str() {
                Some(text) => Ok(Some(text)),
                None => bail!("--{name} is not UTF-8"),
            },
        }
    }

    pub fn path(&self, name: &str) -> Option<PathBuf> {
        let text = self.last(name).filter(|text| !text.is_empty())?;
        Some(PathBuf::from(text))
    }

    /// Checked when it was understood.
    pub fn number(&self, name: &str) -> Option<i64> {
        self.last(name)?.to_str()?.parse().ok()
    }

    pub fn list(&self, name: &str) -> Result<Vec<&str>> {
        let values = self.values.get(name).map_or(&[][..], Vec::as_slice);
        values
            .iter()
            .map(|value| {
                value
                    .to_str()
                    .ok_or_else(|| anyhow!("--{name} is not UTF-8"))
            })
            .collect()
    }

    pub fn word(&self, index: usize) -> &str {
        self.words
            .get(index)
            .and_then(|word| word.to_str())
            .unwrap_or_default()
    }
}

/// Understands words by a table of flags. The error is Go's, word for word.
pub fn parse(tables: &[&[Flag]], words: &[OsString], order: Order) -> Result<Given> {
    let find = |name: &str| {
        let of = |flag: &&Flag| flag.name == name || flag.short == Some(name);
        tables.iter().flat_map(|table| table.iter()).find(of)
    };
    let mut given = Given::default();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let text = word.to_string_lossy();
        let Some(body) = dashed(&text) else {
            given.words.push(word.clone());
            if order == Order::FlagsFirst {
                break;
            }
            continue;
        };
        if body.is_empty() {
            break;
        }
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(OsString::from(value))),
            None => (body, None),
        };
        let Some(flag) = find(name) else {
            // Behind the first word it is one itself: `kill ID -9`.
            if !given.words.is_empty() {
                given.words.push(word.clone());
                continue;
            }
            bail!("flag provided but not defined: -{name}");
        };
        let value = match (flag.kind, value) {
            (Kind::Switch, None) => "true".into(),
            (Kind::Switch, Some(value)) => switch(name, &value)?,
            (_, Some(value)) => value,
            (_, None) => match rest.next() {
                Some(value) => value.clone(),
                None => bail!("flag needs an argument: -{name}"),
            },
        };
        if flag.kind == Kind::Number && value.to_str().is_none_or(|v| v.parse::<i64>().is_err()) {
            bail!("invalid value {value:?} for flag -{name}: parse error");
        }
        given.values.entry(flag.name).or_default().push(value);
    }
    given.words.extend(rest.cloned());
    Ok(given)
}

/// What follows one or two dashes; a single dash is a word. `--` alone gives nothing.
fn dashed(text: &str) -> Option<&str> {
    let body = text.strip_prefix('-')?;
    match body.strip_prefix('-') {
        Some(body) => Some(body),
        None if body.is_empty() => None,
        None => Some(body),
    }
}

fn switch(name: &str, value: &OsStr) -> Result<OsString> {
    match value.to_str().unwrap_or_default() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok("true".into()),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok("false".into()),
        _ => bail!("invalid boolean value {value:?} for -{name}: parse error"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        Flag::text("bundle", "").or("b"),
        Flag::switch("detach", "").or("d"),
        Flag::number("preserve-fds", ""),
        Flag::list("env", "").or("e"),
    ];

    /// Bundle, detach, preserve-fds, and the words left.
    type Told<'a> = (&'a str, bool, Option<i64>, &'a [&'a str]);

    fn check(line: &str, order: Order, expect: Result<Told<'_>, &str>) {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        let given = parse(&[FLAGS], &words, order);
        let given = given.as_ref().map_err(ToString::to_string);
        let told = given.as_ref().map(|given| {
            let words: Vec<&str> = given.words.iter().filter_map(|w| w.to_str()).collect();
            let bundle = given.text("bundle").unwrap().unwrap_or_default();
            (
                bundle,
                given.on("detach"),
                given.number("preserve-fds"),
                words,
            )
        });
        let expect =
            expect.map(|(bundle, detach, fds, words)| (bundle, detach, fds, words.to_vec()));
        assert_eq!(told.map_err(String::as_str), expect, "{line}");
    }

    #[test]
    fn flags_are_understood_as_go_does() {
        let any = Order::Any;
        check(
            "--bundle /b --detach id",
            any,
            Ok(("/b", true, None, &["id"])),
        );
        check("-bundle=/b -d id", any, Ok(("/b", true, None, &["id"])));
        check(
            "id -b /b --detach=false",
            any,
            Ok(("/b", false, None, &["id"])),
        );
        check(
            "--preserve-fds 3 id",
            any,
            Ok(("", false, Some(3), &["id"])),
        );
        check("id -9", any, Ok(("", false, None, &["id", "-9"])));
        check("id -- -d", any, Ok(("", false, None, &["id", "-d"])));
        check(
            "-d id sh -d",
            Order::FlagsFirst,
            Ok(("", true, None, &["id", "sh", "-d"])),
        );
        check("-", any, Ok(("", false, None, &["-"])));
        check(
            "--nothing id",
            any,
            Err("flag provided but not defined: -nothing"),
        );
        check("id --bundle", any, Err("flag needs an argument: -bundle"));
        check(
            "-d=maybe id",
            any,
            Err("invalid boolean value \"maybe\" for -d: parse error"),
        );
        check(
            "--preserve-fds=x id",
            any,
            Err("invalid value \"x\" for flag -preserve-fds: parse error"),
        );
    }

    #[test]
    fn lists_collect() {
        let words: Vec<OsString> = ["-e", "A=1", "--env=B=2", "id"]
            .map(OsString::from)
            .to_vec();
        let given = parse(&[FLAGS], &words, Order::Any).unwrap();
        assert_eq!(given.list("env").unwrap(), ["A=1", "B=2"]);
    }
}
