//! A page's bytes on their way through [`super::html`], unpacked and packed again where they are compressed.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::{
    Compression,
    write::{DeflateDecoder, DeflateEncoder, GzDecoder, GzEncoder},
};
use futures::{StreamExt, stream};
use http::{HeaderMap, header};

use super::{Pieces, html::Page, links::Links};

/// How much compressed data is unpacked at once: a thousandfold of it is held at most.
const UNPACK: usize = 1024;

/// How a page is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    Plain,
    Gzip,
    Deflate,
}

impl Coding {
    /// Of an answer that is a page whose coding is understood.
    pub fn of_page(headers: &HeaderMap) -> Option<Coding> {
        let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        let media = text(header::CONTENT_TYPE)?.split(';').next()?.trim();
        if media != "text/html" {
            return None;
        }
        match text(header::CONTENT_ENCODING) {
            None | Some("") => Some(Coding::Plain),
            Some("gzip") => Some(Coding::Gzip),
            Some("deflate") => Some(Coding::Deflate),
            Some(_) => None,
        }
    }
}

type Rewrite = Box<dyn Fn(&str) -> Option<String> + Send>;

/// The steps that a page's bytes take.
struct Passage {
    unpack: Unpack,
    page: Page<Rewrite>,
    pack: Pack,
}

enum Unpack {
    Plain,
    Gzip(GzDecoder<Vec<u8>>),
    Deflate(DeflateDecoder<Vec<u8>>),
}

enum Pack {
    Plain(Vec<u8>),
    Gzip(GzEncoder<Vec<u8>>),
    Deflate(DeflateEncoder<Vec<u8>>),
}

impl Passage {
    fn new(coding: Coding, links: Links) -> Passage {
        let rewrite: Rewrite = Box::new(move |link| links.rewrite(link));
        let (unpack, pack) = match coding {
            Coding::Plain => (Unpack::Plain, Pack::Plain(Vec::new())),
            Coding::Gzip => (
                Unpack::Gzip(GzDecoder::new(Vec::new())),
                Pack::Gzip(GzEncoder::new(Vec::new(), Compression::default())),
            ),
            Coding::Deflate => (
                Unpack::Deflate(DeflateDecoder::new(Vec::new())),
                Pack::Deflate(DeflateEncoder::new(Vec::new(), Compression::best())),
            ),
        };
        Passage {
            unpack,
            page: Page::new(rewrite),
            pack,
        }
    }

    fn feed(&mut self, piece: &[u8]) -> io::Result<Bytes> {
        let mut out = Vec::new();
        match &mut self.unpack {
            Unpack::Plain => self.page.feed(piece, &mut out),
            Unpack::Gzip(decoder) => {
                for part in piece.chunks(UNPACK) {
                    decoder.write_all(part)?;
                    self.page.feed(&std::mem::take(decoder.get_mut()), &mut out);
                }
            }
            Unpack::Deflate(decoder) => {
                for part in piece.chunks(UNPACK) {
                    decoder.write_all(part)?;
                    self.page.feed(&std::mem::take(decoder.get_mut()), &mut out);
                }
            }
        }
        self.pack.write(&out)?;
        Ok(self.pack.take())
    }

    fn finish(mut self) -> io::Result<Bytes> {
        let mut out = Vec::new();
        let last = match self.unpack {
            Unpack::Plain => Vec::new(),
            Unpack::Gzip(decoder) => decoder.finish()?,
            Unpack::Deflate(decoder) => decoder.finish()?,
        };
        self.page.feed(&last, &mut out);
        self.page.finish(&mut out);
        self.pack.write(&out)?;
        Ok(match self.pack {
            Pack::Plain(bytes) => bytes,
            Pack::Gzip(encoder) => encoder.finish()?,
            Pack::Deflate(encoder) => encoder.finish()?,
        }
        .into())
    }
}

impl Pack {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Pack::Plain(out) => out.write_all(bytes),
            Pack::Gzip(out) => out.write_all(bytes),
            Pack::Deflate(out) => out.write_all(bytes),
        }
    }

    fn take(&mut self) -> Bytes {
        std::mem::take(match self {
            Pack::Plain(out) => out,
            Pack::Gzip(out) => out.get_mut(),
            Pack::Deflate(out) => out.get_mut(),
        })
        .into()
    }
}

/// The page with its links led through the proxy.
pub fn rewritten(pieces: Pieces, coding: Coding, links: Links) -> Pieces {
    let state = Some((pieces, Passage::new(coding, links)));
    Box::pin(stream::try_unfold(state, |state| async move {
        let Some((mut pieces, mut passage)) = state else {
            return Ok(None);
        };
        loop {
            match pieces.next().await {
                Some(piece) => {
                    let out = passage.feed(&piece?)?;
                    // Nothing may be decided yet.
                    if !out.is_empty() {
                        return Ok(Some((out, Some((pieces, passage)))));
                    }
                }
                None => return Ok(Some((passage.finish()?, None))),
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use futures::TryStreamExt;

    use super::*;

    const PAGE: &str = r#"<html><a href="/x">x</a></html>"#;
    const EXPECT: &str = r#"<html><a href="/p/x">x</a></html>"#;

    async fn pass(page: Vec<u8>, coding: Coding) -> Vec<u8> {
        let links = Links {
            prefix: "/p".to_owned(),
            backend: String::new(),
            asked: String::new(),
        };
        let pieces: Vec<_> = page
            .chunks(5)
            .map(|c| Ok(Bytes::copy_from_slice(c)))
            .collect();
        let passed: Vec<Bytes> = rewritten(Box::pin(stream::iter(pieces)), coding, links)
            .try_collect()
            .await
            .unwrap();
        passed.concat()
    }

    #[tokio::test]
    async fn pages_pass_in_each_coding() {
        assert_eq!(pass(PAGE.into(), Coding::Plain).await, EXPECT.as_bytes());
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(PAGE.as_bytes()).unwrap();
        let passed = pass(packed.finish().unwrap(), Coding::Gzip).await;
        let mut text = String::new();
        flate2::read::GzDecoder::new(&passed[..])
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, EXPECT);
        let mut packed = DeflateEncoder::new(Vec::new(), Compression::default());
        packed.write_all(PAGE.as_bytes()).unwrap();
        let passed = pass(packed.finish().unwrap(), Coding::Deflate).await;
        text.clear();
        flate2::read::DeflateDecoder::new(&passed[..])
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, EXPECT);
    }

    #[test]
    fn only_pages_are_touched() {
        let of = |media: &'static str, coding: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, media.parse().unwrap());
            if let Some(coding) = coding {
                headers.insert(header::CONTENT_ENCODING, coding.parse().unwrap());
            }
            Coding::of_page(&headers)
        };
        assert_eq!(of("text/html; charset=utf-8", None), Some(Coding::Plain));
        assert_eq!(of("text/html", Some("gzip")), Some(Coding::Gzip));
        assert_eq!(of("text/html", Some("br")), None);
        assert_eq!(of("application/json", None), None);
    }
}
