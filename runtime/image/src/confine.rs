//! Unpacking sees the folder that it fills and the layers below, and nothing else of the machine.
//!
//! Beside the walk with descriptors (`unpack`), which alone keeps every entry inside: what a defect there could reach,
//! Landlock refuses. It restricts one thread, so unpacking runs on one of its own, which ends with it. Kernels whose
//! Landlock can't link between folders (before 5.19), or without it, go on with the walk alone, and say so.

use std::{fs::File, io, sync::OnceLock};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, PathBeneath, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, Scope,
};

use crate::tree::Tree;

/// The first that allows hard links between folders.
const LEAST: ABI = ABI::V2;
/// The newest whose rights are handled, where the kernel has them.
const MOST: ABI = ABI::V6;

/// Why unpacking isn't confined on this kernel; none if it is. Asked once.
pub fn unconfined() -> Option<&'static str> {
    static ANSWER: OnceLock<Option<String>> = OnceLock::new();
    ANSWER
        .get_or_init(|| {
            let probe = Ruleset::default()
                .set_compatibility(CompatLevel::HardRequirement)
                .handle_access(AccessFs::from_all(LEAST))
                .and_then(Ruleset::create);
            probe.err().map(|error| {
                format!("Landlock (kernel 5.19, and enabled at its start) is not there: {error}")
            })
        })
        .as_deref()
}

/// Runs `work` on a thread that can write below `folder` only, and read below it and the layers.
pub(crate) fn run<T: Send>(
    folder: &File,
    lower: &Tree,
    work: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    let confined = unconfined().is_none();
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("unpack".to_owned())
            .spawn_scoped(scope, || {
                if confined {
                    restrict(folder, lower)?;
                }
                Ok(work())
            })?;
        match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Restricts the calling thread, for good.
fn restrict(folder: &File, lower: &Tree) -> io::Result<()> {
    let all = AccessFs::from_all(MOST);
    let mut ruleset = Ruleset::default()
        .handle_access(all)
        .and_then(|rules| rules.handle_access(AccessNet::from_all(MOST)))
        .and_then(|rules| rules.scope(Scope::from_all(MOST)))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.add_rule(PathBeneath::new(folder, all)))
        .map_err(io::Error::other)?;
    for layer in lower.folders() {
        let rule = PathBeneath::new(layer, AccessFs::ReadFile | AccessFs::ReadDir);
        ruleset = ruleset.add_rule(rule).map_err(io::Error::other)?;
    }
    ruleset.restrict_self().map(drop).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unpacking_thread_reaches_its_folder_and_nothing_else() {
        if let Some(why) = unconfined() {
            println!("SKIP the_unpacking_thread_reaches_its_folder_and_nothing_else: {why}");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["own", "own/sub", "lower", "other"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        for name in ["own/file", "lower/file", "other/file"] {
            std::fs::write(path(name), name).unwrap();
        }
        let lower = Tree::open([path("lower")]).unwrap();
        let own = File::open(path("own")).unwrap();
        let denied = |result: io::Result<()>| {
            result.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
        };
        let found = run(&own, &lower, || {
            [
                std::fs::write(path("own/new"), "x").is_ok(),
                std::fs::hard_link(path("own/file"), path("own/sub/link")).is_ok(),
                std::fs::remove_dir_all(path("own/sub")).is_ok(),
                std::fs::read(path("lower/file")).is_ok(),
                denied(std::fs::write(path("lower/new"), "x")),
                denied(std::fs::read(path("other/file")).map(drop)),
                denied(std::fs::write(path("other/new"), "x")),
                denied(std::fs::remove_file(path("other/file"))),
                denied(std::fs::create_dir(path("other/dir"))),
                std::fs::hard_link(path("other/file"), path("own/stolen")).is_err(),
            ]
        });
        assert_eq!(found.unwrap(), [true; 10]);
        // Only that thread.
        std::fs::write(path("other/new"), "x").unwrap();
    }
}
