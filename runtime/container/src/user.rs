//! Names to ids by the root's own `/etc/passwd` and `/etc/group`; the command by its own PATH.

use std::{
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

use kernelet_spec::{NameOrId, UserPlan};
use kernelet_sys::root;
use nix::errno::Errno;

use crate::{CreateError, ErrorKind};

/// Who the process will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: String,
}

const LIMIT: u64 = 4 << 20;

/// Resolves a user against the root behind `root`. The files are the image's: odd lines are passed
/// over, and what isn't a regular file of sane size isn't read.
pub(crate) fn resolve(root: BorrowedFd<'_>, plan: &UserPlan) -> Result<User, CreateError> {
    let read = |path: &str| -> Result<String, CreateError> {
        let content = root::read_small(root, Path::new(path), LIMIT)?;
        Ok(String::from_utf8_lossy(&content.unwrap_or_default()).into_owned())
    };
    #[cfg(feature = "weakened")]
    crate::weakened::look_up_by_libc(plan);
    // Only a name can't do without the files.
    let by_name = matches!(plan.user, NameOrId::Name(_));
    let passwd = match read("/etc/passwd") {
        Err(e) if by_name => return Err(e),
        other => other.unwrap_or_default(),
    };
    let need_group = matches!(plan.group, Some(NameOrId::Name(_))) || plan.groups_of_image;
    let group = match need_group {
        true => read("/etc/group")?,
        false => String::new(),
    };
    resolve_in(&passwd, &group, plan)
}

fn resolve_in(passwd: &str, group: &str, plan: &UserPlan) -> Result<User, CreateError> {
    // name:password:uid:gid:comment:home:shell
    let mut entries = passwd.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields[..] else {
            return None;
        };
        Some((name, parse_id(uid)?, parse_id(gid)?, home))
    });
    let entry = match &plan.user {
        NameOrId::Id(id) => entries.find(|(_, uid, _, _)| uid == id),
        NameOrId::Name(name) => entries.find(|(known, _, _, _)| known == name),
    };
    let uid = match (&plan.user, &entry) {
        (NameOrId::Id(id), _) => *id,
        (NameOrId::Name(_), Some((_, uid, _, _))) => *uid,
        (NameOrId::Name(name), None) => {
            let what = format!("unable to find user {name}: no matching entries in passwd file");
            return Err(CreateError::new(ErrorKind::Invalid, what));
        }
    };
    // name:password:gid:members
    let groups_of = || {
        group.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, gid, members, ..] = fields[..] else {
                return None;
            };
            Some((name, parse_id(gid)?, members))
        })
    };
    let gid = match &plan.group {
        None => entry.map_or(0, |(_, _, gid, _)| gid),
        Some(NameOrId::Id(id)) => *id,
        Some(NameOrId::Name(name)) => match groups_of().find(|(known, _, _)| known == name) {
            Some((_, gid, _)) => gid,
            None => {
                let what =
                    format!("unable to find group {name}: no matching entries in group file");
                return Err(CreateError::new(ErrorKind::Invalid, what));
            }
        },
    };
    let mut groups = plan.additional_gids.clone();
    if plan.groups_of_image
        && let Some((name, ..)) = entry
    {
        let of_image =
            groups_of().filter(|(_, _, members)| members.split(',').any(|m| m.trim() == name));
        groups.extend(of_image.map(|(_, gid, _)| gid));
    }
    let mut seen = std::collections::BTreeSet::new();
    groups.retain(|gid| seen.insert(*gid));
    let home = entry
        .map(|(_, _, _, home)| home)
        .filter(|home| !home.is_empty())
        .unwrap_or("/");
    Ok(User {
        uid,
        gid,
        groups,
        home: home.to_owned(),
    })
}

/// Ids are 31 bits; a larger one is no id, and never wraps to root.
fn parse_id(text: &str) -> Option<u32> {
    text.parse::<i32>()
        .ok()
        .and_then(|id| u32::try_from(id).ok())
}

/// The program's environment: of a name given twice the last one counts, and HOME is the user's unless it is said.
pub(crate) fn environment(wish: &[String], home: &str) -> Vec<String> {
    let name = |var: &str| {
        var.split_once('=')
            .map_or(var.len(), |(name, _)| name.len())
    };
    let mut env: Vec<String> = Vec::with_capacity(wish.len() + 1);
    for (i, var) in wish.iter().enumerate() {
        let n = name(var);
        let again = wish[i + 1..]
            .iter()
            .any(|later| name(later) == n && later[..n] == var[..n]);
        if !again && var != "HOME=" {
            env.push(var.clone());
        }
    }
    if !env.iter().any(|var| var.starts_with("HOME=")) {
        env.push(format!("HOME={home}"));
    }
    env
}

/// Finds the command as the process itself would: by its PATH, its rights, its root.
pub(crate) fn find_command(name: &str, env: &[String]) -> Result<PathBuf, CreateError> {
    let refuse =
        |reason: &str| CreateError::new(ErrorKind::Command, format!("exec: {name:?}: {reason}"));
    if name.contains('/') {
        return match check_executable(Path::new(name)) {
            Ok(()) => Ok(PathBuf::from(name)),
            Err(Errno::ENOENT) => Err(refuse(&format!("stat {name}: no such file or directory"))),
            Err(Errno::EISDIR) => Err(refuse("is a directory")),
            Err(Errno::EACCES) => Err(refuse("permission denied")),
            Err(e) => Err(refuse(e.desc())),
        };
    }
    const DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let path = env
        .iter()
        .rev()
        .find_map(|var| var.strip_prefix("PATH="))
        .unwrap_or(DEFAULT);
    let mut denied = false;
    for dir in path.split(':') {
        // An empty entry would mean the working directory, which surprises everybody.
        if dir.is_empty() {
            continue;
        }
        let candidate = Path::new(dir).join(name);
        match check_executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Errno::EACCES) => denied = true,
            Err(_) => {}
        }
    }
    Err(refuse(if denied {
        "permission denied"
    } else {
        "executable file not found in $PATH"
    }))
}

fn check_executable(path: &Path) -> Result<(), Errno> {
    let stat = nix::sys::stat::stat(path)?;
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG => {}
        libc::S_IFDIR => return Err(Errno::EISDIR),
        _ => return Err(Errno::EACCES),
    }
    let flags = nix::fcntl::AtFlags::AT_EACCESS;
    nix::unistd::faccessat(
        nix::fcntl::AT_FDCWD,
        path,
        nix::unistd::AccessFlags::X_OK,
        flags,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:101:102::/srv:/bin/false\n\
                          big:x:4294967296:0::/:/\nwrap:x:2147483648:0::/:/\n";
    const GROUP: &str = "root:x:0:\nweb:x:102:\nlogs:x:7:web,other\n";

    fn plan(user: NameOrId, group: Option<NameOrId>) -> UserPlan {
        UserPlan {
            user,
            group,
            groups_of_image: true,
            ..UserPlan::default()
        }
    }

    #[test]
    fn the_last_of_a_name_counts_and_an_empty_home_is_none() {
        let env = |wish: &[&str]| {
            let wish: Vec<String> = wish.iter().map(|var| (*var).to_owned()).collect();
            environment(&wish, "/root").join(" ")
        };
        assert_eq!(env(&["A=1", "B=2", "A=3"]), "B=2 A=3 HOME=/root");
        assert_eq!(env(&["HOME="]), "HOME=/root");
        assert_eq!(env(&["HOME=/x", "HOMER=1"]), "HOME=/x HOMER=1");
    }

    #[test]
    fn names_are_resolved_by_the_images_files() {
        let user = resolve_in(PASSWD, GROUP, &plan(NameOrId::Name("web".into()), None)).unwrap();
        assert_eq!(
            (user.uid, user.gid, user.groups, user.home.as_str()),
            (101, 102, vec![7], "/srv")
        );
        let user = resolve_in(PASSWD, GROUP, &plan(NameOrId::Id(5), None)).unwrap();
        assert_eq!((user.uid, user.gid, user.home.as_str()), (5, 0, "/"));
        let group = Some(NameOrId::Name("logs".into()));
        assert_eq!(
            resolve_in(PASSWD, GROUP, &plan(NameOrId::Id(0), group))
                .unwrap()
                .gid,
            7
        );
    }

    #[test]
    fn an_id_beyond_31_bits_never_becomes_root() {
        for name in ["big", "wrap", "nobody-here"] {
            let error =
                resolve_in(PASSWD, GROUP, &plan(NameOrId::Name(name.into()), None)).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid);
        }
        assert!(NameOrId::parse("4294967296").is_err());
        assert!(NameOrId::parse("2147483648").is_err());
    }
}
