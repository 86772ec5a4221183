//! What types and fields mean, for `kubectl explain`.
//!
//! The texts are upstream's, as `k8s-openapi` carries them; the build script packs those of the served kinds, and what
//! enumerated values mean. They are unpacked only while a document is written.

use std::{collections::HashMap, io::Read};

use flate2::read::GzDecoder;

use super::enums::Values;

/// A record a text: `type\tfield\ttext`, ended by U+001E; without a field for the type itself. After U+001D the rows of
/// `facts/values.txt`.
static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.gz"));

pub(super) struct Descriptions {
    text: String,
    /// Where a type's or field's text stands.
    places: HashMap<(u32, u32), (u32, u32)>,
    names: HashMap<String, u32>,
    /// Where the rows of enumerated values begin.
    values: usize,
}

impl Descriptions {
    pub(super) fn load() -> Self {
        let mut text = String::new();
        GzDecoder::new(PACKED)
            .read_to_string(&mut text)
            .expect("packed by the build script");
        let mut names = HashMap::new();
        let mut places = HashMap::new();
        let mut at = 0;
        let mut id = |name: &str| {
            let next = names.len() as u32;
            *names.entry(name.to_owned()).or_insert(next)
        };
        let values = text.find('\u{1d}').expect("packed by the build script");
        for line in text[..values].split_terminator('\u{1e}') {
            let end = at + line.len();
            let mut parts = line.splitn(3, '\t');
            let (Some(ty), Some(field), Some(words)) = (parts.next(), parts.next(), parts.next())
            else {
                continue;
            };
            places.insert(
                (id(ty), id(field)),
                ((end - words.len()) as u32, words.len() as u32),
            );
            at = end + 1;
        }
        Self {
            values: values + 1,
            text,
            places,
            names,
        }
    }

    /// What enumerated fields may hold.
    pub(super) fn values(&self) -> Values<'_> {
        Values::parse(&self.text[self.values..])
    }

    pub(super) fn of_type(&self, ty: &str) -> Option<&str> {
        self.of_field(ty, "")
    }

    pub(super) fn of_field(&self, ty: &str, field: &str) -> Option<&str> {
        let key = (*self.names.get(ty)?, *self.names.get(field)?);
        let (start, length) = *self.places.get(&key)?;
        self.text.get(start as usize..(start + length) as usize)
    }
}
