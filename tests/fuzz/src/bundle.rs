//! A bundle's `config.json`, to its plan: whoever starts a container hands it over, and parts of it come from an image.

use std::path::{Component, Path};

use kernelet_spec::{ContainerId, ContainerPlan};
use oci_spec::runtime::Spec;

/// Reads a configuration; what is accepted keeps its promises, and survives the way to disk.
pub fn bundle(data: &[u8]) {
    let Ok(spec) = serde_json::from_slice::<Spec>(data) else {
        return;
    };
    let id = ContainerId::new("fuzz").expect("a good name");
    let Ok(plan) = kernelet_spec::from_oci(&spec, id, Path::new("/bundle")) else {
        return;
    };
    if kernelet_spec::validate(&plan).is_err() {
        return;
    }
    promises(&plan);
    let text = serde_json::to_vec(&plan).expect("a plan can be written");
    let read: ContainerPlan = serde_json::from_slice(&text).expect("what was written can be read");
    assert_eq!(read, plan);
    if let kernelet_spec::Seccomp::Profile(profile) = &plan.process.seccomp {
        crate::filter::check(profile);
    }
}

fn promises(plan: &ContainerPlan) {
    let stays = |path: &Path| {
        path.is_absolute() && !path.components().any(|part| part == Component::ParentDir)
    };
    assert!(plan.mounts.iter().all(|mount| stays(&mount.destination)));
    assert!(plan.masked_paths.iter().all(|path| stays(path)));
    assert!(plan.readonly_paths.iter().all(|path| stays(path)));
    assert!(stays(&plan.process.cwd) && stays(Path::new(&plan.cgroup)));
    for device in &plan.devices {
        assert!(stays(&device.path) && device.path.starts_with("/dev"));
    }
    for (name, value) in &plan.sysctls {
        assert!(!name.split(['.', '/']).any(str::is_empty), "{name:?}");
        assert!(!value.contains(['\n', '\0']), "{value:?}");
    }
    assert!(
        plan.process
            .user
            .additional_gids
            .iter()
            .all(|gid| *gid <= i32::MAX as u32)
    );
}
