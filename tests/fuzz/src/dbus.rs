//! What a message bus sends us.

use crate::dbus_wire::{Message, START, Value};

/// A message, and what it says written and read again.
pub fn message(data: &[u8]) {
    if let Some(start) = data.first_chunk::<START>() {
        let _ = Message::length(start);
    }
    let Some(message) = Message::from_bytes(data) else {
        return;
    };
    let bytes = message.to_bytes();
    let length = Message::length(bytes.first_chunk().expect("a whole message"));
    assert_eq!(length, Some(bytes.len()));
    let again = Message::from_bytes(&bytes).expect("what was written can be read");
    assert!(same(&message.body, &again.body), "{message:?}\n{again:?}");
}

/// Equal, where a number that is none equals itself.
fn same(left: &[Value], right: &[Value]) -> bool {
    format!("{left:?}") == format!("{right:?}")
}
