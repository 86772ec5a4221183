//! Blocks of names and values, compressed over the whole connection with SPDY/3's dictionary (draft 3.1, section 2.6.10).

use std::sync::LazyLock;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::SpdyError;

/// A block may be so long when it is unpacked; those of Kubernetes have some hundred bytes.
const UNPACKED: usize = 64 << 10;
/// What the compressor sees at once.
const STEP: usize = 4 << 10;

/// Names and values of a stream. Names are in lower case; several values of a name are joined by a zero byte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    pub fn new(pairs: &[(&str, &str)]) -> Headers {
        let own = |(name, value): &(&str, &str)| (name.to_ascii_lowercase(), (*value).to_owned());
        Headers(pairs.iter().map(own).collect())
    }

    /// The first value of a name; the name is given in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(own, _)| own == name)?;
        value.split('\0').next()
    }

    fn plain(&self) -> Vec<u8> {
        let mut block = (self.0.len() as u32).to_be_bytes().to_vec();
        for text in self.0.iter().flat_map(|(name, value)| [name, value]) {
            block.extend((text.len() as u32).to_be_bytes());
            block.extend(text.as_bytes());
        }
        block
    }

    fn parse(mut block: &[u8]) -> Result<Headers, SpdyError> {
        let mut all = Vec::new();
        for _ in 0..number(&mut block)? {
            let (name, value) = (text(&mut block)?, text(&mut block)?);
            all.push((name.to_ascii_lowercase(), value));
        }
        if !block.is_empty() {
            return Err(SpdyError::Headers("bytes are left over"));
        }
        Ok(Headers(all))
    }
}

fn number(block: &mut &[u8]) -> Result<u32, SpdyError> {
    let (first, rest) = block
        .split_first_chunk::<4>()
        .ok_or(SpdyError::Headers("it ends too early"))?;
    *block = rest;
    Ok(u32::from_be_bytes(*first))
}

fn text(block: &mut &[u8]) -> Result<String, SpdyError> {
    let length = number(block)? as usize;
    let (text, rest) = block
        .split_at_checked(length)
        .ok_or(SpdyError::Headers("it ends too early"))?;
    *block = rest;
    String::from_utf8(text.to_vec()).map_err(|_| SpdyError::Headers("it is not UTF-8"))
}

/// One direction's compressor.
pub(super) struct Deflater(Compress);

impl Deflater {
    pub fn new() -> Deflater {
        let mut state = Compress::new(Compression::best(), true);
        state
            .set_dictionary(&DICTIONARY)
            .expect("a fresh compressor takes a dictionary");
        Deflater(state)
    }

    pub fn block(&mut self, headers: &Headers) -> Vec<u8> {
        let plain = headers.plain();
        let mut packed = Vec::with_capacity(plain.len() + 64);
        let begun = self.0.total_in();
        loop {
            packed.reserve(STEP);
            let done = (self.0.total_in() - begun) as usize;
            self.0
                .compress_vec(&plain[done..], &mut packed, FlushCompress::Sync)
                .expect("compression into memory doesn't fail");
            let done = (self.0.total_in() - begun) as usize;
            // Room that is left means that the flush is complete.
            if done == plain.len() && packed.len() < packed.capacity() {
                return packed;
            }
        }
    }
}

/// The other direction's.
pub(super) struct Inflater(Decompress);

impl Inflater {
    pub fn new() -> Inflater {
        Inflater(Decompress::new(true))
    }

    pub fn block(&mut self, packed: &[u8]) -> Result<Headers, SpdyError> {
        let mut plain = Vec::with_capacity(STEP);
        let begun = self.0.total_in();
        loop {
            let done = (self.0.total_in() - begun) as usize;
            let before = plain.len();
            let step = self
                .0
                .decompress_vec(&packed[done..], &mut plain, FlushDecompress::Sync);
            match step {
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0
                        .set_dictionary(&DICTIONARY)
                        .map_err(|_| SpdyError::Headers("its dictionary is another"))?;
                    continue;
                }
                Err(_) => return Err(SpdyError::Headers("it can't be unpacked")),
            }
            if plain.len() > UNPACKED {
                return Err(SpdyError::Headers("it is too long"));
            }
            let moved = (self.0.total_in() - begun) as usize > done || plain.len() > before;
            if plain.len() == plain.capacity() {
                plain.reserve(STEP);
            } else if !moved || (self.0.total_in() - begun) as usize == packed.len() {
                return Headers::parse(&plain);
            }
        }
    }
}

/// The words that stand in the dictionary with their lengths before them.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
    content-length content-location content-md5 content-range content-type date etag expect expires from host \
    if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
    keep-alive origin";

/// What follows them.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
    404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
    Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
    chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,\
    publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut all = Vec::new();
    for word in WORDS.split_whitespace() {
        let word = word.replace('_', " ");
        all.extend((word.len() as u32).to_be_bytes());
        all.extend(word.as_bytes());
    }
    all.extend(TAIL.as_bytes());
    all
});

#[cfg(test)]
mod tests {
    use super::*;

    fn adler(data: &[u8]) -> u32 {
        let (a, b) = data.iter().fold((1_u32, 0_u32), |(a, b), byte| {
            let a = (a + u32::from(*byte)) % 65521;
            (a, (b + a) % 65521)
        });
        b << 16 | a
    }

    #[test]
    fn the_dictionary_is_the_protocols() {
        assert_eq!((DICTIONARY.len(), adler(&DICTIONARY)), (1423, 0xe3c6_a7c2));
    }

    #[test]
    fn blocks_share_one_history_and_come_back_as_they_were() {
        let (mut pack, mut unpack) = (Deflater::new(), Inflater::new());
        let large = "x".repeat(20_000);
        for pairs in [
            &[
                ("streamType", "error"),
                ("port", "8080"),
                ("requestID", "0"),
            ][..],
            &[("streamType", "data"), ("port", "8080"), ("requestID", "0")],
            &[],
            &[("large", large.as_str())],
            &[("streamType", "data")],
        ] {
            let headers = Headers::new(pairs);
            let packed = pack.block(&headers);
            assert_eq!(unpack.block(&packed), Ok(headers), "{packed:02x?}");
        }
    }

    #[test]
    fn a_value_of_several_is_its_first() {
        let headers = Headers::new(&[("Upgrade", "a\0b")]);
        assert_eq!(headers.get("upgrade"), Some("a"));
        assert_eq!(headers.get("other"), None);
    }

    #[test]
    fn what_is_no_block_is_refused() {
        let bomb = Headers::new(&[("a", &"\0".repeat(UNPACKED + 1))]);
        for packed in [&b"\xff\xff\xff\xff"[..], &Deflater::new().block(&bomb)] {
            assert!(Inflater::new().block(packed).is_err());
        }
        for plain in [
            &b""[..],
            b"\0\0\0\x01",
            b"\0\0\0\x01\0\0\0\x05ab",
            b"\0\0\0\0x",
            b"\0\0\0\x01\0\0\0\x01\xff\0\0\0\0",
        ] {
            assert!(Headers::parse(plain).is_err(), "{plain:?}");
        }
    }
}
