//! Packs the descriptions of the served kinds' types and fields, for `src/spec/descriptions.rs`.
//!
//! They are upstream's texts, out of `k8s-openapi`'s JSON schemas. Taking them from there while building keeps them out
//! of this repository, and out of the program but for some tens of KiB. What the values of enumerations mean stands
//! only in `facts/values.txt`.

use std::{env, fs, io::Write, path::Path};

use flate2::{Compression, write::GzEncoder};
use k8s_openapi::{
    api::{
        apps::v1 as apps, authentication::v1 as authentication, authorization::v1 as authorization,
        autoscaling::v1 as autoscaling, certificates::v1 as certificates,
        coordination::v1 as coordination, core::v1 as core, discovery::v1 as discovery,
        events::v1 as events, flowcontrol::v1 as flowcontrol, policy::v1 as policy,
        rbac::v1 as rbac, scheduling::v1 as scheduling,
    },
    apimachinery::pkg::apis::meta::v1 as meta,
};
use schemars::SchemaGenerator;
use serde_json::Value;

const VALUES: &str = "facts/values.txt";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={VALUES}");
    let mut generator = SchemaGenerator::default();
    macro_rules! types {
        ($($ty:ty),+ $(,)?) => { $(generator.subschema_for::<$ty>();)+ };
    }
    types!(
        core::Binding,
        core::ConfigMap,
        core::Endpoints,
        core::Event,
        core::Namespace,
        core::Node,
        core::Pod,
        core::ReplicationController,
        core::Secret,
        core::Service,
        core::ServiceAccount,
        apps::ControllerRevision,
        apps::DaemonSet,
        apps::Deployment,
        apps::ReplicaSet,
        authentication::SelfSubjectReview,
        authentication::TokenRequest,
        authentication::TokenReview,
        authorization::LocalSubjectAccessReview,
        authorization::SelfSubjectAccessReview,
        authorization::SelfSubjectRulesReview,
        authorization::SubjectAccessReview,
        autoscaling::Scale,
        certificates::CertificateSigningRequest,
        coordination::Lease,
        discovery::EndpointSlice,
        events::Event,
        flowcontrol::FlowSchema,
        flowcontrol::PriorityLevelConfiguration,
        policy::Eviction,
        policy::PodDisruptionBudget,
        rbac::ClusterRole,
        rbac::ClusterRoleBinding,
        rbac::Role,
        rbac::RoleBinding,
        scheduling::PriorityClass,
        core::LimitRange,
        core::ResourceQuota,
        meta::APIResourceList,
        meta::DeleteOptions,
        meta::ListMeta,
        meta::Status,
        meta::WatchEvent<core::Pod>,
    );

    let mut text = String::new();
    let mut add = |ty: &str, field: &str, description: Option<&Value>| {
        if let Some(words) = description.and_then(Value::as_str) {
            text.push_str(&format!("{ty}\t{field}\t{words}\u{1e}"));
        }
    };
    for (name, schema) in generator.definitions() {
        add(name, "", schema.get("description"));
        for (field, property) in schema
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            add(name, field, property.get("description"));
        }
    }
    text.push('\u{1d}');
    let mut wanted = false;
    let rows = fs::read_to_string(VALUES).expect("the table of values is committed");
    for line in rows.lines() {
        if !line.starts_with('\t') {
            let fields: Vec<&str> = line
                .split(',')
                .filter(|field| {
                    let ty = field.split(' ').next().unwrap_or_default();
                    generator
                        .definitions()
                        .contains_key(&format!("io.k8s.api.{ty}"))
                })
                .collect();
            wanted = !fields.is_empty();
            text.push_str(&fields.join(","));
        } else if wanted {
            text.push_str(line);
        }
        if wanted {
            text.push('\n');
        }
    }
    let folder = env::var("OUT_DIR").expect("cargo tells build scripts where to write");
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder
        .write_all(text.as_bytes())
        .expect("writing to memory doesn't fail");
    let packed = encoder.finish().expect("writing to memory doesn't fail");
    fs::write(Path::new(&folder).join("descriptions.gz"), packed)
        .expect("the build folder can be written to");
}
