//! `kernelet image pull`: bars on a terminal, lines elsewhere, events with `-o json`.

use std::{
    collections::HashMap,
    io::{IsTerminal, Write as _},
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context;
use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use kernelet_image::{
    Credential, Digest, ImageStore, Keyring, Platform, Progress, PullEvent, PullOptions, Puller,
    Reference,
};
use serde_json::json;

use crate::{
    cli::{Output, OutputOptions},
    instance::Instance,
    registry_options::RegistryArgs,
};

#[derive(Args, Clone, Debug)]
pub struct PullArgs {
    /// What to pull: `nginx`, `registry.example:5000/app:v1`, `app@sha256:…`
    pub image: String,
    /// Who to be at the registry, instead of what the credentials' files say
    #[arg(
        long,
        value_name = "USER:PASSWORD",
        env = "KERNELET_IMAGE_CREDS",
        hide_env_values = true
    )]
    pub creds: Option<String>,
    /// For whom [default: this machine]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<Platform>,
    /// false: speak to the registry without verifying it, and over plain HTTP if it has no TLS
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub tls_verify: bool,
    /// The authority (PEM) of the registry's certificate, beside the machine's
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    #[command(flatten)]
    pub registries: RegistryArgs,
    #[command(flatten)]
    pub output: OutputOptions,
}

pub fn run(instance: &Instance, store: &ImageStore, args: &PullArgs) -> anyhow::Result<ExitCode> {
    let reference: Reference = args.image.parse()?;
    let mut registries = args.registries.registries()?;
    if let Some(file) = &args.ca {
        registries.trust(file)?;
    }
    if !args.tls_verify {
        registries.no_verify(reference.registry());
    }
    let keyring = match &args.creds {
        Some(creds) => {
            let credential: Credential = creds
                .parse()
                .map_err(|reason| anyhow::anyhow!("--creds: {reason}"))?;
            Keyring::single(credential)
        }
        None => args.registries.keyring(instance)?,
    };
    let (progress, end) = show(args.output.output);
    let options = PullOptions {
        keyring,
        platform: args.platform.clone().unwrap_or_else(Platform::here),
        progress,
        ..PullOptions::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let pulled =
        runtime.block_on(Puller::new(store.clone(), registries).pull(&reference, &options));
    end();
    let pulled = pulled?;
    match args.output.output {
        Output::Json => println!(
            "{}",
            json!({
                "event": "pulled",
                "reference": reference.to_string(),
                "id": pulled.image.id.to_string(),
                "digest": pulled.digest.to_string(),
                "size": pulled.image.size,
                "downloaded": pulled.downloaded,
            })
        ),
        Output::Text => println!("Pulled {reference} ({})", pulled.digest),
    }
    Ok(ExitCode::SUCCESS)
}

/// Who shows the events, and what to do when there are no more.
fn show(output: Output) -> (Progress, Box<dyn FnOnce()>) {
    if output == Output::Json {
        let print = |event: &PullEvent| {
            let line = serde_json::to_string(event).expect("an event is plain data");
            // Whoever reads may go away; the pull goes on.
            let _ = writeln!(std::io::stdout().lock(), "{line}");
        };
        return (Arc::new(print), Box::new(|| {}));
    }
    if !std::io::stderr().is_terminal() {
        return (Arc::new(lines), Box::new(|| {}));
    }
    let bars = Arc::new(Bars {
        all: MultiProgress::new(),
        layers: Mutex::default(),
    });
    let told = bars.clone();
    (
        Arc::new(move |event| told.tell(event)),
        Box::new(move || {
            let _ = bars.all.clear();
        }),
    )
}

/// A line for what begins and ends.
fn lines(event: &PullEvent) {
    match event {
        PullEvent::Resolving { reference } => eprintln!("Resolving {reference}"),
        PullEvent::Resolved {
            digest,
            size,
            layers,
        } => {
            eprintln!("Resolved {digest}: {layers} layers, {size} bytes");
        }
        PullEvent::Present { digest } => eprintln!("{} is here", short(digest)),
        PullEvent::Downloading { digest, bytes, of } if bytes == of => {
            eprintln!("{} downloaded, {of} bytes", short(digest));
        }
        PullEvent::Downloading { .. } => {}
        PullEvent::Unpacked { digest } => eprintln!("{} unpacked", short(digest)),
        PullEvent::Retry { reason, pause } => {
            eprintln!("{reason}; once more in {:.1} s", pause.as_secs_f64());
        }
    }
}

fn short(digest: &Digest) -> String {
    digest.hex()[..12].to_owned()
}

struct Bars {
    all: MultiProgress,
    layers: Mutex<HashMap<Digest, ProgressBar>>,
}

impl Bars {
    fn bar(&self, digest: &Digest) -> ProgressBar {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        layers
            .entry(*digest)
            .or_insert_with(|| {
                let bar = self.all.add(ProgressBar::new(0));
                let style = "{prefix} [{bar:30}] {bytes}/{total_bytes} {msg}";
                bar.set_style(ProgressStyle::with_template(style).expect("the template is right"));
                bar.set_prefix(short(digest));
                bar
            })
            .clone()
    }

    fn tell(&self, event: &PullEvent) {
        match event {
            PullEvent::Downloading { digest, bytes, of } => {
                let bar = self.bar(digest);
                bar.set_length(*of);
                bar.set_position(*bytes);
            }
            PullEvent::Present { digest } => self.bar(digest).finish_with_message("is here"),
            PullEvent::Unpacked { digest } => self.bar(digest).finish_with_message("unpacked"),
            other => self.all.suspend(|| lines(other)),
        }
    }
}
