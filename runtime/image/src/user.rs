//! Whom a container runs as: `User` of the image (or `runAsUser`), looked up in the image's own files.

use std::{io::Read as _, path::Path};

use crate::{Image, UserError, tree::Tree};

/// Ids above it are refused by Docker and the kernel's own tools; a larger number wraps somewhere.
const MAX_ID: u32 = i32::MAX as u32;
/// Larger files are no user databases.
const MAX_FILE: u64 = 16 << 20;

/// A user by numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// The groups that /etc/group lists the user in, without the primary one.
    pub groups: Vec<u32>,
    /// The home folder, if /etc/passwd knows the user.
    pub home: Option<String>,
}

impl Image {
    /// Resolves `user`, `uid`, `user:group`, `uid:gid` (any mixture); empty is root. A number needs no entry in the
    /// image's files; its primary group is then 0.
    pub fn user(&self, spec: &str) -> Result<User, UserError> {
        let read = |path: &'static str| {
            let text = Tree::open(&self.layers)
                .and_then(|tree| tree.file(Path::new(path)))
                .and_then(|file| {
                    let mut bytes = Vec::new();
                    if let Some(file) = file {
                        file.take(MAX_FILE).read_to_end(&mut bytes)?;
                    }
                    Ok(bytes)
                })
                .map_err(|source| UserError::Read { path, source })?;
            Ok::<_, UserError>(String::from_utf8_lossy(&text).into_owned())
        };
        lookup(spec, &read("/etc/passwd")?, &read("/etc/group")?)
    }
}

/// A line of /etc/passwd.
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn lookup(spec: &str, passwd: &str, group: &str) -> Result<User, UserError> {
    let (user, group_spec) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (spec, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let accounts = || passwd.lines().filter_map(account);
    let by_name = accounts().find(|account| account.name == user);
    let account = match by_name {
        Some(account) => Some(account),
        None if is_number(user) => {
            let uid = id(user)?;
            accounts().find(|account| account.uid == uid)
        }
        None => return Err(UserError::NoUser(user.to_owned())),
    };
    let (uid, gid, name) = match &account {
        Some(account) => (account.uid, account.gid, Some(account.name)),
        None => (id(user)?, 0, None),
    };
    if uid > MAX_ID || gid > MAX_ID {
        return Err(UserError::OutOfRange(user.to_owned()));
    }
    let gid = match group_spec {
        None => gid,
        Some(wanted) => {
            match group
                .lines()
                .filter_map(group_line)
                .find(|(name, ..)| *name == wanted)
            {
                Some((_, gid, _)) if gid <= MAX_ID => gid,
                Some(_) => return Err(UserError::OutOfRange(wanted.to_owned())),
                None if is_number(wanted) => id(wanted)?,
                None => return Err(UserError::NoGroup(wanted.to_owned())),
            }
        }
    };
    let mut groups: Vec<u32> = group
        .lines()
        .filter_map(group_line)
        .filter(|(_, id, members)| {
            *id != gid
                && *id <= MAX_ID
                && name.is_some_and(|name| members.split(',').any(|m| m == name))
        })
        .map(|(_, id, _)| id)
        .collect();
    groups.sort_unstable();
    groups.dedup();
    Ok(User {
        uid,
        gid,
        groups,
        home: account
            .map(|account| account.home.to_owned())
            .filter(|home| !home.is_empty()),
    })
}

fn account(line: &str) -> Option<Account<'_>> {
    let fields: Vec<_> = line.split(':').collect();
    Some(Account {
        name: fields.first().filter(|name| !name.is_empty())?,
        uid: fields.get(2)?.parse().ok()?,
        gid: fields.get(3)?.parse().ok()?,
        home: fields.get(5).copied().unwrap_or_default(),
    })
}

fn group_line(line: &str) -> Option<(&str, u32, &str)> {
    let fields: Vec<_> = line.split(':').collect();
    let name = fields.first().filter(|name| !name.is_empty())?;
    Some((
        name,
        fields.get(2)?.parse().ok()?,
        fields.get(3).copied().unwrap_or_default(),
    ))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn id(text: &str) -> Result<u32, UserError> {
    text.parse()
        .ok()
        .filter(|id| *id <= MAX_ID)
        .ok_or_else(|| UserError::OutOfRange(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\nweb:x:33:34::/srv:\nbroken:x\n7:x:77:77::/seven:\n\
                          huge:x:4294967295:0::/:\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlogs:x:4:web,other\nmore:x:5:other,web\n";

    fn check(spec: &str, uid: u32, gid: u32, groups: &[u32]) {
        let user = lookup(spec, PASSWD, GROUP).unwrap();
        assert_eq!(
            (user.uid, user.gid, user.groups.as_slice()),
            (uid, gid, groups),
            "{spec}"
        );
    }

    #[test]
    fn users_and_groups_are_found_by_name_and_number() {
        check("", 0, 0, &[]);
        check("root", 0, 0, &[]);
        check("web", 33, 34, &[4, 5]);
        check("33", 33, 34, &[4, 5]);
        check("web:logs", 33, 4, &[5]);
        check("web:1000", 33, 1000, &[4, 5]);
        check("1000", 1000, 0, &[]);
        check("1000:web", 1000, 34, &[]);
        check("web:", 33, 34, &[4, 5]);
        // A user whose name is a number is that user.
        check("7", 77, 77, &[]);
        assert_eq!(
            lookup("web", PASSWD, GROUP).unwrap().home.as_deref(),
            Some("/srv")
        );
        assert_eq!(lookup("1000", "", "").unwrap().home, None);
    }

    #[test]
    fn what_is_not_there_or_would_wrap_is_refused() {
        assert!(matches!(
            lookup("nobody", PASSWD, GROUP),
            Err(UserError::NoUser(_))
        ));
        assert!(matches!(
            lookup("web:none", PASSWD, GROUP),
            Err(UserError::NoGroup(_))
        ));
        for spec in [
            "4294967296",
            "2147483648",
            "18446744073709551616",
            "0:4294967295",
            "huge",
        ] {
            assert!(
                matches!(lookup(spec, PASSWD, GROUP), Err(UserError::OutOfRange(_))),
                "{spec}"
            );
        }
        assert!(lookup("-1", PASSWD, GROUP).is_err());
    }
}
