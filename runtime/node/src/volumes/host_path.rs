//! hostPath: the host's own files, checked against the type that the pod claims they have.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("hostPath type check failed: {path} {problem}")]
pub(crate) struct WrongType {
    path: String,
    problem: String,
}

/// Upstream's rules: the `OrCreate` types make what is missing, the others insist.
pub(crate) fn check(path: &str, type_: &str) -> Result<(), WrongType> {
    let wrong = |problem: String| WrongType {
        path: path.to_owned(),
        problem,
    };
    let meta = || fs::metadata(path).ok();
    let is = |what: &str, test: fn(&fs::Metadata) -> bool| match meta() {
        Some(meta) if test(&meta) => Ok(()),
        _ => Err(wrong(format!("is not {what}"))),
    };
    match type_ {
        // Nothing is checked; the mount will say if there is nothing.
        "" => Ok(()),
        "DirectoryOrCreate" => match meta() {
            Some(meta) if meta.is_dir() => Ok(()),
            Some(_) => Err(wrong("is not a directory".to_owned())),
            None => fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(path)
                .map_err(|e| wrong(format!("cannot be made: {e}"))),
        },
        "Directory" => is("a directory", fs::Metadata::is_dir),
        "FileOrCreate" => match meta() {
            Some(meta) if meta.is_file() => Ok(()),
            Some(_) => Err(wrong("is not a file".to_owned())),
            None => make_file(Path::new(path)).map_err(|e| wrong(format!("cannot be made: {e}"))),
        },
        "File" => is("a file", fs::Metadata::is_file),
        "Socket" => is("a socket", |m| m.file_type().is_socket()),
        "CharDevice" => is("a character device", |m| m.file_type().is_char_device()),
        "BlockDevice" => is("a block device", |m| m.file_type().is_block_device()),
        other => Err(wrong(format!("has the unknown type {other:?}"))),
    }
}

fn make_file(path: &Path) -> std::io::Result<()> {
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_accepts_what_it_names_and_makes_what_it_may() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = |name: &str| dir.path().join(name).to_str().expect("text").to_owned();
        fs::write(at("file"), "").expect("written");
        fs::create_dir(at("dir")).expect("made");
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).expect("bound");
        for (name, type_, fits) in [
            ("file", "File", true),
            ("dir", "File", false),
            ("none", "File", false),
            ("dir", "Directory", true),
            ("file", "Directory", false),
            ("socket", "Socket", true),
            ("file", "Socket", false),
            ("new/deep", "DirectoryOrCreate", true),
            ("file", "DirectoryOrCreate", false),
            ("made", "FileOrCreate", true),
            ("nowhere/made", "FileOrCreate", false),
            ("dir", "FileOrCreate", false),
            ("none", "", true),
            ("file", "CharDevice", false),
            ("file", "Odd", false),
        ] {
            assert_eq!(check(&at(name), type_).is_ok(), fits, "{name} as {type_:?}");
        }
        assert!(check("/dev/null", "CharDevice").is_ok());
        assert_eq!(
            check("/nowhere", "Directory")
                .expect_err("absent")
                .to_string(),
            "hostPath type check failed: /nowhere is not a directory"
        );
    }
}
