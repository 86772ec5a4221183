//! `kernelet up` → node Ready: the first time, later, and after a kill with a store of 1 GiB.

use std::time::{Duration, Instant};

use anyhow::Context;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kernelet_scenarios::Machine;
use kube::{Api, api::PostParams};

use crate::{report::Report, stats};

pub fn run(report: &mut Report) -> anyhow::Result<()> {
    let machine = Machine::new();
    let up = || {
        let began = Instant::now();
        machine.up();
        began.elapsed()
    };
    report.row(
        "`up` → node Ready, first start ever",
        stats::ms(up()),
        "≤ 1.5 s",
    );
    machine.kernelet(&["down"]).ok();
    report.row("`up` → node Ready, later start", stats::ms(up()), "≤ 1 s");

    let kubeconfig = machine.kubeconfig();
    stats::inside_async(&machine.node_ns(), || async move {
        let secrets: Api<Secret> =
            Api::default_namespaced(kernelet_client::from_kubeconfig(&kubeconfig).await?);
        let mut value = vec![0_u8; 700 * 1024];
        let mut state = 0x9e37_79b9_u32;
        for byte in &mut value {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
        for index in 0..1150 {
            let secret = Secret {
                metadata: kube::core::ObjectMeta {
                    name: Some(format!("big-{index}")),
                    ..Default::default()
                },
                data: Some([("value".to_owned(), ByteString(value.clone()))].into()),
                ..Default::default()
            };
            secrets
                .create(&PostParams::default(), &secret)
                .await
                .context("fill the store")?;
        }
        Ok(())
    })?;
    let pid = machine.status()["pid"]
        .as_i64()
        .context("the program's pid")?;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(pid)?),
        nix::sys::signal::Signal::SIGKILL,
    )?;
    let size: u64 = std::fs::read_dir(machine.data_dir().join("store"))?
        .flatten()
        .filter_map(|e| e.metadata().ok())
        .map(|m| m.len())
        .sum();
    let took = up();
    report.row(
        &format!(
            "`up` → node Ready after kill -9 with a store of {} MiB",
            size >> 20
        ),
        stats::ms(took),
        &format!("≤ {}", stats::ms(Duration::from_secs(2))),
    );
    Ok(())
}
