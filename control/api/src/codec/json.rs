//! JSON bytes to a tree, with duplicate keys told by path.

use crate::Value;

pub(super) fn parse(body: &[u8]) -> Result<(Value, Vec<String>), String> {
    let _ = body;
    todo!()
}
