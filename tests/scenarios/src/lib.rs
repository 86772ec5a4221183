//! What every scenario needs: a machine of its own to run kernelet on, images to run in it, and a look at what
//! the machine holds before and after.
//!
//! A *machine* here is a network namespace with an uplink to a second namespace, the *outside*; kernelet, kubectl
//! and the clients run inside the first. So no scenario touches the host's own network. Tests may call `ip`,
//! `nsenter` and their like; the product may not.

mod holdings;
mod images;
mod machine;
mod traces;
mod wait;

pub use images::{
    ImageSpec, busybox_image, busybox_image_as, etcd_image, glibc_image, image_archive, musl_image,
    nginx_image,
};
pub use machine::{Machine, Output, binary};
pub use traces::Traces;
pub use wait::{eventually, try_eventually};

/// Why a scenario can't run here; it prints that loudly and passes over. `None` when it can.
pub fn cannot_run() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("it needs root".into());
    }
    for program in ["kubectl", "ip", "nsenter"] {
        let found = std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).exists()));
        if !found {
            return Some(format!("{program} is not installed"));
        }
    }
    None
}

/// Leaves the test, loudly, when this machine can't run it.
#[macro_export]
macro_rules! skip_unless_root {
    () => {
        if let Some(why) = $crate::cannot_run() {
            println!("SKIP {}: {why}", module_path!());
            return;
        }
    };
}
