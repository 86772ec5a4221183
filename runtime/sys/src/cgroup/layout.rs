//! Which hierarchies this host has, read from `/proc/self/mountinfo`.

use std::path::{Path, PathBuf};

use super::Group;

/// How the host's controllers are distributed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Only v1 hierarchies.
    V1,
    /// v1 hierarchies with the controllers, and a v2 tree beside them.
    Hybrid,
    /// One v2 tree.
    V2,
}

/// One v1 hierarchy: `cpu,cpuacct` is one with two controllers, `name=systemd` one with none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    pub mount: PathBuf,
    pub controllers: Vec<String>,
    /// Of a named hierarchy.
    pub name: Option<String>,
}

/// What the host has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Where the v2 tree is mounted.
    pub v2: Option<PathBuf>,
    /// The v2 root's controllers.
    pub v2_controllers: Vec<String>,
    pub v1: Vec<Hierarchy>,
}

#[derive(Debug, thiserror::Error)]
pub enum DetectError {
    #[error("read the cgroup mounts")]
    Read(#[source] crate::SysError),
    #[error(
        "no cgroup hierarchy is mounted here. If this shell came from `ip netns exec`, which hides /sys, use \
         `nsenter --net=/run/netns/NAME` instead"
    )]
    None,
}

/// Of two mounts of one hierarchy the one at the usual place counts: the other may be in a root that is being built.
fn usual(new: &Path, old: &Path) -> bool {
    let usual = Path::new("/sys/fs/cgroup");
    new.starts_with(usual) && !old.starts_with(usual)
}

impl Layout {
    /// Looks at this process's mounts. Kept by the caller: a host doesn't change it while it runs.
    pub fn detect() -> Result<Layout, DetectError> {
        let text = super::read(Path::new("/proc/self/mountinfo")).map_err(DetectError::Read)?;
        let mut layout = Self::parse(&text);
        if layout.v1.is_empty() && layout.v2.is_none() {
            return Err(DetectError::None);
        }
        if let Some(mount) = &layout.v2 {
            let text = super::read(&mount.join("cgroup.controllers")).map_err(DetectError::Read)?;
            layout.v2_controllers = text.split_whitespace().map(str::to_owned).collect();
        }
        Ok(layout)
    }

    fn parse(mountinfo: &str) -> Layout {
        let mut layout = Layout {
            v2: None,
            v2_controllers: Vec::new(),
            v1: Vec::new(),
        };
        for line in mountinfo.lines() {
            // 32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime [optional]* - cgroup cgroup rw,cpu
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let left: Vec<&str> = left.split(' ').collect();
            let right: Vec<&str> = right.split(' ').collect();
            let (Some(root), Some(mount)) = (left.get(3), left.get(4)) else {
                continue;
            };
            // A bind of a part of a hierarchy is a container's view, not the hierarchy.
            if *root != "/" {
                continue;
            }
            let mount = PathBuf::from(unescape(mount));
            match right.first() {
                Some(&"cgroup2") if layout.v2.as_ref().is_none_or(|old| usual(&mount, old)) => {
                    layout.v2 = Some(mount);
                }
                Some(&"cgroup") => {
                    let options = right.get(2).copied().unwrap_or_default();
                    let hierarchy = Hierarchy::parse(mount, options);
                    let known = |h: &&mut Hierarchy| {
                        h.controllers == hierarchy.controllers && h.name == hierarchy.name
                    };
                    match layout.v1.iter_mut().find(known) {
                        Some(old) if usual(&hierarchy.mount, &old.mount) => *old = hierarchy,
                        Some(_) => {}
                        None => layout.v1.push(hierarchy),
                    }
                }
                _ => {}
            }
        }
        layout
    }

    pub fn mode(&self) -> Mode {
        match (&self.v2, self.v1.iter().any(|h| !h.controllers.is_empty())) {
            (Some(_), false) => Mode::V2,
            (Some(_), true) => Mode::Hybrid,
            (None, _) => Mode::V1,
        }
    }

    /// The v1 hierarchy that has this controller.
    pub fn v1_of(&self, controller: &str) -> Option<&Hierarchy> {
        self.v1
            .iter()
            .find(|h| h.controllers.iter().any(|c| c == controller))
    }

    /// Whether the controller is there at all, in either version.
    pub fn has(&self, controller: &str) -> bool {
        self.v1_of(controller).is_some() || self.v2_controllers.iter().any(|c| c == controller)
    }

    /// A path of this layout. Nothing is made yet.
    pub fn group(&self, path: &str) -> Group<'_> {
        Group::new(self, path)
    }
}

impl Hierarchy {
    fn parse(mount: PathBuf, options: &str) -> Hierarchy {
        const FLAGS: [&str; 7] = [
            "rw",
            "ro",
            "xattr",
            "noprefix",
            "clone_children",
            "cpuset_v2_mode",
            "favordynmods",
        ];
        let mut controllers = Vec::new();
        let mut name = None;
        for option in options.split(',') {
            if let Some(value) = option.strip_prefix("name=") {
                name = Some(value.to_owned());
            } else if !FLAGS.contains(&option) && !option.contains('=') {
                controllers.push(option.to_owned());
            }
        }
        Hierarchy {
            mount,
            controllers,
            name,
        }
    }
}

/// mountinfo writes space, tab, newline and backslash as octal.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest
            .get(at + 1..at + 4)
            .and_then(|o| u8::from_str_radix(o, 8).ok());
        match code {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_layouts_are_told_apart() {
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let v1 = "33 32 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                  34 32 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";
        let unified = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(Layout::parse(v2).mode(), Mode::V2);
        assert_eq!(Layout::parse(v1).mode(), Mode::V1);
        let hybrid = Layout::parse(&format!("{v1}{unified}"));
        assert_eq!(hybrid.mode(), Mode::Hybrid);
        assert_eq!(hybrid.v1[0].controllers, ["cpu", "cpuacct"]);
        assert_eq!(hybrid.v1[1].name.as_deref(), Some("systemd"));
        assert!(hybrid.v1_of("cpuacct").is_some());
    }

    #[test]
    fn a_containers_view_of_a_hierarchy_is_passed_over() {
        let text = "33 32 0:29 /docker/abc /x/cpu rw - cgroup cgroup rw,cpu\n";
        assert!(Layout::parse(text).v1.is_empty());
    }

    #[test]
    fn the_usual_mount_of_a_hierarchy_counts() {
        let text = "\
40 1 0:30 / /root/sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
41 1 0:31 / /root/sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
42 1 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
43 1 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
44 1 0:31 / /other/cpu rw - cgroup cgroup rw,cpu
";
        let layout = Layout::parse(text);
        assert_eq!(layout.v2, Some("/sys/fs/cgroup/unified".into()));
        let mounts: Vec<&Path> = layout.v1.iter().map(|h| h.mount.as_path()).collect();
        assert_eq!(mounts, [Path::new("/sys/fs/cgroup/cpu")]);
    }

    #[test]
    fn mount_points_with_spaces_are_read() {
        assert_eq!(unescape(r"/a\040b\134c\q"), r"/a b\c\q");
    }
}
