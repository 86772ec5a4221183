//! The example's HTTP echo server.
fn main() {}
