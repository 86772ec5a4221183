//! Images: documents, and layers unpacked into a folder that nothing may leave.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use kernelet_image::fuzz::{self, Part};

/// The first byte chooses which document the rest is.
pub fn documents(data: &[u8]) {
    let Some((part, bytes)) = data.split_first() else {
        return;
    };
    let part = match part % 5 {
        0 => Part::Index,
        1 => Part::Manifest,
        2 => Part::Config,
        3 => Part::Docker,
        _ => Part::Archive,
    };
    let _ = fuzz::documents(part, bytes);
}

/// Names that a layer's author would try. Two layers share them, so that the second meets what the first has left.
const NAMES: [&str; 24] = [
    "a",
    "b",
    "a/b",
    "a/b/c",
    "link",
    "link/b",
    "../outside",
    "../../outside",
    "/outside",
    "a/../../outside",
    ".",
    "..",
    "",
    "/",
    "a/.",
    ".wh.a",
    ".wh..wh..opq",
    "a/.wh..wh..opq",
    ".wh...",
    ".wh.",
    ".wh..",
    "link/../..",
    "dev/x",
    "./a//b/",
];

const TYPES: &[u8] = b"0512346xgLK7S";

/// A layer: a program of entries, each four bytes, as tar, and that as it is, gzipped or as zstd. A first byte with its
/// highest bit set: the rest is the archive itself.
pub fn layer(data: &[u8]) {
    let Some((how, rest)) = data.split_first() else {
        return;
    };
    let archive = match how & 0x80 != 0 {
        true => rest.to_vec(),
        false => entries(rest),
    };
    let packed = match how % 3 {
        0 => archive,
        1 => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&archive).expect("memory takes it");
            encoder.finish().expect("memory takes it")
        }
        _ => zstd::encode_all(&*archive, 1).expect("memory takes it"),
    };
    let base = scratch();
    let dir = tempfile::tempdir_in(&base).expect("a folder");
    let (target, lower, outside) = (
        dir.path().join("target"),
        dir.path().join("lower"),
        dir.path().join("outside"),
    );
    for folder in [
        &target,
        &lower,
        &outside,
        &lower.join("a"),
        &lower.join("dev"),
    ] {
        fs::create_dir(folder).expect("a folder");
    }
    fs::write(outside.join("file"), "content").expect("a file");
    fs::write(lower.join("a/b"), "below").expect("a file");
    std::os::unix::fs::symlink("../outside", lower.join("link")).expect("a link");
    let before = (listed(&outside), listed(&lower));
    let _ = fuzz::layer(&packed, &target, &[&lower]);
    assert_eq!(
        (listed(&outside), listed(&lower)),
        before,
        "something outside has changed"
    );
    let names = fs::read_dir(dir.path()).expect("a folder").count();
    assert_eq!(names, 3, "something was made beside the target");
    assert!(
        !Path::new("/outside").exists(),
        "something was made at the root"
    );
}

fn scratch() -> PathBuf {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => memory.to_owned(),
        false => std::env::temp_dir(),
    }
}

/// Everything below a folder, with what must not change.
fn listed(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        let meta = fs::symlink_metadata(&folder).expect("it is there");
        all.insert(
            folder.clone(),
            format!(
                "folder {:o} {} {}",
                meta.permissions().mode(),
                meta.uid(),
                meta.nlink()
            ),
        );
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let meta = fs::symlink_metadata(&path).expect("it is there");
            let kind = meta.file_type();
            if kind.is_dir() {
                open.push(path);
                continue;
            }
            let what = match kind.is_symlink() || kind.is_file() {
                true => format!(
                    "{:o} {} {} {}",
                    meta.permissions().mode(),
                    meta.uid(),
                    meta.size(),
                    meta.nlink()
                ),
                false if meta.mode() & 0o170_000 == 0o010_000 => "fifo".to_owned(),
                false => format!("device {}", meta.rdev()),
            };
            all.insert(path, what);
        }
    }
    all
}

/// Four bytes an entry: type, name, link's target or attribute, mode and size.
fn entries(program: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in program.chunks_exact(4).take(40) {
        let kind = TYPES[entry[0] as usize % TYPES.len()];
        let name = NAMES[entry[1] as usize % NAMES.len()];
        let target = NAMES[entry[2] as usize % NAMES.len()];
        let content = match kind {
            b'0' | b'7' => vec![b'x'; usize::from(entry[3] % 3) * 300],
            b'x' | b'g' => pax(entry[2], name),
            b'L' | b'K' => [target.as_bytes(), b"\0"].concat(),
            _ => Vec::new(),
        };
        let mode = [0o644, 0o755, 0o4755, 0o1777, 0][usize::from(entry[3]) % 5];
        header(&mut out, kind, name, target, mode, content.len() as u64);
        out.extend(&content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// One extended record.
fn pax(which: u8, name: &str) -> Vec<u8> {
    let (key, value) = match which % 8 {
        0 => ("path", name),
        1 => ("linkpath", name),
        2 => ("SCHILY.xattr.trusted.overlay.opaque", "y"),
        3 => ("SCHILY.xattr.trusted.overlay.redirect", "/outside"),
        4 => ("SCHILY.xattr.user.any", "value"),
        5 => ("size", "99999999999"),
        6 => ("uid", "4294967295"),
        _ => ("mtime", "-1.5"),
    };
    let body = format!(" {key}={value}\n");
    let mut length = body.len() + 1;
    while length != body.len() + length.to_string().len() {
        length = body.len() + length.to_string().len();
    }
    format!("{length}{body}").into_bytes()
}

fn header(out: &mut Vec<u8>, kind: u8, name: &str, target: &str, mode: u32, size: u64) {
    let mut block = [0_u8; 512];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, format!("{mode:07o}").as_bytes());
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, format!("{size:011o}").as_bytes());
    put(136, b"00000000001");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, target.as_bytes());
    put(257, b"ustar\x0000");
    put(329, b"0000010");
    put(337, b"0000001");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend(block);
}
