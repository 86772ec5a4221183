//! kernelet-oci: runc's command line.
fn main() {}
