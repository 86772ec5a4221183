//! Which requests are signed, which are approved, how long they are kept.

use super::{
    kept_for,
    request::{Approval, Refusal, Request, approval, check, has_all},
};
use k8s_openapi::ByteString;
use k8s_openapi::api::{
    certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec},
    core::v1::Node,
};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use serde_json::json;
use std::time::Duration;

fn pem(common_name: &str, organization: &str, names: &[&str]) -> ByteString {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params
        .distinguished_name
        .push(DnType::OrganizationName, organization);
    params.subject_alt_names = names
        .iter()
        .map(|name| match (name.parse(), name.contains('@')) {
            (Ok(ip), _) => SanType::IpAddress(ip),
            (_, true) => SanType::Rfc822Name((*name).try_into().expect("ASCII")),
            _ => SanType::DnsName((*name).try_into().expect("ASCII")),
        })
        .collect();
    let key = KeyPair::generate().expect("a key");
    let request = params.serialize_request(&key).expect("a request");
    ByteString(request.pem().expect("PEM").into_bytes())
}

fn spec(signer: &str, request: ByteString, usages: &[&str]) -> CertificateSigningRequestSpec {
    CertificateSigningRequestSpec {
        request,
        signer_name: format!("kubernetes.io/{signer}"),
        usages: Some(usages.iter().map(|&usage| usage.to_owned()).collect()),
        username: Some("system:node:a".to_owned()),
        groups: Some(vec!["system:nodes".to_owned()]),
        ..CertificateSigningRequestSpec::default()
    }
}

const SERVING: [&str; 2] = ["digital signature", "server auth"];
const CLIENT: [&str; 2] = ["digital signature", "client auth"];

#[test]
fn each_signer_signs_one_form_only() {
    let (node, nodes) = ("system:node:a", "system:nodes");
    let cases: Vec<(&str, ByteString, &[&str], Option<Refusal>)> = vec![
        (
            "kubelet-serving",
            pem(node, nodes, &["a", "10.0.0.1"]),
            &SERVING,
            None,
        ),
        (
            "kubelet-serving",
            pem(node, nodes, &[]),
            &SERVING,
            Some(Refusal::NoNames),
        ),
        (
            "kubelet-serving",
            pem(node, "x", &["a"]),
            &SERVING,
            Some(Refusal::Organization),
        ),
        (
            "kubelet-serving",
            pem("eve", nodes, &["a"]),
            &SERVING,
            Some(Refusal::CommonName),
        ),
        (
            "kubelet-serving",
            pem(node, nodes, &["a", "x@y"]),
            &SERVING,
            Some(Refusal::Emails),
        ),
        (
            "kubelet-serving",
            pem(node, nodes, &["a"]),
            &CLIENT,
            Some(Refusal::Usages(
                "digital signature key encipherment server auth",
            )),
        ),
        (
            "kube-apiserver-client-kubelet",
            pem(node, nodes, &[]),
            &CLIENT,
            None,
        ),
        (
            "kube-apiserver-client-kubelet",
            pem(node, nodes, &["a"]),
            &CLIENT,
            Some(Refusal::DnsNames),
        ),
        (
            "kube-apiserver-client-kubelet",
            pem(node, nodes, &[]),
            &SERVING,
            Some(Refusal::Usages(
                "client auth digital signature key encipherment",
            )),
        ),
        (
            "kube-apiserver-client",
            pem("jane", "dev", &[]),
            &CLIENT,
            None,
        ),
        (
            "kube-apiserver-client",
            pem("jane", "system:masters", &[]),
            &CLIENT,
            Some(Refusal::Masters),
        ),
        ("legacy-unknown", pem("jane", "dev", &["a"]), &SERVING, None),
    ];
    for (signer, request, usages, expected) in cases {
        let checked = check(&spec(signer, request, usages));
        assert_eq!(checked.err(), expected, "{signer}");
    }
    let broken = spec(
        "kube-apiserver-client",
        ByteString(b"nonsense".to_vec()),
        &CLIENT,
    );
    assert!(matches!(check(&broken), Err(Refusal::Unreadable(_))));
}

#[test]
fn only_nodes_requests_for_themselves_are_approved_without_a_person() {
    let request = pem("system:node:a", "system:nodes", &[]);
    let own = spec("kube-apiserver-client-kubelet", request.clone(), &CLIENT);
    let parsed = check(&own).expect("well-formed");
    let tried = |spec: &CertificateSigningRequestSpec| match approval(spec, &parsed) {
        Approval::IfMayCreate(permissions) => {
            let names = permissions.iter().map(|permission| permission.subresource);
            names.collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(tried(&own), ["selfnodeclient", "nodeclient"]);
    let joining = CertificateSigningRequestSpec {
        username: Some("system:bootstrap:abc".to_owned()),
        groups: Some(vec!["system:bootstrappers".to_owned()]),
        ..own
    };
    assert_eq!(tried(&joining), ["nodeclient"]);
    let serving = spec("kubelet-serving", request.clone(), &SERVING);
    assert_eq!(
        approval(&serving, &parsed),
        Approval::IfNodeHas(parsed.clone())
    );
    let for_another = CertificateSigningRequestSpec {
        username: Some("system:node:b".to_owned()),
        ..serving
    };
    assert_eq!(approval(&for_another, &parsed), Approval::Never);
    let person = spec("kube-apiserver-client", request, &CLIENT);
    assert_eq!(approval(&person, &parsed), Approval::Never);
}

#[test]
fn a_serving_certificate_names_its_own_node_only() {
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": "a"},
        "status": {"addresses": [
            {"type": "InternalIP", "address": "10.0.0.1"},
            {"type": "InternalIP", "address": "fd00::1"},
            {"type": "Hostname", "address": "a.example.com"},
        ]},
    }))
    .expect("a node");
    let request = |names: &[&str]| Request::parse(&pem("system:node:a", "system:nodes", names).0);
    for (names, expected) in [
        (vec!["a", "10.0.0.1"], true),
        (vec!["a.example.com", "fd00::1"], true),
        (vec!["a", "10.0.0.2"], false),
        (vec!["b"], false),
    ] {
        let request = request(&names).expect("well-formed");
        assert_eq!(has_all(&node, &request), expected, "{names:?}");
    }
    let of_another = Request {
        common_name: "system:node:b".to_owned(),
        ..Request::default()
    };
    assert!(!has_all(&node, &of_another));
}

#[test]
fn requests_are_kept_for_a_while_after_they_are_over() {
    let request = |condition: Option<&str>, certificate: bool| -> CertificateSigningRequest {
        let conditions = condition.map(|type_| {
            json!([{"type": type_, "status": "True", "lastUpdateTime": "2025-01-01T00:30:00Z"}])
        });
        serde_json::from_value(json!({
            "metadata": {"name": "r", "creationTimestamp": "2025-01-01T00:00:00Z"},
            "spec": {"request": "", "signerName": "s"},
            "status": {"conditions": conditions, "certificate": certificate.then_some("eA==")},
        }))
        .expect("a request")
    };
    let now = "2025-01-01T01:00:00Z".parse().expect("a time");
    for (condition, certificate, minutes) in [
        (None, false, 23 * 60),
        (Some("Approved"), false, 23 * 60 + 30),
        (Some("Approved"), true, 30),
        (Some("Denied"), false, 30),
        (Some("Failed"), false, 30),
    ] {
        let kept = kept_for(&request(condition, certificate), now);
        assert_eq!(kept, Duration::from_secs(minutes * 60), "{condition:?}");
    }
}
