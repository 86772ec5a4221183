//! Builds shim, pod init and hello as static programs, always optimised for size, whatever the profile
//! of the build around it: they are what runs once per pod.
//!
//! A cargo of its own with a target folder of its own below `OUT_DIR`, so that it never waits for the
//! lock of the cargo that runs this script. It uses the workspace's lock file and downloads nothing
//! that isn't there when the outer cargo is offline.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// Package, program.
const PROGRAMS: [(&str, &str); 3] = [
    ("kernelet-shim", "kernelet-shim"),
    ("kernelet-shim", "kernelet-init"),
    ("kernelet-hello", "kernelet-hello"),
];

/// What the programs are made of, relative to the workspace's root.
const SOURCES: [&str; 6] = [
    "runtime/spec",
    "runtime/sys",
    "runtime/container",
    "runtime/shim",
    "examples/hello/server",
    "rust-toolchain.toml",
];

fn main() {
    let here = PathBuf::from(var("CARGO_MANIFEST_DIR"));
    let root = here
        .ancestors()
        .nth(2)
        .expect("this crate lies two folders below the root");
    println!("cargo:rerun-if-changed=build.rs");
    println!(
        "cargo:rerun-if-changed={}",
        root.join("Cargo.lock").display()
    );
    for source in SOURCES {
        watch(&root.join(source));
    }

    let out = PathBuf::from(var("OUT_DIR"));
    let target = var("TARGET");
    let folder = out.join("programs");
    let mut cargo = Command::new(var("CARGO"));
    clean_environment(&mut cargo);
    cargo
        .current_dir(root)
        .args([
            "build",
            "--locked",
            "--release",
            "--target",
            &target,
            "--target-dir",
        ])
        .arg(&folder)
        .args(["--config", "profile.release.opt-level='s'"])
        .args(["--config", "profile.release.lto='fat'"])
        .args(["--config", "profile.release.codegen-units=1"])
        .args(["--config", "profile.release.panic='abort'"])
        .args(["--config", "profile.release.strip='symbols'"])
        .args(["--config", "profile.release.debug=false"])
        // Static and at a fixed address: no dynamic loader, and no relocations, whose pages every
        // process would have a private copy of.
        .env(
            "RUSTFLAGS",
            "-C target-feature=+crt-static -C relocation-model=static",
        );
    for (package, program) in PROGRAMS {
        cargo.args(["--package", package, "--bin", program]);
    }
    let status = cargo
        .status()
        .expect("cargo runs, since it runs this script");
    assert!(
        status.success(),
        "building the static programs failed: {status}"
    );
    for (_, program) in PROGRAMS {
        let built = folder.join(&target).join("release").join(program);
        let bytes =
            std::fs::read(&built).unwrap_or_else(|e| panic!("read {}: {e}", built.display()));
        let packed = zstd::encode_all(&*bytes, 19).expect("memory takes it");
        let placed = out.join(format!("{program}.zst"));
        std::fs::write(&placed, packed)
            .unwrap_or_else(|e| panic!("write {}: {e}", placed.display()));
    }
}

fn var(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}

/// Sources only: a folder would also be watched for what tests leave in it.
fn watch(path: &Path) {
    let Ok(entries) = std::fs::read_dir(path) else {
        return println!("cargo:rerun-if-changed={}", path.display());
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name != "tests" && name != "target" && name != "benches" {
            watch(&entry.path());
        }
    }
}

/// The outer build's choices (flags, wrappers like clippy's, profile overrides, target folder) are not
/// the programs'. Where packages come from is.
fn clean_environment(cargo: &mut Command) {
    const KEPT: [&str; 6] = [
        "CARGO_HOME",
        "CARGO_NET_",
        "CARGO_HTTP_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "CARGO_MAKEFLAGS",
    ];
    for (name, _) in env::vars_os() {
        let Some(name) = name.to_str() else {
            continue;
        };
        let own = name.starts_with("CARGO_") && !KEPT.iter().any(|kept| name.starts_with(kept));
        let flags = matches!(
            name,
            "RUSTFLAGS"
                | "RUSTC"
                | "RUSTC_WRAPPER"
                | "RUSTC_WORKSPACE_WRAPPER"
                | "RUSTDOC"
                | "RUSTC_LINKER"
        );
        if own || flags || name.starts_with("CLIPPY_") {
            cargo.env_remove(name);
        }
    }
    // Rustup's `RUSTUP_TOOLCHAIN` stays: the same compiler.
}
