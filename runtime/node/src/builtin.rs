//! The image that the program carries in itself, so that the first run needs no registry.

use std::io;

use kernelet_image::{ImageError, ImageStore};
use serde_json::json;
use tar::{Builder, Header};

/// Its name in the image store.
pub const HELLO_IMAGE: &str = "kernelet.local/hello:v1";

/// Puts it into the store, unless it is there as this program has it.
pub(crate) fn load(store: &ImageStore) -> Result<(), ImageError> {
    let archive = archive(&kernelet_programs::hello()).map_err(|source| ImageError::Damaged {
        what: HELLO_IMAGE.to_owned(),
        source,
    })?;
    if let Ok(known) = store.get(HELLO_IMAGE)
        && known.id.to_string() == archive.id
    {
        return Ok(());
    }
    store.load_from(archive.bytes.as_slice()).map(drop)
}

struct Archive {
    id: String,
    bytes: Vec<u8>,
}

/// A `docker save` archive of one layer with one program.
fn archive(program: &[u8]) -> io::Result<Archive> {
    let mut layer = Builder::new(Vec::new());
    entry(&mut layer, "hello", program, 0o755)?;
    let layer = layer.into_inner()?;
    let diff_id = digest(&layer);
    let config = json!({
        "architecture": crate::facts::go_architecture(),
        "os": "linux",
        "config": {"Entrypoint": ["/hello"], "ExposedPorts": {"8080/tcp": {}}, "WorkingDir": "/", "User": "65532:65532"},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    });
    let config = serde_json::to_vec(&config)?;
    let id = digest(&config);
    // Named by its digest, as `docker save` does: that is how its names find it.
    let config_name = format!("{}.json", id.trim_start_matches("sha256:"));
    let manifest =
        json!([{"Config": config_name, "RepoTags": [HELLO_IMAGE], "Layers": ["layer.tar"]}]);
    let mut archive = Builder::new(Vec::new());
    entry(&mut archive, &config_name, &config, 0o644)?;
    entry(&mut archive, "layer.tar", &layer, 0o644)?;
    entry(
        &mut archive,
        "manifest.json",
        &serde_json::to_vec(&manifest)?,
        0o644,
    )?;
    Ok(Archive {
        id,
        bytes: archive.into_inner()?,
    })
}

fn entry(archive: &mut Builder<Vec<u8>>, path: &str, content: &[u8], mode: u32) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_size(u64::try_from(content.len()).map_err(io::Error::other)?);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    archive.append_data(&mut header, path, content)
}

fn digest(bytes: &[u8]) -> String {
    use sha2::Digest;
    let hash = sha2::Sha256::digest(bytes);
    hash.iter().fold("sha256:".to_owned(), |mut text, byte| {
        use std::fmt::Write;
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_image_loads_and_is_loaded_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = ImageStore::open(dir.path()).expect("opens");
        let made = archive(b"#!program").expect("packs");
        store.load_from(made.bytes.as_slice()).expect("loads");
        let image = store.get(HELLO_IMAGE).expect("is there");
        assert_eq!(image.id.to_string(), made.id);
        assert_eq!(image.config.entrypoint, ["/hello"]);
        load(&store).expect("replaces another build's");
        let own = store.get(HELLO_IMAGE).expect("is there").id;
        load(&store).expect("finds it");
        assert_eq!(store.get(HELLO_IMAGE).expect("is there").id, own);
    }
}
