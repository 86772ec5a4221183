//! `./bench.sh`: the budgets of the design, measured. Each figure stands beside its budget or its peer's figure of
//! the same run; nothing here asserts.

mod connect;
mod control;
mod idle;
mod pods;
mod report;
mod scheduler;
mod start;
mod stats;
mod store;

use std::process::ExitCode;

use report::Report;

/// The client shares the machine with what it measures: it should cost as little as it can.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures and reports.
type Part = fn(&mut Report) -> anyhow::Result<()>;

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if wanted.first().is_some_and(|first| first == "store-server") {
        return store::serve(&wanted[1..]);
    }
    let all: [(&str, Part); 7] = [
        ("start", start::run),
        ("pods", pods::run),
        ("idle", idle::run),
        ("store", store::run),
        ("control", control::run),
        ("scheduler", scheduler::run),
        ("connect", connect::run),
    ];
    let mut report = Report::default();
    let mut failed = false;
    for (name, run) in all {
        if wanted.is_empty() || wanted.iter().any(|want| want == name) {
            eprintln!("bench: {name}");
            if let Err(error) = run(&mut report) {
                eprintln!("bench: {name} could not be measured: {error:#}");
                failed = true;
            }
        }
    }
    print!("{report}");
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
