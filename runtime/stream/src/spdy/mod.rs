//! SPDY/3.1 as Kubernetes' clients speak it: the frames, and a connection's end that accepts streams.

mod frame;
mod headers;

pub use frame::{Decoder, Encoder, Frame};
pub use headers::Headers;

/// Why a peer's bytes are no SPDY/3.1: the connection is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpdyError {
    #[error("a frame of SPDY version {0}, not 3")]
    Version(u16),
    #[error("a control frame of type {0} has a length of {1} bytes")]
    Length(u16, usize),
    #[error("a block of headers is wrong: {0}")]
    Headers(&'static str),
    #[error("a frame names stream 0")]
    Zero,
}
