//! kernelet-cni: connects containers for any runtime that speaks CNI 1.1, with the links, addresses and
//! routes that kernelet's own pods have.
//!
//! Configuration comes on standard input, the command in the environment, the answer goes to standard
//! output (CNI specification, sections 2 to 5). There is no eBPF here: Services are the agent's.

mod command;
mod config;
mod error;
mod network;
mod result;
mod state;

use std::{
    io::{Read, Write},
    process::ExitCode,
};

fn main() -> ExitCode {
    let mut input = String::new();
    if let Err(source) = std::io::stdin().read_to_string(&mut input) {
        return fail(&error::CniError::io(
            "read the configuration from standard input",
            source,
        ));
    }
    match command::run(&input, &|name| std::env::var(name).ok()) {
        Ok(answer) => print(&answer),
        Err(error) => fail(&error),
    }
}

fn print(answer: &str) -> ExitCode {
    match std::io::stdout().write_all(answer.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody is there to be told.
        Err(_) => ExitCode::FAILURE,
    }
}

fn fail(error: &error::CniError) -> ExitCode {
    print(&error.to_json());
    ExitCode::FAILURE
}
