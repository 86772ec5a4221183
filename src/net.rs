//! `kernelet net`: what the data plane holds, read back from the kernel.

use std::process::ExitCode;

use anyhow::{Context, bail};
use kernelet_maps::view;

use crate::{
    cli::{Global, NetCommand, Output},
    instance::Instance,
};

pub fn run(global: &Global, command: NetCommand) -> anyhow::Result<ExitCode> {
    let Some(instance) = Instance::find(&global.data_dir)? else {
        bail!(
            "there is no data folder {}; give the right one with --data-dir",
            global.data_dir.display()
        );
    };
    match command {
        NetCommand::Services(options) => {
            let rows = view::services(&instance.id).context("cannot read the services' map")?;
            print_rows(
                options.output,
                &rows,
                &[
                    "SERVICE", "TYPE", "ADDRESS", "PROTOCOL", "AFFINITY", "BACKENDS",
                ],
                |row| {
                    vec![
                        row.name.clone(),
                        row.kind.clone(),
                        row.address.to_string(),
                        row.protocol.clone(),
                        row.affinity_s
                            .map_or("-".into(), |seconds| format!("{seconds}s")),
                        row.backends
                            .iter()
                            .map(ToString::to_string)
                            .collect::<Vec<_>>()
                            .join(","),
                    ]
                },
            )
        }
        NetCommand::Backends(options) => {
            let rows = view::backends(&instance.id).context("cannot read the backends' map")?;
            print_rows(
                options.output,
                &rows,
                &["ID", "SERVICE", "ADDRESS", "PROTOCOL"],
                |row| {
                    vec![
                        row.id.to_string(),
                        row.service.clone(),
                        row.address.to_string(),
                        row.protocol.clone(),
                    ]
                },
            )
        }
    }
}

/// A table with aligned columns, or the rows as a JSON array.
pub fn print_rows<T: serde::Serialize>(
    output: Output,
    rows: &[T],
    header: &[&str],
    cells: impl Fn(&T) -> Vec<String>,
) -> anyhow::Result<ExitCode> {
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(rows)?),
        Output::Text => print!(
            "{}",
            table(header, &rows.iter().map(cells).collect::<Vec<_>>())
        ),
    }
    Ok(ExitCode::SUCCESS)
}

fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let header: Vec<String> = header.iter().map(|&cell| cell.to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&header).chain(rows) {
        let line: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text += line.join("   ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_align() {
        let rows = [
            vec!["a".to_owned(), "long".to_owned()],
            vec!["bcd".to_owned(), "x".to_owned()],
        ];
        assert_eq!(
            super::table(&["N", "VAL"], &rows),
            "N     VAL\na     long\nbcd   x\n"
        );
    }
}
