//! `kernelet net`: what the data plane holds, read back from the kernel.

use std::{
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Pod;
use kernelet_maps::{
    flows::{FlowReader, FlowRow},
    trace::{self, From},
    view,
};
use kube::Api;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{
    cli::{FlowsOptions, Global, NetCommand, Output, Protocol, TraceOptions},
    instance::Instance,
    preflight,
};

pub fn run(global: &Global, command: NetCommand) -> anyhow::Result<ExitCode> {
    preflight::root("reads the kernel's eBPF maps")?;
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
        NetCommand::Flows(options) => flows(&instance, &options),
        NetCommand::Trace(options) => trace(&instance, &options),
    }
}

/// Prints each decision as it is taken. In JSON one object a line, since the list has no end.
fn flows(instance: &Instance, options: &FlowsOptions) -> anyhow::Result<ExitCode> {
    let mut reader = FlowReader::open(&instance.id).context("cannot read flows")?;
    let mut out = io::stdout().lock();
    let mut left = options.count.unwrap_or(usize::MAX);
    let written = (|| {
        if options.output.output == Output::Text {
            writeln!(out, "{}", flow_line(&FLOW_HEADER.map(str::to_owned)))?;
        }
        while left > 0 && !reader_left(&out) {
            let rows = reader.read(Duration::from_secs(1))?;
            let wanted = rows.iter().filter(|row| !options.dropped || row.dropped);
            for row in wanted.take(left) {
                match options.output.output {
                    Output::Json => writeln!(out, "{}", serde_json::to_string(row)?)?,
                    Output::Text => writeln!(out, "{}", flow_line(&flow_cells(row)))?,
                }
                left -= 1;
            }
            out.flush()?;
        }
        anyhow::Ok(())
    })();
    match written {
        // Whoever read has seen enough (`| head`).
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        other => other.map(|()| ExitCode::SUCCESS),
    }
}

/// Whoever read our output is gone: the next line would tell, but nothing says when there is one.
fn reader_left(out: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(out.as_fd(), PollFlags::empty())];
    let _ = poll(&mut fds, PollTimeout::ZERO);
    fds[0]
        .revents()
        .is_some_and(|events| events.contains(PollFlags::POLLERR))
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

const FLOW_HEADER: [&str; 8] = [
    "TIME",
    "HOOK",
    "VERDICT",
    "PROTOCOL",
    "SOURCE",
    "DESTINATION",
    "TRANSLATED",
    "SERVICE",
];

fn flow_cells(row: &FlowRow) -> [String; 8] {
    let or_dash = |address: Option<SocketAddr>| address.map_or("-".into(), |a| a.to_string());
    let source = match (row.source, &row.command, row.pid) {
        (Some(source), ..) => source.to_string(),
        // At the socket the process is known, its address isn't chosen yet.
        (None, Some(command), Some(pid)) => format!("{command}[{pid}]"),
        (None, ..) => "-".into(),
    };
    let verdict = if row.dropped {
        format!("drop:{}", row.reason)
    } else {
        row.reason.to_owned()
    };
    [
        // Seconds since the machine started: the kernel's own clock, as in its log.
        format!("{:.3}", row.at_ns as f64 / 1e9),
        row.hook.to_owned(),
        verdict,
        row.protocol.clone(),
        source,
        row.destination.to_string(),
        or_dash(row.translated),
        row.service.clone().unwrap_or("-".into()),
    ]
}

/// Columns of fixed widths: what comes is not known when the header is written.
fn flow_line(cells: &[String; 8]) -> String {
    const WIDTHS: [usize; 8] = [12, 12, 18, 8, 24, 21, 21, 0];
    let line: Vec<String> = cells
        .iter()
        .zip(WIDTHS)
        .map(|(cell, width)| format!("{cell:<width$}"))
        .collect();
    line.join("   ").trim_end().to_owned()
}

fn trace(instance: &Instance, options: &TraceOptions) -> anyhow::Result<ExitCode> {
    let from = match options.from.as_str() {
        "node" => From::Node,
        text => From::Pod(match (text.strip_prefix("pod/"), text.parse()) {
            (Some(name), _) => pod_address(instance, name)?,
            (None, Ok(address)) => address,
            (None, Err(_)) => bail!("--from {text}: `node`, `pod/NAME`, or a pod's address"),
        }),
    };
    let protocol = match options.protocol {
        Protocol::Tcp => trace::Protocol::Tcp,
        Protocol::Udp => trace::Protocol::Udp,
    };
    let mut rows = Vec::new();
    for to in destinations(instance, options)? {
        rows.extend(
            trace::trace(&instance.id, from, to, protocol).context("cannot read the maps")?,
        );
    }
    print_rows(
        options.output.output,
        &rows,
        &["HOOK", "DESTINATION", "VERDICT", "ENTRY"],
        |row| {
            let verdict = if row.drop {
                format!("drop:{}", row.verdict)
            } else {
                row.verdict.to_owned()
            };
            vec![
                row.hook.to_owned(),
                row.destination.to_string(),
                verdict,
                row.entry.clone(),
            ]
        },
    )
}

/// The addresses that `--to` names.
fn destinations(instance: &Instance, options: &TraceOptions) -> anyhow::Result<Vec<SocketAddr>> {
    let to = &options.to;
    let shape = || {
        format!(
            "--to {to}: `svc/NAME:PORT`, `pod/NAME:PORT` or `ADDRESS:PORT`, NAME with or without its namespace"
        )
    };
    if let Ok(address) = to.parse() {
        return Ok(vec![address]);
    }
    let (name, port) = to.rsplit_once(':').with_context(shape)?;
    if let Some(name) = name.strip_prefix("pod/") {
        let port = port.parse().with_context(shape)?;
        return Ok(vec![SocketAddr::new(pod_address(instance, name)?, port)]);
    }
    let name = with_namespace(name.strip_prefix("svc/").with_context(shape)?);
    let protocol = match options.protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    };
    let rows = view::services(&instance.id).context("cannot read the services' map")?;
    let of_service = |row: &&view::ServiceRow| {
        let (of, port_name) = row.name.split_once(':').unwrap_or((&row.name, ""));
        of == name
            && row.kind == "ClusterIP"
            && row.protocol == protocol
            && (port_name == port || row.address.port().to_string() == port)
    };
    let found: Vec<SocketAddr> = rows
        .iter()
        .filter(of_service)
        .map(|row| row.address)
        .collect();
    if found.is_empty() {
        bail!(
            "the kernel's maps have no Service {name} with {protocol} port {port}; \
             `kernelet net services` lists those they have"
        );
    }
    Ok(found)
}

/// `NAMESPACE/NAME`.
fn with_namespace(name: &str) -> String {
    if name.contains('/') {
        name.to_owned()
    } else {
        format!("default/{name}")
    }
}

/// The maps know addresses, not pods' names; those are the API server's.
fn pod_address(instance: &Instance, name: &str) -> anyhow::Result<IpAddr> {
    let full = with_namespace(name);
    let (namespace, name) = full.split_once('/').unwrap_or(("default", &full));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let pod = runtime.block_on(async {
        let client = kernelet_client::from_kubeconfig(&instance.kubeconfig()).await?;
        Api::<Pod>::namespaced(client, namespace)
            .get(name)
            .await
            .with_context(|| {
                format!("cannot ask for the pod {full}; its address can be given instead")
            })
    })?;
    pod.status
        .and_then(|status| status.pod_ip)
        .and_then(|ip| ip.parse().ok())
        .with_context(|| format!("the pod {full} has no address yet"))
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
