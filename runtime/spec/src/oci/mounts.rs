//! OCI's mounts as a plan's.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, Mount};

use super::{
    FromOciError, Result,
    mount_options::{self, Options},
    refuse,
};
use crate::{IdMap, IdMapSource, IdMapping, MountExtra, MountFlags, MountPlan, MountSource};

/// What mounts are read against.
pub(super) struct Around<'a> {
    /// Sources are relative to it.
    pub bundle: &'a Path,
    /// The root's folder on the host: sources below it are the container's own places, as far as mounts
    /// before have made them, and destinations may be written with it.
    pub rootfs: &'a Path,
    /// The container's user namespace, for `idmap` without mappings.
    pub user: Option<IdMapSource>,
}

pub(super) fn mounts(mounts: &[Mount], around: &Around<'_>) -> Result<Vec<MountPlan>> {
    let convert = |(index, mount): (usize, &Mount)| {
        one(&format!("mounts[{index}]"), mount, around).map_err(|error| FromOciError {
            reason: format!(
                "{} (the mount at {})",
                error.reason,
                mount.destination().display()
            ),
            ..error
        })
    };
    mounts.iter().enumerate().map(convert).collect()
}

fn one(field: &str, mount: &Mount, around: &Around<'_>) -> Result<MountPlan> {
    let mut options = mount_options::parse(mount.options().as_deref().unwrap_or_default());
    let id_map = id_map(field, mount, &options, around)?;
    let fs_type = mount.typ().as_deref().unwrap_or_default();
    let destination = destination(mount.destination(), around.rootfs);
    let text = |path: &Path| path.to_string_lossy().contains('\0');
    if text(mount.destination())
        || mount.source().as_deref().is_some_and(text)
        || fs_type.contains('\0')
    {
        return refuse(field, "mount field contains null byte");
    }
    let source = mount.source().clone().unwrap_or_default();
    let bind = match (options.bind, fs_type) {
        (Some(recursive), _) => Some(recursive),
        (None, "bind") => Some(true),
        (None, _) => None,
    };
    if bind.is_some() && !options.data.is_empty() {
        return refuse(
            format!("{field}.options"),
            "bind mounts cannot have any filesystem-specific options applied",
        );
    }
    if bind.is_none() && id_map.is_some() {
        return refuse(field, "id-mapped mounts are only supported for bind-mounts");
    }
    let extra = MountExtra {
        id_map,
        copy_up: options.copy_up,
        source_link: options.source_link,
        destination_no_follow: options.destination_no_follow,
    };
    if extra.copy_up && (bind.is_some() || fs_type != "tmpfs") {
        return refuse(format!("{field}.options"), "tmpcopyup is for a tmpfs");
    }
    let source = match bind {
        _ if options.remount => MountSource::Remount {
            bind: bind.is_some(),
            options: std::mem::take(&mut options.data),
        },
        Some(_) if source.as_os_str().is_empty() => {
            return refuse(format!("{field}.source"), "is missing");
        }
        Some(recursive) => bound(around, &source, recursive),
        None => made(field, fs_type, &destination, source, &mut options, &extra)?,
    };
    Ok(MountPlan {
        destination,
        source,
        flags: MountFlags {
            replace: bind.is_some() && options.any_attribute,
            ..options.flags
        },
        propagation: options.propagation,
        extra,
    })
}

/// A file system that is made for the container.
fn made(
    field: &str,
    fs_type: &str,
    destination: &Path,
    source: PathBuf,
    options: &mut Options,
    extra: &MountExtra,
) -> Result<MountSource> {
    let plain = options.data.is_empty() && options.flags.file_system == Default::default();
    Ok(match fs_type {
        "proc" if plain => MountSource::Proc,
        "sysfs" if plain => MountSource::Sysfs,
        "mqueue" if plain => MountSource::Mqueue,
        "cgroup" | "cgroup2" if options.data.is_empty() => MountSource::Cgroup,
        "cgroup" | "cgroup2" => {
            return refuse(
                format!("{field}.options"),
                format!("{:?} is not an option of cgroups", options.data[0].0),
            );
        }
        // The tmpfs that every runtime's own `spec` writes is made with its nodes in it.
        "tmpfs" if destination == Path::new("/dev") && !extra.copy_up && usual_dev(options) => {
            MountSource::Dev
        }
        "" => return refuse(format!("{field}.type"), "is missing"),
        other => MountSource::Filesystem {
            fs_type: other.to_owned(),
            source: match source.to_string_lossy() {
                text if text.is_empty() => other.to_owned(),
                text => text.into_owned(),
            },
            options: std::mem::take(&mut options.data),
        },
    })
}

fn usual_dev(options: &Options) -> bool {
    options.flags.file_system == Default::default()
        && options.data.iter().all(|(key, value)| {
            matches!(
                (key.as_str(), value.as_deref()),
                ("mode", Some("755" | "0755")) | ("size", Some("65536k" | "64m"))
            )
        })
}

/// A destination may be relative in old bundles, contain `..`, or be written with the root's folder. It is
/// below the root in any case.
fn destination(text: &Path, rootfs: &Path) -> PathBuf {
    let clean = clean(text);
    match clean.strip_prefix(rootfs) {
        Ok(rest) if rootfs != Path::new("/") => Path::new("/").join(rest),
        _ => clean,
    }
}

/// The path without `.` and `..`, as text: absolute, never above `/`.
pub(super) fn clean(path: &Path) -> PathBuf {
    #[cfg(feature = "weakened")]
    if crate::weakened::is_out(crate::weakened::Defence::Plan) {
        return path.to_owned();
    }
    let mut out = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

fn bound(around: &Around<'_>, source: &Path, recursive: bool) -> MountSource {
    let path = around.bundle.join(source);
    match clean(&path).strip_prefix(around.rootfs) {
        Ok(rest) if around.rootfs != Path::new("/") => MountSource::Root {
            path: Path::new("/").join(rest),
            recursive,
        },
        _ => MountSource::Host {
            path,
            sub_path: None,
            recursive,
        },
    }
}

fn id_map(
    field: &str,
    mount: &Mount,
    options: &Options,
    around: &Around<'_>,
) -> Result<Option<IdMap>> {
    let list = |list: &Option<Vec<LinuxIdMapping>>| list.clone().unwrap_or_default();
    let (uids, gids) = (list(mount.uid_mappings()), list(mount.gid_mappings()));
    let given = mount.uid_mappings().is_some() || mount.gid_mappings().is_some();
    let recursive = options.id_map.unwrap_or(false);
    if given {
        if uids.is_empty() || gids.is_empty() {
            return refuse(
                field,
                "id-mapped mounts must have both uid and gid mappings specified",
            );
        }
        let ids = IdMapSource::Mappings {
            uids: uids.iter().map(mapping).collect(),
            gids: gids.iter().map(mapping).collect(),
        };
        return Ok(Some(IdMap { ids, recursive }));
    }
    match (options.id_map, &around.user) {
        (None, _) => Ok(None),
        (Some(recursive), Some(ids)) => Ok(Some(IdMap {
            ids: ids.clone(),
            recursive,
        })),
        (Some(_), None) => refuse(
            field,
            "id-mapped mounts must have both uid and gid mappings specified",
        ),
    }
}

pub(super) fn mapping(wish: &LinuxIdMapping) -> IdMapping {
    IdMapping {
        container_id: wish.container_id(),
        host_id: wish.host_id(),
        size: wish.size(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{Attributes, Propagation};

    fn check(mount: Value) -> std::result::Result<MountPlan, String> {
        let mount: Mount = serde_json::from_value(mount).unwrap();
        let around = Around {
            bundle: Path::new("/bundle"),
            rootfs: Path::new("/bundle/rootfs"),
            user: Some(IdMapSource::Namespace("/ns".into())),
        };
        mounts(&[mount], &around)
            .map(|mut plans| plans.remove(0))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn a_bind_replaces_flags_only_when_one_is_spoken_of() {
        let plan =
            check(json!({"destination": "d", "source": "s", "options": ["rbind", "rslave"]}));
        let plan = plan.unwrap();
        assert_eq!(plan.destination, Path::new("/d"));
        assert!(!plan.flags.replace);
        assert_eq!(plan.propagation, Propagation::HostToContainer);
        let plan = check(json!({"destination": "/d", "source": "/s", "options": ["bind", "dev"]}));
        let plan = plan.unwrap();
        assert!(plan.flags.replace);
        assert_eq!(plan.flags.cleared, Attributes::NO_DEV);
    }

    #[test]
    fn what_lies_below_the_root_is_the_containers_own() {
        let plan = check(
            json!({"destination": "/bundle/rootfs/final", "source": "rootfs/./mnt/../x", "options": ["rbind"]}),
        );
        let plan = plan.unwrap();
        assert_eq!(plan.destination, Path::new("/final"));
        let expect = MountSource::Root {
            path: "/x".into(),
            recursive: true,
        };
        assert_eq!(plan.source, expect);
    }

    #[test]
    fn the_usual_dev_is_ours_and_another_is_a_file_system() {
        let dev = |options: Value| {
            check(json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": options})).unwrap().source
        };
        assert_eq!(
            dev(json!(["nosuid", "strictatime", "mode=755", "size=65536k"])),
            MountSource::Dev
        );
        assert!(matches!(
            dev(json!(["mode=700"])),
            MountSource::Filesystem { .. }
        ));
    }

    #[test]
    fn ids_are_those_of_the_mount_or_of_the_container() {
        let mapped = json!({"destination": "/d", "source": "/s", "options": ["bind", "ridmap"],
            "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}],
            "gidMappings": [{"containerID": 0, "hostID": 2000, "size": 10}]});
        let map = check(mapped).unwrap().extra.id_map.unwrap();
        assert!(map.recursive);
        let IdMapSource::Mappings { uids, gids } = map.ids else {
            panic!()
        };
        assert_eq!((uids[0].host_id, gids[0].host_id), (1000, 2000));
        let own = check(json!({"destination": "/d", "source": "/s", "options": ["bind", "idmap"]}));
        let own = own.unwrap().extra.id_map.unwrap();
        assert_eq!(
            own,
            IdMap {
                ids: IdMapSource::Namespace("/ns".into()),
                recursive: false
            }
        );
    }

    #[test]
    fn an_option_without_a_letter_is_none() {
        let bind = check(json!({"destination": "/d", "source": "/s", "options": ["", "rbind"]}));
        assert!(bind.is_ok());
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (mount, message) in [
            (
                json!({"destination": "/d", "source": "/s", "options": ["bind", "size=1"]}),
                "filesystem-specific options",
            ),
            (
                json!({"destination": "/d", "type": "tmpfs", "options": ["idmap"]}),
                "only supported for bind-mounts",
            ),
            (
                json!({"destination": "/d", "source": "/s", "options": ["bind"], "uidMappings": []}),
                "both uid and gid mappings",
            ),
            (
                json!({"destination": "/d", "options": ["bind"]}),
                "mounts[0].source: is missing",
            ),
            (
                json!({"destination": "/d", "source": "x"}),
                "mounts[0].type: is missing",
            ),
            (
                json!({"destination": "/d", "type": "proc", "options": ["tmpcopyup"]}),
                "tmpcopyup is for a tmpfs",
            ),
            (
                json!({"destination": "/d\u{0}", "type": "tmpfs"}),
                "null byte",
            ),
        ] {
            let error = check(mount).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }
}
