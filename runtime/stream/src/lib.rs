//! Sessions on the wire: exec and attach (a process's streams, its terminal's size and its end) and port-forward
//! (connections to a pod's ports), over WebSocket, over SPDY/3.1, and over SPDY inside WebSocket.
//!
//! ```text
//! upgrade request ─ Handshake ─► 101 ─┬─ serve ───┬─ stdin, sizes of the terminal ──► the process
//!                                     │           └─ stdout, stderr, how it ended ◄── the process
//!                                     └─ forward ─── pairs of streams ◄─► what `Dial` connects
//! ```
//! The node drives this. The API server splices the bytes and knows nothing of them.
//!
//! **Invariant:** knows no pod, no path and no identity: streams in, an outcome in, frames out.

mod forward;
mod handshake;
mod mux;
mod outcome;
mod pipe;
mod protocol;
mod session;
pub mod spdy;

pub use forward::{Dial, forward};
pub use handshake::{Handshake, HandshakeError};
pub use outcome::Outcome;
pub use pipe::Pipe;
pub use protocol::{Channels, Command, Forward, Size, Version};
pub use session::{End, Ended, Limits, StdinEnd, Streams, Wants, serve};
