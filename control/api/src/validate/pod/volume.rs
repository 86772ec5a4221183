//! Volumes and where containers mount them.

use super::{
    super::{
        names,
        node::{Errors, Node},
    },
    container::{InVolume, field_ref, resource_field_ref},
};
use crate::{FieldError, quantity::Quantity};
use std::{cmp::Ordering, collections::BTreeSet};

/// Checks every volume; answers the names of those that are well-formed.
pub(super) fn volumes<'a>(list: &Node<'a>, errors: &mut Errors) -> BTreeSet<&'a str> {
    let mut names_seen = BTreeSet::new();
    for volume in list.each() {
        let mut found = Errors::default();
        source(&volume, &mut found);
        let name = volume.get("name");
        if found.require(&name) {
            found.messages(&name, names::dns_label(name.text()));
        }
        if names_seen.contains(name.text()) {
            found.push(name.duplicate());
        }
        if found.is_empty() {
            names_seen.insert(name.text());
        }
        errors.extend(found.into_vec());
    }
    names_seen
}

/// Upstream's order of looking: the first source counts, the next ones are too many.
const SOURCES: &[&str] = &[
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

fn source(volume: &Node<'_>, errors: &mut Errors) {
    let mut any = false;
    for kind in SOURCES {
        let source = volume.get(kind);
        if !source.is_set() {
            continue;
        }
        if any {
            errors.push(source.forbidden("may not specify more than 1 volume type"));
            continue;
        }
        any = true;
        match *kind {
            "emptyDir" => {
                let limit = source.get("sizeLimit");
                if limit.is_set() && Quantity::of(Some(limit.value)).sign() == Ordering::Less {
                    errors
                        .push(limit.forbidden("SizeLimit field must be a valid resource quantity"));
                }
            }
            "hostPath" => host_path(&source, errors),
            "secret" => {
                errors.require(&source.get("secretName"));
                mode(&source.get("defaultMode"), errors);
                items(&source, errors);
            }
            "configMap" => {
                errors.require(&source.get("name"));
                mode(&source.get("defaultMode"), errors);
                items(&source, errors);
            }
            "downwardAPI" => {
                mode(&source.get("defaultMode"), errors);
                // Upstream gives no index here.
                for file in source.get("items").each() {
                    downward_file(&Node::at(file.value, source.path.clone()), errors);
                }
            }
            "projected" => projected(&source, errors),
            // Refused as a whole by the table of what is not implemented.
            _ => {}
        }
    }
    if !any {
        errors.push(volume.required("must specify a volume type"));
    }
}

const HOST_PATH_TYPES: &[&str] = &[
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];

fn host_path(source: &Node<'_>, errors: &mut Errors) {
    let path = source.get("path");
    if !errors.require(&path) {
        return;
    }
    no_backsteps(&path, errors);
    let ty = source.get("type");
    if ty.is_set() && !HOST_PATH_TYPES.contains(&ty.text()) {
        errors.push(ty.not_supported(HOST_PATH_TYPES));
    }
}

fn no_backsteps(path: &Node<'_>, errors: &mut Errors) {
    if path.text().split('/').any(|part| part == "..") {
        errors.push(path.invalid("must not contain '..'"));
    }
}

fn descending(path: &Node<'_>, errors: &mut Errors) {
    if path.text().starts_with('/') {
        errors.push(path.invalid("must be a relative path"));
    }
    no_backsteps(path, errors);
}

/// A relative path that keeps away from the names that the node's atomic writer uses.
fn not_reserved(path: &Node<'_>, errors: &mut Errors) {
    descending(path, errors);
    if path.text().starts_with("..") && !path.text().starts_with("../") {
        errors.push(path.invalid("must not start with '..'"));
    }
}

fn mode(mode: &Node<'_>, errors: &mut Errors) {
    if mode.int().is_some_and(|n| !(0..=0o777).contains(&n)) {
        errors.push(mode.invalid("must be a number between 0 and 0777 (octal), both inclusive"));
    }
}

fn items(source: &Node<'_>, errors: &mut Errors) {
    for item in source.get("items").each() {
        key_to_path(&item, errors);
    }
}

fn key_to_path(item: &Node<'_>, errors: &mut Errors) {
    errors.require(&item.get("key"));
    let path = item.get("path");
    errors.require(&path);
    not_reserved(&path, errors);
    mode(&item.get("mode"), errors);
}

const VOLUME_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

fn downward_file(file: &Node<'_>, errors: &mut Errors) {
    let path = file.get("path");
    errors.require(&path);
    not_reserved(&path, errors);
    let (field, resource) = (file.get("fieldRef"), file.get("resourceFieldRef"));
    if field.is_set() {
        field_ref(&field, VOLUME_FIELDS, errors);
        if resource.is_set() {
            let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
            errors.push(FieldError::invalid(&file.path, "resource", detail));
        }
    } else if resource.is_set() {
        resource_field_ref(&resource, InVolume::Yes, errors);
    } else {
        errors.push(file.required("one of fieldRef and resourceFieldRef is required"));
    }
    mode(&file.get("mode"), errors);
}

const MIN_TOKEN_SECONDS: i64 = 600;
const MAX_TOKEN_SECONDS: i64 = 1 << 32;

fn projected(source: &Node<'_>, errors: &mut Errors) {
    mode(&source.get("defaultMode"), errors);
    let mut paths = BTreeSet::new();
    let mut conflict = |path: &str, shown: &str, errors: &mut Errors| {
        if !path.is_empty() && !paths.insert(path.to_owned()) {
            errors.push(FieldError::invalid(
                &source.path,
                shown,
                "conflicting duplicate paths",
            ));
        }
    };
    for projection in source.get("sources").each() {
        let mut count = 0;
        for kind in ["secret", "configMap"] {
            let from = projection.get(kind);
            if !from.is_set() {
                continue;
            }
            count += 1;
            errors.require(&from.get("name"));
            for item in from.get("items").each() {
                key_to_path(&item, errors);
                conflict(item.get("path").text(), from.get("name").text(), errors);
            }
        }
        let api = projection.get("downwardAPI");
        if api.is_set() {
            count += 1;
            for file in api.get("items").each() {
                downward_file(&Node::at(file.value, api.path.clone()), errors);
                let path = file.get("path").text();
                conflict(path, path, errors);
            }
        }
        let token = projection.get("serviceAccountToken");
        if token.is_set() {
            count += 1;
            let seconds = token.get("expirationSeconds");
            match seconds.int() {
                Some(n) if n < MIN_TOKEN_SECONDS => {
                    errors.push(seconds.invalid("may not specify a duration less than 10 minutes"));
                }
                Some(n) if n > MAX_TOKEN_SECONDS => {
                    errors.push(
                        seconds.invalid("may not specify a duration larger than 2^32 seconds"),
                    );
                }
                _ => {}
            }
            // Upstream gives the volume's path here, not the source's.
            let path = token.get("path");
            let path = Node::at(path.value, source.path.child("path"));
            if path.text().is_empty() {
                errors.push(path.required(""));
            } else {
                not_reserved(&path, errors);
            }
        }
        count += usize::from(projection.get("clusterTrustBundle").is_set());
        count += usize::from(projection.get("podCertificate").is_set());
        if count > 1 {
            errors.push(projection.forbidden("may not specify more than 1 volume type per source"));
        }
        if count == 0 {
            errors.push(projection.required("must specify a volume type"));
        }
    }
}

/// Where a container mounts the volumes.
pub(super) fn mounts(container: &Node<'_>, volumes: &BTreeSet<&str>, errors: &mut Errors) {
    let list = container.get("volumeMounts");
    let mut seen = BTreeSet::new();
    for mount in list.each() {
        let name = mount.get("name");
        errors.require(&name);
        if !volumes.contains(name.text()) {
            errors.push(name.not_found());
        }
        let path = mount.get("mountPath");
        errors.require(&path);
        if !seen.insert(path.text()) {
            errors.push(path.invalid("must be unique"));
        }
        // Upstream leaves the index out of these paths.
        let (sub, expression) = (mount.get("subPath"), mount.get("subPathExpr"));
        if sub.len() > 0 {
            descending(&Node::at(sub.value, list.path.child("subPath")), errors);
        }
        if expression.len() > 0 {
            if sub.len() > 0 {
                errors.push(expression.invalid("subPathExpr and subPath are mutually exclusive"));
            }
            descending(
                &Node::at(expression.value, list.path.child("subPathExpr")),
                errors,
            );
        }
        propagation(container, &mount, &list, errors);
    }
}

fn propagation(container: &Node<'_>, mount: &Node<'_>, list: &Node<'_>, errors: &mut Errors) {
    let propagation = Node::at(
        mount.get("mountPropagation").value,
        list.path.child("mountPropagation"),
    );
    if propagation.is_set() {
        const MODES: &[&str] = &["Bidirectional", "HostToContainer", "None"];
        if !MODES.contains(&propagation.text()) {
            errors.push(propagation.not_supported(MODES));
        }
        let privileged = container.get("securityContext").get("privileged").is_true();
        if propagation.text() == "Bidirectional" && !privileged {
            errors.push(propagation.forbidden(
                "Bidirectional mount propagation is available only to privileged containers",
            ));
        }
    }
    let recursive = Node::at(
        mount.get("recursiveReadOnly").value,
        list.path.child("recursiveReadOnly"),
    );
    match recursive.text() {
        "" | "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if !mount.get("readOnly").is_true() {
                errors.push(recursive.forbidden("may only be specified when readOnly is true"));
            }
            if !matches!(propagation.text(), "" | "None") {
                errors.push(recursive.forbidden(
                    "may only be specified when mountPropagation is None or not specified",
                ));
            }
        }
        _ => errors.push(recursive.not_supported(&["Disabled", "Enabled", "IfPossible"])),
    }
}
