//! Mount options: the table of the OCI specification and of other runtimes' manuals. What it doesn't know
//! is data for the file system.

use crate::{Attributes, MountFlags, Propagation, SourceLink};

/// What a mount's options come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub flags: MountFlags,
    pub propagation: Propagation,
    /// `Some(recursive)`.
    pub bind: Option<bool>,
    pub remount: bool,
    /// `Some(recursive)`.
    pub id_map: Option<bool>,
    pub copy_up: bool,
    pub source_link: SourceLink,
    pub destination_no_follow: bool,
    /// Whether any attribute was spoken of, set or cleared.
    pub any_attribute: bool,
    pub data: Vec<(String, Option<String>)>,
}

/// All names of the table, sorted: what `features` lists.
pub const MOUNT_OPTIONS: &[&str] = &[
    "async",
    "atime",
    "bind",
    "copy-symlink",
    "defaults",
    "dest-nofollow",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "src-nofollow",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

pub(super) fn parse(texts: &[String]) -> Options {
    let mut options = Options::default();
    // buildah writes an empty one for a volume without any.
    for text in texts.iter().filter(|text| !text.is_empty()) {
        if !options.take(text) {
            options.data.push(match text.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (text.clone(), None),
            });
        }
    }
    options
}

/// An attribute's two names, and whether it is one of the access times.
fn attribute(name: &str) -> Option<(Attributes, bool)> {
    Some(match name {
        "ro" => (Attributes::READ_ONLY, true),
        "rw" => (Attributes::READ_ONLY, false),
        "nosuid" => (Attributes::NO_SUID, true),
        "suid" => (Attributes::NO_SUID, false),
        "nodev" => (Attributes::NO_DEV, true),
        "dev" => (Attributes::NO_DEV, false),
        "noexec" => (Attributes::NO_EXEC, true),
        "exec" => (Attributes::NO_EXEC, false),
        "nodiratime" => (Attributes::NO_DIR_ATIME, true),
        "diratime" => (Attributes::NO_DIR_ATIME, false),
        "nosymfollow" => (Attributes::NO_SYM_FOLLOW, true),
        "symfollow" => (Attributes::NO_SYM_FOLLOW, false),
        "noatime" => (Attributes::NO_ATIME, true),
        "atime" => (Attributes::NO_ATIME, false),
        "strictatime" => (Attributes::STRICT_ATIME, true),
        "nostrictatime" => (Attributes::STRICT_ATIME, false),
        // relatime has no bit: it is an access time that is neither of the others.
        "relatime" => (Attributes::NONE, true),
        "norelatime" => (Attributes::NONE, false),
        _ => return None,
    })
}

impl Options {
    /// Whether the option is one of the table's.
    fn take(&mut self, text: &str) -> bool {
        if let Some((attribute, on)) = attribute(text) {
            self.on_the_mount(attribute, on);
            return true;
        }
        if let Some(rest) = text.strip_prefix('r')
            && let Some((attribute, on)) = attribute(rest)
        {
            self.on_the_tree(attribute, on);
            return true;
        }
        let system = &mut self.flags.file_system;
        match text {
            "sync" => system.sync = true,
            "async" => system.sync = false,
            "dirsync" => system.dir_sync = true,
            "mand" => system.mand = true,
            "nomand" => system.mand = false,
            "lazytime" => system.lazy_time = true,
            "nolazytime" => system.lazy_time = false,
            "iversion" => system.i_version = true,
            "noiversion" => system.i_version = false,
            // Messages come to us in any case, never to the kernel's log.
            "defaults" | "silent" | "loud" => {}
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "remount" => self.remount = true,
            "idmap" => self.id_map = Some(false),
            "ridmap" => self.id_map = Some(true),
            "tmpcopyup" => self.copy_up = true,
            "copy-symlink" => self.source_link = SourceLink::Copied,
            "src-nofollow" => self.source_link = SourceLink::Mounted,
            "dest-nofollow" => self.destination_no_follow = true,
            _ => return self.propagation(text),
        }
        true
    }

    /// Slave and shared go together; otherwise the last word counts, as when each is applied in turn.
    fn propagation(&mut self, text: &str) -> bool {
        let wish = match propagation(text) {
            Some(wish) => wish,
            None => return false,
        };
        let was_slave = matches!(
            self.propagation,
            Propagation::HostToContainer | Propagation::TopSlave | Propagation::SlaveShared
        );
        let shared = matches!(wish, Propagation::Bidirectional | Propagation::TopShared);
        self.propagation = if was_slave && shared {
            Propagation::SlaveShared
        } else {
            wish
        };
        true
    }

    fn on_the_mount(&mut self, attribute: Attributes, on: bool) {
        self.any_attribute = true;
        let flags = &mut self.flags;
        flags.cleared = if on {
            flags.cleared.without(attribute)
        } else {
            flags.cleared.with(attribute)
        };
        match attribute {
            Attributes::READ_ONLY => flags.read_only = on,
            Attributes::NO_SUID => flags.no_suid = on,
            Attributes::NO_DEV => flags.no_dev = on,
            Attributes::NO_EXEC => flags.no_exec = on,
            Attributes::NO_DIR_ATIME => flags.no_dir_atime = on,
            Attributes::NO_SYM_FOLLOW => flags.no_sym_follow = on,
            Attributes::NO_ATIME => flags.no_atime = on,
            Attributes::STRICT_ATIME => flags.strict_atime = on,
            _ => flags.rel_atime = on,
        }
    }

    fn on_the_tree(&mut self, attribute: Attributes, on: bool) {
        let flags = &mut self.flags;
        if on {
            flags.recursive_set = flags.recursive_set.with(attribute);
            flags.recursive_clear = flags.recursive_clear.without(attribute);
        } else {
            flags.recursive_set = flags.recursive_set.without(attribute);
            flags.recursive_clear = flags.recursive_clear.with(attribute);
        }
        // The kernel takes an access time only when the one before is cleared with it.
        if attribute.without(Attributes::ATIME).is_empty() {
            flags.recursive_set = if on {
                flags
                    .recursive_set
                    .without(Attributes::ATIME)
                    .with(attribute)
            } else {
                flags.recursive_set
            };
            flags.recursive_clear = flags.recursive_clear.with(Attributes::ATIME);
        }
    }
}

/// Also of `linux.rootfsPropagation`.
pub(super) fn propagation(text: &str) -> Option<Propagation> {
    Some(match text {
        "private" | "rprivate" => Propagation::Private,
        "slave" => Propagation::TopSlave,
        "rslave" => Propagation::HostToContainer,
        "shared" => Propagation::TopShared,
        "rshared" => Propagation::Bidirectional,
        "unbindable" => Propagation::TopUnbindable,
        "runbindable" => Propagation::Unbindable,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Options {
        let list: Vec<String> = text.split(',').map(str::to_owned).collect();
        parse(&list)
    }

    #[test]
    fn every_option_of_the_table_is_known_and_the_others_are_data() {
        for name in MOUNT_OPTIONS {
            assert!(of(name).data.is_empty(), "{name} is taken for data");
        }
        assert!(MOUNT_OPTIONS.is_sorted());
        let data = of("size=64k,acl,ro,noacl,mode=1777").data;
        let some = |k: &str, v: &str| (k.to_owned(), Some(v.to_owned()));
        assert_eq!(
            data,
            [
                some("size", "64k"),
                ("acl".to_owned(), None),
                ("noacl".to_owned(), None),
                some("mode", "1777")
            ]
        );
    }

    #[test]
    fn an_option_and_its_opposite_undo_each_other() {
        let flags = of("ro,nosuid,nodev,noexec,rw,suid").flags;
        assert!(!flags.read_only && !flags.no_suid && flags.no_dev && flags.no_exec);
        assert_eq!(
            flags.cleared,
            Attributes::READ_ONLY.with(Attributes::NO_SUID)
        );
        assert!(of("rw").any_attribute && !of("bind,rprivate").any_attribute);
        assert!(!of("sync,async").flags.file_system.sync);
    }

    #[test]
    fn recursive_options_are_of_the_tree() {
        let flags = of("rro,rnosuid,rdev,rsuid").flags;
        assert_eq!(flags.recursive_set, Attributes::READ_ONLY);
        assert_eq!(
            flags.recursive_clear,
            Attributes::NO_DEV.with(Attributes::NO_SUID)
        );
        assert!(!flags.read_only);
        for (text, set) in [
            ("rnoatime", Attributes::NO_ATIME),
            ("rstrictatime", Attributes::STRICT_ATIME),
            ("rrelatime", Attributes::NONE),
            ("ratime", Attributes::NONE),
            ("rnoatime,rstrictatime", Attributes::STRICT_ATIME),
        ] {
            let flags = of(text).flags;
            assert_eq!(
                (flags.recursive_set, flags.recursive_clear),
                (set, Attributes::ATIME),
                "{text}"
            );
        }
    }

    #[test]
    fn propagation_is_the_last_word_but_for_slave_and_shared() {
        assert_eq!(of("rslave").propagation, Propagation::HostToContainer);
        assert_eq!(of("rslave,rshared").propagation, Propagation::SlaveShared);
        assert_eq!(of("rshared,rprivate").propagation, Propagation::Private);
        assert_eq!(of("unbindable").propagation, Propagation::TopUnbindable);
    }
}
