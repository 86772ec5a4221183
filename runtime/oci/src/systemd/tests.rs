//! The wire against bytes that another implementation (GLib's) wrote, and names.

use super::{
    Unit, expand,
    wire::{Kind, Message, START, Value},
};
use kernelet_spec::ContainerId;

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

/// By `Gio.DBusMessage.to_blob`.
const CALL: &str = "6c010001b000000002000000b300000001016f00190000002f6f72672f667265656465736b746f702f73797374656d64310000000000000002017300200000006f72672e667265656465736b746f702e73797374656d64312e4d616e61676572000000000000000006017300180000006f72672e667265656465736b746f702e73797374656d64310000000000000000080167001073736128737629612873612873762929000000030173001200000053746172745472616e7369656e74556e697400000000000009000000612d622e73636f7065000000070000007265706c61636500870000000800000044656c6567617465000162000100000000000000040000005049447300026175000000000400000007000000090000004d656d6f72794d6178000174000000000000000000001000000000000b000000446576696365416c6c6f770005612873732900001700000000000000090000002f6465762f6e756c6c00000002000000727700000000000000000000";
const SIGNAL: &str = "6c04010141000000090000008b00000007017300040000003a312e310000000001016f00190000002f6f72672f667265656465736b746f702f73797374656d64310000000000000002017300200000006f72672e667265656465736b746f702e73797374656d64312e4d616e6167657200000000000000000801670004756f737300000000000000030173000a0000004a6f6252656d6f766564000000000000050000001f0000002f6f72672f667265656465736b746f702f73797374656d64312f6a6f622f350009000000612d622e73636f706500000004000000646f6e6500";

fn call() -> Message {
    let pair = |name: &str, value: Value| Value::Struct(vec![Value::text(name), value.variant()]);
    let device = Value::Struct(vec![Value::text("/dev/null"), Value::text("rw")]);
    let properties = vec![
        pair("Delegate", Value::Bool(true)),
        pair("PIDs", Value::Array("u".into(), vec![Value::Uint32(7)])),
        pair("MemoryMax", Value::Uint64(1 << 20)),
        pair("DeviceAllow", Value::Array("(ss)".into(), vec![device])),
    ];
    let body = vec![
        Value::text("a-b.scope"),
        Value::text("replace"),
        Value::Array("(sv)".into(), properties),
        Value::Array("(sa(sv))".into(), vec![]),
    ];
    let mut call = Message::call(
        super::NAME,
        super::PATH,
        super::MANAGER,
        "StartTransientUnit",
        body,
    );
    call.serial = 2;
    call
}

#[test]
fn a_call_of_another_implementation_is_understood() {
    assert_eq!(Message::from_bytes(&bytes(CALL)).unwrap(), call());
}

#[test]
fn what_is_written_is_understood_and_as_long_as_the_others() {
    let ours = call().to_bytes();
    // Header fields may stand in any order; the body may not differ.
    assert_eq!(ours.len(), bytes(CALL).len());
    let body = u32::from_le_bytes(ours[4..8].try_into().unwrap()) as usize;
    assert_eq!(ours[ours.len() - body..], bytes(CALL)[ours.len() - body..]);
    assert_eq!(Message::from_bytes(&ours).unwrap(), call());
    let start: [u8; START] = ours[..START].try_into().unwrap();
    assert_eq!(Message::length(&start), Some(ours.len()));
}

#[test]
fn a_signal_is_understood() {
    let signal = Message::from_bytes(&bytes(SIGNAL)).unwrap();
    assert_eq!(
        (signal.kind, signal.member.as_deref()),
        (Kind::Signal, Some("JobRemoved"))
    );
    let job = Value::Path("/org/freedesktop/systemd1/job/5".into());
    assert_eq!(
        signal.body,
        [
            Value::Uint32(5),
            job,
            Value::text("a-b.scope"),
            Value::text("done")
        ]
    );
}

#[test]
fn broken_messages_are_refused() {
    let whole = bytes(CALL);
    for end in 0..whole.len() {
        assert_eq!(Message::from_bytes(&whole[..end]), None, "{end}");
    }
    for at in 0..whole.len() {
        let mut broken = whole.clone();
        broken[at] ^= 0x55;
        // Whatever it makes of it, it comes back.
        let _ = Message::from_bytes(&broken);
    }
}

#[test]
fn units_have_the_names_that_runc_gives_them() {
    let id = ContainerId::new("c1").unwrap();
    let unit = |path: &str| Unit::of(path, &id, false).map_err(|e| e.to_string());
    let named = unit("machine.slice:libpod:abc").unwrap();
    assert_eq!(
        (named.name.as_str(), named.slice.as_str()),
        ("libpod-abc.scope", "machine.slice")
    );
    assert_eq!(named.cgroup().unwrap(), "/machine.slice/libpod-abc.scope");
    let default = unit("").unwrap();
    assert_eq!(
        default.cgroup().unwrap(),
        "/system.slice/kernelet-oci-c1.scope"
    );
    assert_eq!(
        unit("/a/b").unwrap_err(),
        "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got \"/a/b\" instead"
    );
    assert_eq!(
        expand("a-b-c.slice").unwrap(),
        "/a.slice/a-b.slice/a-b-c.slice"
    );
    assert_eq!(expand("-.slice").unwrap(), "");
    for bad in ["a", ".slice", "a/b.slice", "a--b.slice", "-a.slice"] {
        assert!(expand(bad).is_err(), "{bad}");
    }
}

/// A struct without fields takes no bytes: an array of them would never come to its end.
#[test]
fn an_array_of_nothing_is_refused() {
    let mut message = call();
    message.body = vec![Value::Array("()".into(), Vec::new())];
    let mut bytes = message.to_bytes();
    let array = bytes.len() - bytes[4] as usize;
    bytes[array] = 8;
    bytes.resize(array + 16, 0);
    bytes[4] = 16;
    assert_eq!(Message::from_bytes(&bytes), None);
}
