//! Exec on the wire: a process's streams, its terminal's size and its end, over one WebSocket.
//!
//! ```text
//! upgrade request ─ Handshake ─► 101 ─ serve ─┬─ channel 0 ──► stdin         4 ──► size of the terminal
//!                                             ├─ channel 1, 2 ◄── stdout, stderr
//!                                             └─ channel 3 ◄── how it ended; then the connection closes
//! ```
//! The node drives this. The API server splices the bytes and knows nothing of them.
//!
//! **Invariant:** knows no pod, no path and no identity: streams in, an outcome in, frames out.

mod handshake;
mod outcome;
mod pipe;
mod protocol;
mod session;

pub use handshake::{Handshake, HandshakeError};
pub use outcome::Outcome;
pub use pipe::Pipe;
pub use protocol::{Channel, Event, Malformed, Protocol, Size};
pub use session::{Ended, Limits, Streams, serve};
