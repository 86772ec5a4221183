//! `kernelet store`: the store's upkeep, on the store of the last start.

use std::{path::Path, process::ExitCode};

use anyhow::{Context, bail};
use kernelet_store::{OpenError, Options, Store};

use crate::{
    cli::{Global, StoreCommand},
    instance::{Instance, StoreUrl},
    preflight,
};

pub fn run(global: &Global, command: StoreCommand) -> anyhow::Result<ExitCode> {
    preflight::root("reads and writes the cluster's store")?;
    match command {
        StoreCommand::Restore { file } => restore(global, &file),
        StoreCommand::Backup { file } => on_store(global, async |store| backup(store, &file).await),
        StoreCommand::Compact => on_store(global, compact),
        StoreCommand::Check => on_store(global, check),
    }
}

/// Opens the store of the last start, does that, and closes it whatever came of it.
fn on_store(
    global: &Global,
    work: impl AsyncFnOnce(&Store) -> anyhow::Result<ExitCode>,
) -> anyhow::Result<ExitCode> {
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
        let store = open(&instance).await?;
        let outcome = work(&store).await;
        store.close().await;
        outcome
    })
}

async fn backup(store: &Store, file: &Path) -> anyhow::Result<ExitCode> {
    store
        .backup(file)
        .await
        .context("cannot back the store up")?;
    let revision = store.revision().await?;
    println!("revision {revision} is in {}", file.display());
    Ok(ExitCode::SUCCESS)
}

async fn compact(store: &Store) -> anyhow::Result<ExitCode> {
    let revision = store.revision().await?;
    store
        .compact(revision)
        .await
        .context("cannot compact the store")?;
    println!("compacted at revision {revision}");
    Ok(ExitCode::SUCCESS)
}

async fn check(store: &Store) -> anyhow::Result<ExitCode> {
    let wrong = store.check().await.context("cannot check the store")?;
    for line in &wrong {
        println!("{line}");
    }
    if !wrong.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    println!("the store is sound");
    Ok(ExitCode::SUCCESS)
}

fn restore(global: &Global, file: &Path) -> anyhow::Result<ExitCode> {
    let instance = Instance::create(&global.data_dir)?;
    let _lock = instance.lock()?;
    instance.check_store(&StoreUrl::Embedded)?;
    Store::restore(file, &instance.store_dir())
        .with_context(|| format!("cannot restore {}", file.display()))?;
    instance.remember_store(&StoreUrl::Embedded)?;
    println!("{} is restored", instance.store_dir().display());
    Ok(ExitCode::SUCCESS)
}

/// The store of the last start. A folder without one is not made into one.
async fn open(instance: &Instance) -> anyhow::Result<Store> {
    let dir = instance.store_dir();
    match instance.remembered_store() {
        Some(StoreUrl::Etcd(url)) => Ok(Store::connect(&url).await?),
        _ if !dir.exists() => bail!("there is no store in {}", dir.display()),
        _ => Store::open(Options::new(&dir)).map_err(|error| match error {
            OpenError::Locked { .. } => anyhow::Error::new(error)
                .context("the store is in use; `kernelet down` first, pods run on meanwhile"),
            error => anyhow::Error::new(error).context("cannot open the store"),
        }),
    }
}
