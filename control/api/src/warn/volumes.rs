//! Volumes of kinds that are gone, and files of one volume that overlay each other.

use crate::validate::node::Node;

const DEPRECATED: [(&str, &str, &str); 9] = [
    (
        "photonPersistentDisk",
        "photonPersistentDisk",
        "deprecated in v1.11, non-functional in v1.16+",
    ),
    (
        "gitRepo",
        "gitRepo",
        "deprecated in v1.11, and disabled by default in v1.33+",
    ),
    (
        "scaleIO",
        "scaleIO",
        "deprecated in v1.16, non-functional in v1.22+",
    ),
    (
        "flocker",
        "flocker",
        "deprecated in v1.22, non-functional in v1.25+",
    ),
    (
        "storageos",
        "storageOS",
        "deprecated in v1.22, non-functional in v1.25+",
    ),
    (
        "quobyte",
        "quobyte",
        "deprecated in v1.22, non-functional in v1.25+",
    ),
    (
        "glusterfs",
        "glusterfs",
        "deprecated in v1.25, non-functional in v1.26+",
    ),
    (
        "cephfs",
        "cephfs",
        "deprecated in v1.28, non-functional in v1.31+",
    ),
    (
        "rbd",
        "rbd",
        "deprecated in v1.28, non-functional in v1.31+",
    ),
];

pub(super) fn deprecated(spec: &Node<'_>, warnings: &mut Vec<String>) {
    for volume in spec.get("volumes").each() {
        for (field, shown, message) in DEPRECATED {
            if volume.get(field).is_set() {
                warnings.push(format!("{}: {message}", volume.path.child(shown)));
            }
        }
    }
}

/// A file in a volume and where it comes from (empty where there is only one source).
#[derive(Clone, PartialEq, Eq)]
struct File {
    path: String,
    source: String,
}

impl File {
    fn shown(&self) -> String {
        if self.source.is_empty() {
            format!("{:?}", self.path)
        } else {
            format!("{:?} ({})", self.path, self.source)
        }
    }
}

pub(super) fn overlapping(spec: &Node<'_>, warnings: &mut Vec<String>) {
    for volume in spec.get("volumes").each() {
        let name = volume.get("name").text();
        let mut tell = |what: &str, clashes: Vec<String>| {
            let told = clashes
                .into_iter()
                .map(|clash| format!("volume {name:?} ({what}): overlapping paths: {clash}"));
            warnings.extend(told);
        };
        let (config, secret) = (volume.get("configMap"), volume.get("secret"));
        if config.is_set() {
            let what = format!("ConfigMap {:?}", config.get("name").text());
            tell(&what, clashes(items(&config, "")));
        }
        if secret.is_set() {
            let what = format!("Secret {:?}", secret.get("secretName").text());
            tell(&what, clashes(items(&secret, "")));
        }
        if volume.get("downwardAPI").is_set() {
            tell(
                "DownwardAPI",
                clashes(items(&volume.get("downwardAPI"), "")),
            );
        }
        let mut files = Vec::new();
        for source in volume.get("projected").get("sources").each() {
            if source.map().is_some_and(serde_json::Map::is_empty) {
                warnings.push(format!(
                    "volume {name:?} (Projected) has no sources provided"
                ));
                continue;
            }
            files.extend(projected(&source));
        }
        let told = clashes(files)
            .into_iter()
            .map(|clash| format!("volume {name:?} (Projected): overlapping paths: {clash}"));
        warnings.extend(told);
    }
}

fn items(source: &Node<'_>, from: &str) -> Vec<File> {
    let items = source.get("items");
    items
        .each()
        .map(|item| File {
            path: item.get("path").text().to_owned(),
            source: from.to_owned(),
        })
        .collect()
}

fn projected(source: &Node<'_>) -> Vec<File> {
    let get = |field: &str| Some(source.get(field)).filter(Node::is_set);
    let file = |path: &Node<'_>, source: String| File {
        path: path.text().to_owned(),
        source,
    };
    if let Some(config) = get("configMap").filter(|c| c.get("items").is_set()) {
        let name = config.get("name").text();
        return items(&config, &format!("ConfigMap {name:?}"));
    }
    if let Some(secret) = get("secret").filter(|s| s.get("items").is_set()) {
        let name = secret.get("name").text();
        return items(&secret, &format!("Secret {name:?}"));
    }
    if let Some(downward) = get("downwardAPI") {
        return items(&downward, "DownwardAPI");
    }
    if let Some(token) = get("serviceAccountToken") {
        return vec![file(&token.get("path"), "ServiceAccountToken".to_owned())];
    }
    if let Some(bundle) = get("clusterTrustBundle") {
        let name = match bundle.get("name").text() {
            "" => bundle.get("signerName").text(),
            name => name,
        };
        let from = format!("ClusterTrustBundle {name:?}");
        return vec![file(&bundle.get("path"), from)];
    }
    let Some(certificate) = get("podCertificate") else {
        return vec![];
    };
    [
        ("certificateChainPath", "PodCertificate chain"),
        ("keyPath", "PodCertificate key"),
        ("credentialBundlePath", "PodCertificate credential bundle"),
    ]
    .into_iter()
    .filter(|(field, _)| !certificate.get(field).text().is_empty())
    .map(|(field, from)| file(&certificate.get(field), from.to_owned()))
    .collect()
}

fn clashes(files: Vec<File>) -> Vec<String> {
    let mut told = Vec::new();
    let mut known: Vec<File> = Vec::new();
    for mut file in files {
        file.path = file.path.trim_end_matches('/').to_owned();
        let within = |a: &str, b: &str| format!("{a}/").starts_with(&format!("{b}/"));
        for other in &known {
            let both = !file.path.is_empty() && !other.path.is_empty();
            if both && (within(&file.path, &other.path) || within(&other.path, &file.path)) {
                told.push(format!("{} with {}", file.shown(), other.shown()));
            }
        }
        known.push(file);
    }
    told
}
