//! The keys, their file, and one value sealed or opened with them.

use std::{fmt, fs, io, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use kernelet_api::Registry;
use kernelet_pki::write_private;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};

use crate::registry::store_prefix;

/// What a sealed value starts with, upstream's form; the key's name and a colon follow.
const PREFIX: &[u8] = b"k8s:enc:aesgcm:v1:";
const KEY_BYTES: usize = 32;

/// What is sealed unless somebody says otherwise.
const SECRETS: &str = "/registry/secrets/";

/// Keys that seal and open values; the first of them seals.
pub struct Encryption {
    keys: Vec<Key>,
    random: SystemRandom,
    /// The store keys whose values are sealed, as prefixes.
    sealed: Vec<String>,
}

struct Key {
    name: String,
    aead: LessSafeKey,
}

impl fmt::Debug for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.keys.iter().map(|key| key.name.as_str()).collect();
        f.debug_struct("Encryption").field("keys", &names).finish()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum EncryptionError {
    #[error("{path}: {source}")]
    File {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{path}: line {line} is not `<name> <32 bytes in base64>`")]
    Line { path: String, line: usize },
    #[error("{path} holds no key")]
    Empty { path: String },
    #[error("nothing that is stored is called {name:?}")]
    Resource { name: String },
    #[error("no random bytes are to be had")]
    Random,
    #[error(
        "{what} is encrypted with the key {name:?}, which this server doesn't have (it has {has}); put the line of that key \
         back into the file of encryption keys"
    )]
    NoKey {
        what: String,
        name: String,
        has: String,
    },
    #[error(
        "{what} can't be decrypted with the key {name:?}: the value was changed, or the key is another of that name"
    )]
    Broken { what: String, name: String },
}

impl Encryption {
    /// Reads the file of keys, one `<name> <base64>` a line, or makes one with a new key. The first key seals; to
    /// rotate, put a new line before the others and start the server, which then seals everything anew.
    pub fn load_or_create(path: &Path) -> Result<Encryption, EncryptionError> {
        let failed = |source| EncryptionError::File {
            path: path.display().to_string(),
            source,
        };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let line = Encryption::new_line()?;
                write_private(path, line.as_bytes()).map_err(failed)?;
                line
            }
            Err(error) => return Err(failed(error)),
        };
        Encryption::parse(&text, &path.display().to_string())
    }

    /// A line with a new key.
    pub fn new_line() -> Result<String, EncryptionError> {
        let mut bytes = [0_u8; KEY_BYTES + 4];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| EncryptionError::Random)?;
        let (key, name) = bytes.split_at(KEY_BYTES);
        let name: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(format!("key-{name} {}\n", STANDARD.encode(key)))
    }

    fn parse(text: &str, path: &str) -> Result<Encryption, EncryptionError> {
        let mut keys = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let key = line.trim().split_once(' ').and_then(|(name, key)| {
                let bytes = STANDARD.decode(key.trim()).ok()?;
                let key = UnboundKey::new(&AES_256_GCM, &bytes).ok()?;
                (!name.contains(':')).then(|| Key {
                    name: name.to_owned(),
                    aead: LessSafeKey::new(key),
                })
            });
            keys.push(key.ok_or_else(|| EncryptionError::Line {
                path: path.to_owned(),
                line: index + 1,
            })?);
        }
        if keys.is_empty() {
            return Err(EncryptionError::Empty {
                path: path.to_owned(),
            });
        }
        Ok(Encryption {
            keys,
            random: SystemRandom::new(),
            sealed: vec![SECRETS.to_owned()],
        })
    }

    /// Seals these resources (`secrets`, `configmaps`, `leases.coordination.k8s.io`) and no others. What was sealed
    /// before is still opened, and stays sealed until it is written the next time. Secrets always are.
    pub fn with_resources(mut self, resources: &[String]) -> Result<Encryption, EncryptionError> {
        for name in resources {
            let (plural, group) = name.split_once('.').unwrap_or((name, ""));
            let found = Registry::builtin()
                .by_resource(group, plural)
                .and_then(|resource| store_prefix(&resource.storage));
            let prefix = found.ok_or_else(|| EncryptionError::Resource { name: name.clone() })?;
            if !self.sealed.contains(&prefix) {
                self.sealed.push(prefix);
            }
        }
        Ok(self)
    }

    /// The prefixes of the store keys whose values are sealed.
    pub fn prefixes(&self) -> &[String] {
        &self.sealed
    }

    /// Whether values at this store key are sealed.
    pub fn covers(&self, key: &[u8]) -> bool {
        self.sealed
            .iter()
            .any(|prefix| key.starts_with(prefix.as_bytes()))
    }

    /// The value as it goes into the store at `key`.
    pub fn seal(&self, key: &[u8], value: &[u8]) -> Result<Vec<u8>, EncryptionError> {
        let Some(first) = self.keys.first() else {
            return Err(EncryptionError::Empty {
                path: String::new(),
            });
        };
        let mut nonce = [0_u8; NONCE_LEN];
        self.random
            .fill(&mut nonce)
            .map_err(|_| EncryptionError::Random)?;
        let mut sealed = value.to_vec();
        first
            .aead
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(key),
                &mut sealed,
            )
            .map_err(|_| EncryptionError::Random)?;
        Ok([PREFIX, first.name.as_bytes(), b":", &nonce, &sealed].concat())
    }

    /// The plain value of what the store has at `key`; nothing where it is plain already.
    pub fn open(&self, key: &[u8], stored: &[u8]) -> Result<Option<Vec<u8>>, EncryptionError> {
        let Some(rest) = stored.strip_prefix(PREFIX) else {
            return Ok(None);
        };
        let what = || String::from_utf8_lossy(key).into_owned();
        let (name, rest) = split_at_colon(rest).ok_or_else(|| EncryptionError::Broken {
            what: what(),
            name: String::new(),
        })?;
        let known = self.keys.iter().find(|known| known.name.as_bytes() == name);
        let name = String::from_utf8_lossy(name).into_owned();
        let Some(known) = known else {
            let has: Vec<&str> = self.keys.iter().map(|key| key.name.as_str()).collect();
            return Err(EncryptionError::NoKey {
                what: what(),
                name,
                has: has.join(", "),
            });
        };
        let broken = || EncryptionError::Broken { what: what(), name };
        let Some((nonce, sealed)) = rest.split_at_checked(NONCE_LEN) else {
            return Err(broken());
        };
        let Ok(nonce) = Nonce::try_assume_unique_for_key(nonce) else {
            return Err(broken());
        };
        let mut plain = sealed.to_vec();
        let length = match known.aead.open_in_place(nonce, Aad::from(key), &mut plain) {
            Ok(opened) => opened.len(),
            Err(_) => return Err(broken()),
        };
        plain.truncate(length);
        Ok(Some(plain))
    }

    /// Whether a stored value is sealed with the first key.
    pub fn is_current(&self, stored: &[u8]) -> bool {
        stored
            .strip_prefix(PREFIX)
            .and_then(split_at_colon)
            .zip(self.keys.first())
            .is_some_and(|((name, _), first)| name == first.name.as_bytes())
    }
}

fn split_at_colon(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = bytes.iter().position(|byte| *byte == b':')?;
    Some((&bytes[..colon], &bytes[colon + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"/registry/secrets/default/a";

    fn line(name: &str, byte: u8) -> String {
        format!("{name} {}\n", STANDARD.encode([byte; KEY_BYTES]))
    }

    fn keys(lines: &[String]) -> Encryption {
        Encryption::parse(&lines.concat(), "keys").unwrap()
    }

    #[test]
    fn a_value_comes_back_from_its_own_place_only() {
        let keys = keys(&[line("one", 1)]);
        let sealed = keys.seal(KEY, b"hush").unwrap();
        assert!(sealed.starts_with(b"k8s:enc:aesgcm:v1:one:"));
        assert!(!sealed.windows(4).any(|window| window == b"hush"));
        assert_ne!(sealed, keys.seal(KEY, b"hush").unwrap());
        assert_eq!(keys.open(KEY, &sealed).unwrap().unwrap(), b"hush");
        assert!(matches!(
            keys.open(b"/registry/secrets/default/b", &sealed),
            Err(EncryptionError::Broken { .. })
        ));
        let mut changed = sealed.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(keys.open(KEY, &changed).is_err());
        for end in 0..sealed.len() {
            let cut = keys.open(KEY, &sealed[..end]);
            assert!(cut.is_err() || cut.unwrap().is_none(), "{end}");
        }
        assert_eq!(keys.open(KEY, b"{}").unwrap(), None);
    }

    #[test]
    fn the_first_key_seals_and_all_open() {
        let old = keys(&[line("old", 1)]);
        let both = keys(&[line("new", 2), line("old", 1)]);
        let sealed = old.seal(KEY, b"v").unwrap();
        assert!(old.is_current(&sealed) && !both.is_current(&sealed));
        assert_eq!(both.open(KEY, &sealed).unwrap().unwrap(), b"v");
        assert!(both.is_current(&both.seal(KEY, b"v").unwrap()));
        let error = keys(&[line("new", 2)]).open(KEY, &sealed).unwrap_err();
        assert!(error.to_string().contains("\"old\""), "{error}");
    }

    #[test]
    fn the_file_of_keys_is_made_once_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let made = Encryption::load_or_create(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let sealed = made.seal(KEY, b"v").unwrap();
        let again = Encryption::load_or_create(&path).unwrap();
        assert_eq!(again.open(KEY, &sealed).unwrap().unwrap(), b"v");
        for text in ["", "one", "one AAAA", "a:b AAAA"] {
            fs::write(&path, text).unwrap();
            assert!(Encryption::load_or_create(&path).is_err(), "{text:?}");
        }
    }
}
