//! `kernelet store`: the store's upkeep.

use std::process::ExitCode;

use anyhow::{Context, bail};
use kernelet_store::{Options, Store};

use crate::{
    cli::{Global, StoreCommand},
    instance::Instance,
};

pub fn run(global: &Global, command: StoreCommand) -> anyhow::Result<ExitCode> {
    let Some(instance) = Instance::find(&global.data_dir)? else {
        bail!(
            "there is no data folder {}; give the right one with --data-dir",
            global.data_dir.display()
        );
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let store =
            Store::open(Options::new(instance.store_dir())).context("cannot open the store")?;
        let code = match command {
            StoreCommand::Backup { file } => {
                store
                    .backup(&file)
                    .await
                    .context("cannot back the store up")?;
                println!(
                    "revision {} is in {}",
                    store.revision().await?,
                    file.display()
                );
                ExitCode::SUCCESS
            }
            StoreCommand::Compact => {
                let revision = store.revision().await?;
                store
                    .compact(revision)
                    .await
                    .context("cannot compact the store")?;
                println!("compacted at revision {revision}");
                ExitCode::SUCCESS
            }
            StoreCommand::Check => {
                let wrong = store.check().await.context("cannot check the store")?;
                for line in &wrong {
                    println!("{line}");
                }
                if wrong.is_empty() {
                    println!("the store is sound");
                    ExitCode::SUCCESS
                } else {
                    ExitCode::FAILURE
                }
            }
        };
        store.close().await;
        Ok(code)
    })
}
