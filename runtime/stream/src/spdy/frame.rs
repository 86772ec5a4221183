//! Frames to bytes and back (SPDY draft 3.1, section 2.6).
//!
//! ```text
//! control: 1 | version (15) | type (16) | flags (8) | length (24) | …
//! data:    0 | stream (31)              | flags (8) | length (24) | …
//! ```
//! A data frame may have 16 MiB. It is handed on in pieces as they come, so that nobody holds one.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{
    SpdyError,
    headers::{Deflater, Headers, Inflater},
};

const VERSION: u16 = 3;
const FIN: u8 = 1;
/// The longest control frame that is read; those of Kubernetes have some hundred bytes.
const CONTROL: usize = 64 << 10;
/// The longest piece of a data frame.
const PIECE: usize = 32 << 10;
const HEADER: usize = 8;
const LENGTH: u32 = 0x00ff_ffff;
const STREAM: u32 = 0x7fff_ffff;

/// A frame, or a piece of a data frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    SynStream {
        id: u32,
        headers: Headers,
        fin: bool,
    },
    SynReply {
        id: u32,
        headers: Headers,
        fin: bool,
    },
    Reset {
        id: u32,
        status: u32,
    },
    /// Ids and values.
    Settings(Vec<(u32, u32)>),
    Ping(u32),
    GoAway {
        last: u32,
        status: u32,
    },
    Headers {
        id: u32,
        headers: Headers,
        fin: bool,
    },
    WindowUpdate {
        id: u32,
        delta: u32,
    },
    /// `fin` stands on a frame's last piece only.
    Data {
        id: u32,
        data: Bytes,
        fin: bool,
    },
}

mod kind {
    pub const SYN_STREAM: u16 = 1;
    pub const SYN_REPLY: u16 = 2;
    pub const RST_STREAM: u16 = 3;
    pub const SETTINGS: u16 = 4;
    pub const PING: u16 = 6;
    pub const GOAWAY: u16 = 7;
    pub const HEADERS: u16 = 8;
    pub const WINDOW_UPDATE: u16 = 9;
}

/// A peer's bytes as frames.
pub struct Decoder {
    buffer: BytesMut,
    inflater: Inflater,
    /// The data frame that is being read: its stream, what is left of it, whether it is the stream's last.
    data: Option<(u32, usize, bool)>,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder {
            buffer: BytesMut::new(),
            inflater: Inflater::new(),
            data: None,
        }
    }
}

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame or piece; `None` until more bytes have come.
    pub fn take(&mut self) -> Result<Option<Frame>, SpdyError> {
        loop {
            if let Some(piece) = self.piece() {
                return Ok(Some(piece));
            }
            // Within a data frame the buffer is empty now.
            let Some(header) = self.buffer.first_chunk::<HEADER>() else {
                return Ok(None);
            };
            let first = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
            let flags = header[4];
            let second = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            let length = (second & LENGTH) as usize;
            if first & !STREAM == 0 {
                if first == 0 {
                    return Err(SpdyError::Zero);
                }
                self.buffer.advance(HEADER);
                self.data = Some((first, length, flags & FIN != 0));
                continue;
            }
            let (version, kind) = ((first >> 16) as u16 & 0x7fff, first as u16);
            if version != VERSION {
                return Err(SpdyError::Version(version));
            }
            if length > CONTROL {
                return Err(SpdyError::Length(kind, length));
            }
            if self.buffer.len() < HEADER + length {
                return Ok(None);
            }
            self.buffer.advance(HEADER);
            let body = self.buffer.split_to(length).freeze();
            if let Some(frame) = self.control(kind, flags, body)? {
                return Ok(Some(frame));
            }
        }
    }

    fn piece(&mut self) -> Option<Frame> {
        let (id, left, fin) = self.data?;
        let ready = left.min(PIECE).min(self.buffer.len());
        if ready == 0 && left > 0 {
            return None;
        }
        let data = self.buffer.split_to(ready).freeze();
        let last = ready == left;
        self.data = (!last).then_some((id, left - ready, fin));
        Some(Frame::Data {
            id,
            data,
            fin: fin && last,
        })
    }

    /// `None` for types that are not known: they are passed over.
    fn control(
        &mut self,
        kind: u16,
        flags: u8,
        mut body: Bytes,
    ) -> Result<Option<Frame>, SpdyError> {
        let least = match kind {
            kind::SYN_STREAM => 10,
            kind::SYN_REPLY | kind::HEADERS | kind::SETTINGS | kind::PING => 4,
            kind::RST_STREAM | kind::GOAWAY | kind::WINDOW_UPDATE => 8,
            _ => return Ok(None),
        };
        if body.len() < least {
            return Err(SpdyError::Length(kind, body.len()));
        }
        let first = body.get_u32();
        let (id, fin) = (first & STREAM, flags & FIN != 0);
        let named = matches!(kind, kind::SYN_STREAM | kind::SYN_REPLY | kind::HEADERS);
        if named && id == 0 {
            return Err(SpdyError::Zero);
        }
        Ok(Some(match kind {
            kind::SYN_STREAM => {
                // The stream it belongs to, its priority and a slot: of no meaning here.
                body.advance(6);
                let headers = self.inflater.block(&body)?;
                Frame::SynStream { id, headers, fin }
            }
            kind::SYN_REPLY => {
                let headers = self.inflater.block(&body)?;
                Frame::SynReply { id, headers, fin }
            }
            kind::HEADERS => {
                let headers = self.inflater.block(&body)?;
                Frame::Headers { id, headers, fin }
            }
            kind::RST_STREAM => Frame::Reset {
                id,
                status: body.get_u32(),
            },
            kind::SETTINGS => {
                if body.len() != (first as usize).saturating_mul(8) {
                    return Err(SpdyError::Length(kind, body.len() + 4));
                }
                let mut all = Vec::new();
                while body.has_remaining() {
                    all.push((body.get_u32() & LENGTH, body.get_u32()));
                }
                Frame::Settings(all)
            }
            kind::PING => Frame::Ping(first),
            kind::GOAWAY => Frame::GoAway {
                last: id,
                status: body.get_u32(),
            },
            _ => Frame::WindowUpdate {
                id,
                delta: body.get_u32() & STREAM,
            },
        }))
    }
}

/// Frames as bytes.
pub struct Encoder(Deflater);

impl Default for Encoder {
    fn default() -> Self {
        Encoder(Deflater::new())
    }
}

impl Encoder {
    pub fn encode(&mut self, frame: &Frame) -> Bytes {
        let fin = |fin: &bool| if *fin { FIN } else { 0 };
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect();
        let (kind, flags, body): (u16, u8, Vec<u8>) = match frame {
            Frame::Data {
                id,
                data,
                fin: last,
            } => {
                let mut out = BytesMut::with_capacity(HEADER + data.len());
                out.put_u32(id & STREAM);
                out.put_u32(u32::from(fin(last)) << 24 | data.len() as u32 & LENGTH);
                out.put_slice(data);
                return out.freeze();
            }
            Frame::SynStream {
                id,
                headers,
                fin: last,
            } => {
                let mut body: Vec<u8> = words(&[*id, 0]);
                body.extend([0, 0]);
                body.extend(self.0.block(headers));
                (kind::SYN_STREAM, fin(last), body)
            }
            Frame::SynReply {
                id,
                headers,
                fin: last,
            } => {
                let mut body: Vec<u8> = words(&[*id]);
                body.extend(self.0.block(headers));
                (kind::SYN_REPLY, fin(last), body)
            }
            Frame::Headers {
                id,
                headers,
                fin: last,
            } => {
                let mut body: Vec<u8> = words(&[*id]);
                body.extend(self.0.block(headers));
                (kind::HEADERS, fin(last), body)
            }
            Frame::Reset { id, status } => (kind::RST_STREAM, 0, words(&[*id, *status])),
            Frame::Settings(all) => {
                let mut body: Vec<u8> = words(&[all.len() as u32]);
                body.extend(
                    all.iter()
                        .flat_map(|(id, value)| [id & LENGTH, *value])
                        .flat_map(u32::to_be_bytes),
                );
                (kind::SETTINGS, 0, body)
            }
            Frame::Ping(id) => (kind::PING, 0, words(&[*id])),
            Frame::GoAway { last, status } => (kind::GOAWAY, 0, words(&[*last, *status])),
            Frame::WindowUpdate { id, delta } => (kind::WINDOW_UPDATE, 0, words(&[*id, *delta])),
        };
        let mut out = BytesMut::with_capacity(HEADER + body.len());
        out.put_u16(0x8000 | VERSION);
        out.put_u16(kind);
        out.put_u32(u32::from(flags) << 24 | body.len() as u32 & LENGTH);
        out.put_slice(&body);
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(bytes: &[u8]) -> Result<Vec<Frame>, SpdyError> {
        let mut decoder = Decoder::default();
        decoder.push(bytes);
        let mut all = Vec::new();
        while let Some(frame) = decoder.take()? {
            all.push(frame);
        }
        Ok(all)
    }

    #[test]
    fn frames_have_the_drafts_layout() {
        for (frame, expect) in [
            (
                Frame::Reset { id: 3, status: 5 },
                &b"\x80\x03\0\x03\0\0\0\x08\0\0\0\x03\0\0\0\x05"[..],
            ),
            (
                Frame::Settings(vec![(7, 1024)]),
                b"\x80\x03\0\x04\0\0\0\x0c\0\0\0\x01\0\0\0\x07\0\0\x04\0",
            ),
            (Frame::Ping(2), b"\x80\x03\0\x06\0\0\0\x04\0\0\0\x02"),
            (
                Frame::GoAway { last: 9, status: 0 },
                b"\x80\x03\0\x07\0\0\0\x08\0\0\0\x09\0\0\0\0",
            ),
            (
                Frame::WindowUpdate { id: 0, delta: 64 },
                b"\x80\x03\0\x09\0\0\0\x08\0\0\0\0\0\0\0\x40",
            ),
            (
                Frame::Data {
                    id: 1,
                    data: Bytes::from_static(b"abc"),
                    fin: true,
                },
                b"\0\0\0\x01\x01\0\0\x03abc",
            ),
            (
                Frame::Data {
                    id: 1,
                    data: Bytes::new(),
                    fin: false,
                },
                b"\0\0\0\x01\0\0\0\0",
            ),
        ] {
            assert_eq!(Encoder::default().encode(&frame), expect, "{frame:?}");
            assert_eq!(decoded(expect), Ok(vec![frame]));
        }
    }

    /// What a client of Go's spdystream sends to open a stream with `streamtype: error`, `port: 80`, `requestid: 0`.
    #[test]
    fn streams_are_opened_byte_by_byte_too() {
        let headers = Headers::new(&[("streamType", "error"), ("port", "80"), ("requestID", "0")]);
        let frames = [
            Frame::SynStream {
                id: 1,
                headers: headers.clone(),
                fin: false,
            },
            Frame::SynReply {
                id: 1,
                headers: Headers::default(),
                fin: false,
            },
            Frame::Headers {
                id: 1,
                headers,
                fin: true,
            },
        ];
        let mut encoder = Encoder::default();
        let bytes: Vec<u8> = frames
            .iter()
            .flat_map(|frame| encoder.encode(frame))
            .collect();
        // Version and type, then the stream's number, then zlib with a dictionary: 0x78, and bit 5 of what follows.
        assert_eq!(
            (&bytes[..4], &bytes[8..12], bytes[18], bytes[19] & 0x20),
            (&b"\x80\x03\0\x01"[..], &b"\0\0\0\x01"[..], 0x78, 0x20)
        );
        let mut decoder = Decoder::default();
        let mut found = Vec::new();
        for byte in bytes {
            decoder.push(&[byte]);
            found.extend(decoder.take().expect("frames"));
        }
        assert_eq!(found, frames);
    }

    #[test]
    fn a_large_data_frame_comes_in_pieces_and_ends_once() {
        let data = Bytes::from(vec![7; 3 * PIECE + 5]);
        let frame = Frame::Data {
            id: 5,
            data: data.clone(),
            fin: true,
        };
        let mut bytes = Encoder::default().encode(&frame).to_vec();
        bytes.extend(b"\x80\x03\0\x06\0\0\0\x04\0\0\0\x01");
        let pieces = decoded(&bytes).expect("frames");
        let (ping, pieces) = pieces.split_last().expect("some");
        assert_eq!(ping, &Frame::Ping(1));
        let mut whole = Vec::new();
        for (n, piece) in pieces.iter().enumerate() {
            let Frame::Data { id: 5, data, fin } = piece else {
                panic!("{piece:?}")
            };
            assert_eq!(*fin, n == pieces.len() - 1);
            whole.extend_from_slice(data);
        }
        assert_eq!((whole, pieces.len()), (data.to_vec(), 4));
    }

    #[test]
    fn unknown_frames_are_passed_over_and_wrong_ones_end_it() {
        let unknown = b"\x80\x03\0\x0b\0\0\0\x02xx\x80\x03\0\x06\0\0\0\x04\0\0\0\x01";
        assert_eq!(decoded(unknown), Ok(vec![Frame::Ping(1)]));
        for (bytes, expect) in [
            (
                &b"\x80\x02\0\x06\0\0\0\x04\0\0\0\x01"[..],
                SpdyError::Version(2),
            ),
            (
                b"\x80\x03\0\x03\0\0\0\x04\0\0\0\x01",
                SpdyError::Length(3, 4),
            ),
            (b"\x80\x03\0\x01\0\x10\0\0", SpdyError::Length(1, 1 << 20)),
            (
                b"\x80\x03\0\x04\0\0\0\x04\0\0\0\x02",
                SpdyError::Length(4, 4),
            ),
            (b"\0\0\0\0\0\0\0\x01x", SpdyError::Zero),
            (b"\x80\x03\0\x02\0\0\0\x04\0\0\0\0", SpdyError::Zero),
        ] {
            assert_eq!(decoded(bytes), Err(expect), "{bytes:?}");
        }
        // Half of anything is no mistake.
        for half in [
            &b"\x80\x03"[..],
            b"\0\0\0\x01\0\0\0\x09",
            b"\x80\x03\0\x01\0\0\0\x20abc",
        ] {
            assert_eq!(decoded(half), Ok(vec![]), "{half:?}");
        }
    }

    proptest::proptest! {
        /// Whatever comes, in whatever pieces: frames or an error, and no more is held than a control frame.
        #[test]
        fn mangled_frames_are_frames_or_errors(
            pieces in proptest::collection::vec(proptest::collection::vec(proptest::num::u8::ANY, 0..200), 0..20),
            at in 0_usize..400,
            to in proptest::num::u8::ANY,
        ) {
            let headers = Headers::new(&[("streamType", "data"), ("port", "80"), ("requestID", "7")]);
            let mut encoder = Encoder::default();
            let mut bytes = Vec::new();
            for (id, piece) in (1..).step_by(2).zip(&pieces) {
                bytes.extend(encoder.encode(&Frame::SynStream { id, headers: headers.clone(), fin: false }));
                bytes.extend(encoder.encode(&Frame::Data { id, data: piece.clone().into(), fin: true }));
                bytes.extend(piece);
            }
            if let Some(byte) = bytes.get_mut(at) {
                *byte = to;
            }
            let mut decoder = Decoder::default();
            'all: for piece in bytes.chunks(61) {
                decoder.push(piece);
                loop {
                    match decoder.take() {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => break 'all,
                    }
                }
                assert!(decoder.buffer.len() <= HEADER + CONTROL);
            }
        }
    }
}
