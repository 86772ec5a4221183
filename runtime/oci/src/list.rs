//! list: every container below the root.

use std::{fs, io::ErrorKind, os::unix::fs::MetadataExt, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use kernelet_sys::cgroup::Layout;

use crate::{
    cli::Global,
    container::Shown,
    flags::{Flag, Given},
    log,
    state::{Folder, Saved},
};

pub const FLAGS: &[Flag] = &[
    Flag::text("format", "select one of: table or json").or("f"),
    Flag::switch("quiet", "display only container IDs").or("q"),
];

pub fn list(global: &Global, given: &Given) -> Result<ExitCode> {
    let format = given.text("format")?.unwrap_or("table");
    let found = all(global)?;
    if given.on("quiet") {
        found
            .iter()
            .for_each(|(_, saved, _)| log::out(&format!("{}\n", saved.id)));
        return Ok(ExitCode::SUCCESS);
    }
    let layout = Layout::detect()?;
    let shown = found.iter().map(|(folder, saved, owner)| {
        let mut shown = Shown::of(folder, saved, &layout);
        shown.owner = owner_name(*owner);
        shown
    });
    let shown: Vec<Shown<'_>> = shown.collect();
    match format {
        "table" => log::out(&table(&shown)),
        // As Go writes a list that has no first.
        "json" if shown.is_empty() => log::out("null\n"),
        "json" => log::out(&format!("{}\n", serde_json::to_string(&shown)?)),
        _ => bail!("invalid format option"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Folder, state and the folder's owner, by name.
fn all(global: &Global) -> Result<Vec<(Folder, Saved, u32)>> {
    let entries = match fs::read_dir(&global.root) {
        Ok(entries) => entries,
        // No container has been made yet.
        Err(e) if e.kind() == ErrorKind::NotFound && !global.root_given => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("open {}", global.root.display())),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path: PathBuf = entry?.path();
        // Nobody's id begins with a dot: what this program keeps for itself.
        let name = path.file_name().unwrap_or_default();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        // It may have been deleted since.
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue;
        };
        if !metadata.is_dir() {
            continue;
        }
        let folder = Folder { path };
        match folder.load() {
            Ok(saved) => found.push((folder, saved, metadata.uid())),
            Err(_) if !folder.path.exists() => {}
            Err(error) => {
                let name = folder
                    .path
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy();
                eprintln!("load container {name}: {error:#}");
            }
        }
    }
    found.sort_by(|a, b| a.1.id.cmp(&b.1.id));
    Ok(found)
}

/// Read from the file: the C library would load modules for it, which a static program can't.
fn owner_name(uid: u32) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("#{uid}"))
}

/// Columns at least 12 wide, 3 apart.
fn table(shown: &[Shown<'_>]) -> String {
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    rows.extend(shown.iter().map(|one| {
        [
            one.id.to_owned(),
            one.pid.to_string(),
            one.status.to_owned(),
            one.bundle.display().to_string(),
            one.created.clone(),
            one.owner.clone(),
        ]
    }));
    let mut text = String::new();
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            let longest = rows
                .iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0);
            let width = if column + 1 == row.len() {
                0
            } else {
                (longest + 3).max(12)
            };
            text.push_str(&format!("{cell:<width$}"));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_runcs() {
        assert_eq!(
            table(&[]),
            "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n"
        );
        assert_eq!(owner_name(0), "root");
        assert_eq!(owner_name(3_999_999_999), "#3999999999");
    }
}
