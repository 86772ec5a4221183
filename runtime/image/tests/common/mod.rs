//! Archives for the tests, entry by entry, also such as no honest tool makes.

#![allow(dead_code)]

use std::{fs, path::Path};

use kernelet_image::{Image, ImageStore, compose};
use serde_json::json;
use tar::{EntryType, Header};

/// False, loudly, when the tests can't run here.
pub fn root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("SKIP {test}: unpacking an image needs root");
    }
    root
}

/// A layer's archive in the making.
pub struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    pub fn new() -> Layer {
        Layer(tar::Builder::new(Vec::new()))
    }

    /// Any entry: the name goes into the header as it is.
    pub fn entry(
        mut self,
        name: &str,
        kind: EntryType,
        mode: u32,
        owner: (u64, u64),
        link: &str,
        content: &[u8],
    ) -> Layer {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    pub fn file(self, name: &str, content: &str) -> Layer {
        self.entry(
            name,
            EntryType::Regular,
            0o644,
            (0, 0),
            "",
            content.as_bytes(),
        )
    }

    /// A sparse file of GNU's tar, with data at its end only.
    pub fn sparse(mut self, name: &str, size: u64, data: &[u8; 512]) -> Layer {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNUSparse);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(data.len() as u64);
        let octal =
            |field: &mut [u8; 12], n: u64| field.copy_from_slice(format!("{n:011o}\0").as_bytes());
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..name.len()].copy_from_slice(name.as_bytes());
        octal(&mut gnu.sparse[0].offset, size - data.len() as u64);
        octal(&mut gnu.sparse[0].numbytes, data.len() as u64);
        octal(&mut gnu.realsize, size);
        header.set_cksum();
        self.0.append(&header, &data[..]).unwrap();
        self
    }

    pub fn dir(self, name: &str, mode: u32) -> Layer {
        self.entry(name, EntryType::Directory, mode, (0, 0), "", b"")
    }

    pub fn symlink(self, name: &str, target: &str) -> Layer {
        self.entry(name, EntryType::Symlink, 0o777, (0, 0), target, b"")
    }

    pub fn link(self, name: &str, target: &str) -> Layer {
        self.entry(name, EntryType::Link, 0o644, (0, 0), target, b"")
    }

    /// Extended attributes for the next entry.
    pub fn pax(mut self, records: &[(&str, &[u8])]) -> Layer {
        self.0
            .append_pax_extensions(records.iter().copied())
            .unwrap();
        self
    }

    pub fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// A `docker save` archive named `test:latest`.
pub fn archive(layers: &[Vec<u8>]) -> Vec<u8> {
    compose::archive(
        &"test".parse().unwrap(),
        &json!({"Cmd": ["/bin/true"]}),
        layers,
    )
    .unwrap()
}

pub fn store(dir: &Path) -> ImageStore {
    ImageStore::open(dir.join("images")).unwrap()
}

/// Loads an image of these layers.
pub fn load(store: &ImageStore, layers: &[Vec<u8>]) -> Image {
    let mut images = store.load_from(archive(layers).as_slice()).unwrap();
    assert_eq!(images.len(), 1);
    images.remove(0)
}

/// The store holds nothing, and nothing half done.
pub fn assert_empty(store: &ImageStore, dir: &Path) {
    assert_eq!(store.ls().unwrap(), []);
    let left: Vec<_> = fs::read_dir(dir.join("images/tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    store.prune().unwrap();
    let layers: Vec<_> = fs::read_dir(dir.join("images/layers"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name != "empty")
        .collect();
    assert!(layers.is_empty(), "{layers:?}");
}
