//! A CNI plugin.
fn main() {}
