//! One program with all targets; `KERNELET_FUZZ_TARGET` names the one that a run drives. One program, since each has
//! the same crates linked in: a dozen would be a dozen times as large.
//!
//! A target takes any bytes. It must not panic, and where it decodes it holds the codec to its word: what was decoded
//! is written and read again, and is the same.
#![no_main]

mod body;
mod bundle;
mod dbus;
mod filter;
mod image;
mod patch;
mod session;
mod shim;
mod text;

/// The server's own, which has no business being public: paths, query strings and continue tokens.
#[path = "../../../control/server/src/handler/continuation.rs"]
mod continuation;
/// `kernelet-oci`'s own.
#[path = "../../../runtime/oci/src/systemd/wire.rs"]
#[allow(dead_code)]
mod dbus_wire;
#[path = "../../../control/server/src/query.rs"]
#[allow(dead_code)]
mod query;
#[path = "../../../control/server/src/request.rs"]
#[allow(dead_code)]
mod request;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 20] = [
    ("json", body::json),
    ("yaml", body::yaml),
    ("protobuf", body::protobuf),
    ("message", body::message),
    ("patch_json", patch::json),
    ("patch_merge", patch::merge),
    ("patch_strategic", patch::strategic),
    ("patch_apply", patch::apply),
    ("selector", text::selector),
    ("quantity", text::quantity),
    ("continuation", text::continuation),
    ("request", text::request),
    ("spdy", session::spdy),
    ("session", session::session),
    ("bundle", bundle::bundle),
    ("seccomp", filter::profile),
    ("image", image::documents),
    ("layer", image::layer),
    ("shim", shim::packets),
    ("dbus", dbus::message),
];

fuzz_target!(|data: &[u8]| {
    static TARGET: OnceLock<Target> = OnceLock::new();
    let target = TARGET.get_or_init(|| {
        let wanted = std::env::var("KERNELET_FUZZ_TARGET").unwrap_or_default();
        let known = TARGETS.iter().find(|(name, _)| *name == wanted);
        let names = TARGETS.map(|(name, _)| name).join(" ");
        known
            .unwrap_or_else(|| panic!("KERNELET_FUZZ_TARGET={wanted:?} is none of: {names}"))
            .1
    });
    target(data);
});
