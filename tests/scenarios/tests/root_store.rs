//! `kernelet store`: a cluster that lost its store has it again from the backup.

use std::fs;

use kernelet_scenarios::{Machine, skip_unless_root};

#[test]
fn a_lost_store_comes_back_from_its_backup() {
    skip_unless_root!();
    let machine = Machine::new();
    machine.up();
    machine
        .kubectl(&["create", "configmap", "kept", "--from-literal=a=1"])
        .ok();
    let uid = machine.get(&["configmap", "kept"])["metadata"]["uid"].clone();
    let file = machine.dir().join("backup");
    let path = file.to_str().unwrap();

    let in_use = machine.kernelet(&["store", "backup", path]);
    assert_ne!(in_use.code, 0);
    assert!(in_use.stderr.contains("in use"), "{}", in_use.stderr);
    assert!(!file.exists());

    machine.kernelet(&["down"]).ok();
    machine.kernelet(&["store", "compact"]).ok();
    machine.kernelet(&["store", "check"]).ok();
    machine.kernelet(&["store", "backup", path]).ok();
    let over = machine.kernelet(&["store", "restore", path]);
    assert_ne!(over.code, 0, "a store that is there is not overwritten");

    machine.up();
    machine.kubectl(&["delete", "configmap", "kept"]).ok();
    machine
        .kubectl(&["create", "configmap", "later", "--from-literal=a=1"])
        .ok();
    machine.kernelet(&["down"]).ok();
    fs::remove_dir_all(machine.data_dir().join("store")).unwrap();

    let cut = machine.dir().join("cut");
    let bytes = fs::read(&file).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let broken = machine.kernelet(&["store", "restore", cut.to_str().unwrap()]);
    assert_ne!(broken.code, 0);
    assert!(broken.stderr.contains("cut"), "{}", broken.stderr);

    machine.kernelet(&["store", "restore", path]).ok();
    machine.up();
    assert_eq!(machine.get(&["configmap", "kept"])["metadata"]["uid"], uid);
    let later = machine.kubectl(&["get", "configmap", "later"]);
    assert_ne!(later.code, 0);
    assert!(later.stderr.contains("NotFound"), "{}", later.stderr);
}
