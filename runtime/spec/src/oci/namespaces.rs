//! `linux.namespaces`.

use oci_spec::runtime::{Linux, LinuxNamespaceType};

use super::{Result, refuse};
use crate::{NamespaceOf, Namespaces};

pub(super) fn namespaces(linux: &Linux) -> Result<Namespaces> {
    let mut of = Namespaces {
        pid: NamespaceOf::Host,
        net: NamespaceOf::Host,
        ipc: NamespaceOf::Host,
        uts: NamespaceOf::Host,
        cgroup: NamespaceOf::Host,
        user: None,
    };
    let mut mount = false;
    let mut seen = Vec::new();
    for namespace in linux.namespaces().iter().flatten() {
        let kind = namespace.typ();
        if seen.contains(&kind) {
            return refuse("linux.namespaces", format!("{kind} is there twice"));
        }
        seen.push(kind);
        let wish = match namespace.path() {
            None => NamespaceOf::New,
            Some(path) => NamespaceOf::Path(path.clone()),
        };
        match kind {
            LinuxNamespaceType::Pid => of.pid = wish,
            LinuxNamespaceType::Network => of.net = wish,
            LinuxNamespaceType::Ipc => of.ipc = wish,
            LinuxNamespaceType::Uts => of.uts = wish,
            LinuxNamespaceType::Cgroup => of.cgroup = wish,
            LinuxNamespaceType::Mount if wish == NamespaceOf::New => mount = true,
            LinuxNamespaceType::Mount => {
                return refuse(
                    "linux.namespaces",
                    "joining a mount namespace is not supported",
                );
            }
            LinuxNamespaceType::User => {
                return refuse("linux.namespaces", "user namespaces are not supported yet");
            }
            LinuxNamespaceType::Time => {
                return refuse("linux.namespaces", "time namespaces are not supported");
            }
        }
    }
    match mount {
        true => Ok(of),
        false => refuse("linux.namespaces", "a mount namespace is required"),
    }
}
