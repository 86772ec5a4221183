//! OCI's mounts: option strings as flags, propagation and data.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;

use super::{Result, refuse};
use crate::{MountFlags, MountPlan, MountSource, Propagation};

pub(super) fn mounts(mounts: &[Mount], bundle: &Path) -> Result<Vec<MountPlan>> {
    let convert = |(index, mount): (usize, &Mount)| one(&format!("mounts[{index}]"), mount, bundle);
    mounts.iter().enumerate().map(convert).collect()
}

#[derive(Default)]
struct Options {
    flags: MountFlags,
    propagation: Propagation,
    bind: Option<bool>,
    data: Vec<(String, Option<String>)>,
}

fn one(field: &str, mount: &Mount, bundle: &Path) -> Result<MountPlan> {
    let has_mappings = mount.uid_mappings().is_some() || mount.gid_mappings().is_some();
    if has_mappings {
        return refuse(field, "idmapped mounts are not supported");
    }
    let options = parse(field, mount.options().as_deref().unwrap_or_default())?;
    let fs_type = mount.typ().as_deref().unwrap_or_default();
    // A destination may be relative in old bundles; it is below the root in any case.
    let destination = Path::new("/").join(mount.destination());
    let source = mount.source().clone().unwrap_or_default();
    let plain = options.data.is_empty();
    let source = match (fs_type, options.bind) {
        (_, Some(recursive)) => host(bundle, source, recursive),
        ("bind", None) => host(bundle, source, true),
        ("proc", None) if plain => MountSource::Proc,
        ("sysfs", None) if plain => MountSource::Sysfs,
        ("mqueue", None) if plain => MountSource::Mqueue,
        ("cgroup" | "cgroup2", None) => MountSource::Cgroup,
        ("tmpfs", None) if destination == Path::new("/dev") => MountSource::Dev,
        ("", None) => return refuse(format!("{field}.type"), "is missing"),
        (other, None) => MountSource::Filesystem {
            fs_type: other.to_owned(),
            source: match source.to_string_lossy() {
                text if text.is_empty() => other.to_owned(),
                text => text.into_owned(),
            },
            options: options.data,
        },
    };
    Ok(MountPlan {
        destination,
        source,
        flags: options.flags,
        propagation: options.propagation,
    })
}

fn host(bundle: &Path, source: PathBuf, recursive: bool) -> MountSource {
    MountSource::Host {
        path: bundle.join(source),
        sub_path: None,
        recursive,
    }
}

fn parse(field: &str, texts: &[String]) -> Result<Options> {
    let mut options = Options::default();
    let flags = &mut options.flags;
    for text in texts {
        match text.as_str() {
            "ro" => flags.read_only = true,
            "rw" => flags.read_only = false,
            "rro" => flags.recursive_read_only = true,
            "nosuid" => flags.no_suid = true,
            "suid" => flags.no_suid = false,
            "nodev" => flags.no_dev = true,
            "dev" => flags.no_dev = false,
            "noexec" => flags.no_exec = true,
            "exec" => flags.no_exec = false,
            "noatime" => flags.no_atime = true,
            "atime" => flags.no_atime = false,
            "relatime" => flags.rel_atime = true,
            "norelatime" => flags.rel_atime = false,
            "strictatime" => flags.strict_atime = true,
            "nostrictatime" => flags.strict_atime = false,
            "nodiratime" => flags.no_dir_atime = true,
            "diratime" => flags.no_dir_atime = false,
            "nosymfollow" => flags.no_sym_follow = true,
            "symfollow" => flags.no_sym_follow = false,
            "bind" => options.bind = Some(options.bind.unwrap_or(false)),
            "rbind" => options.bind = Some(true),
            "private" | "rprivate" | "unbindable" | "runbindable" => {
                options.propagation = Propagation::Private
            }
            "slave" | "rslave" => options.propagation = Propagation::HostToContainer,
            "shared" | "rshared" => options.propagation = Propagation::Bidirectional,
            "defaults" | "async" | "nomand" | "nolazytime" => {}
            "tmpcopyup" | "idmap" | "ridmap" | "sync" | "dirsync" | "mand" | "lazytime"
            | "remount" | "copy-symlink" | "rnosuid" | "rsuid" | "rnodev" | "rdev" | "rnoexec"
            | "rexec" | "rnoatime" | "ratime" | "rrw" | "rrelatime" | "rnorelatime"
            | "rstrictatime" | "rnostrictatime" | "rnosymfollow" | "rsymfollow" => {
                return refuse(
                    format!("{field}.options"),
                    format!("{text:?} is not supported"),
                );
            }
            other => options.data.push(match other.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (other.to_owned(), None),
            }),
        }
    }
    Ok(options)
}
