//! `kernelet image`: the node's image store.

use std::process::ExitCode;

use anyhow::bail;

use crate::{
    cli::{Global, ImageCommand},
    instance::Instance,
};

pub fn run(global: &Global, command: ImageCommand) -> anyhow::Result<ExitCode> {
    let _ = (Instance::find(&global.data_dir)?, command);
    bail!("the image store is not wired yet")
}
