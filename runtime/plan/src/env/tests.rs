//! Expansion and order of the environment, row by row.

use super::*;
use crate::testing::wanted;

struct Fixed(Vec<ConfigMap>, Vec<Secret>);

impl Sources for Fixed {
    fn config_map(&self, name: &str) -> Option<&ConfigMap> {
        self.0
            .iter()
            .find(|m| m.metadata.name.as_deref() == Some(name))
    }

    fn secret(&self, name: &str) -> Option<&Secret> {
        self.1
            .iter()
            .find(|m| m.metadata.name.as_deref() == Some(name))
    }
}

#[test]
fn references_expand_as_upstream_expands_them() {
    let scope = BTreeMap::from([
        ("A".to_owned(), "x".to_owned()),
        ("E".to_owned(), String::new()),
    ]);
    for (text, expected) in [
        ("$(A)", "x"),
        ("a$(A)b$(A)", "axbx"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$x"),
        ("$(B)", "$(B)"),
        ("$(E)", ""),
        ("$(A", "$(A"),
        ("$", "$"),
        ("$A", "$A"),
        ("$$", "$"),
        ("$($(A))", "$($(A))"),
        ("ä$(A)ö", "äxö"),
    ] {
        assert_eq!(expand(text, &scope), expected, "{text}");
    }
}

fn sources() -> Fixed {
    let map = serde_json::from_value(
        serde_json::json!({"metadata": {"name": "m"}, "data": {"k": "v", "bad=name": "n"}}),
    );
    let secret = serde_json::from_value(
        serde_json::json!({"metadata": {"name": "s"}, "data": {"p": "c2VjcmV0"}}),
    );
    Fixed(vec![map.expect("a map")], vec![secret.expect("a secret")])
}

fn run(env: serde_json::Value) -> Result<Vec<(String, String)>, EnvError> {
    let mut container = serde_json::json!({"name": "a"});
    container
        .as_object_mut()
        .expect("object")
        .append(env.clone().as_object_mut().expect("object"));
    let wanted = wanted(
        serde_json::json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [container]}}),
    );
    let services = BTreeMap::from([
        ("SVC".to_owned(), "10.0.0.1".to_owned()),
        ("X".to_owned(), "service".to_owned()),
    ]);
    environment(
        &wanted,
        &wanted.spec().containers[0],
        &services,
        &sources(),
        &RuntimeFields::default(),
    )
}

#[test]
fn the_pods_own_variables_come_first_and_win_and_see_earlier_ones() {
    let env = run(serde_json::json!({
        "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "s"}},
                    {"configMapRef": {"name": "none", "optional": true}}],
        "env": [{"name": "X", "value": "own"}, {"name": "Y", "value": "$(X)-$(SVC)-$(Z)-$(P_k)"}, {"name": "Z", "value": "late"},
                {"name": "K", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}},
                {"name": "O", "valueFrom": {"secretKeyRef": {"name": "s", "key": "none", "optional": true}}},
                {"name": "F", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}));
    let pairs: Vec<(String, String)> = [
        ("P_k", "v"),
        ("p", "secret"),
        ("X", "own"),
        ("Y", "own-10.0.0.1-$(Z)-v"),
        ("Z", "late"),
        ("K", "v"),
        ("F", "p"),
        ("SVC", "10.0.0.1"),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into();
    assert_eq!(env, Ok(pairs));
}

#[test]
fn what_is_missing_is_named_as_upstream_names_it() {
    for (from, text) in [
        (
            serde_json::json!({"configMapKeyRef": {"name": "none", "key": "k"}}),
            "configmap \"none\" not found",
        ),
        (
            serde_json::json!({"secretKeyRef": {"name": "none", "key": "k"}}),
            "secret \"none\" not found",
        ),
        (
            serde_json::json!({"configMapKeyRef": {"name": "m", "key": "z"}}),
            "couldn't find key z in ConfigMap ns/m",
        ),
        (
            serde_json::json!({"secretKeyRef": {"name": "s", "key": "z"}}),
            "couldn't find key z in Secret ns/s",
        ),
    ] {
        let error =
            run(serde_json::json!({"env": [{"name": "V", "valueFrom": from}]})).expect_err(text);
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn service_variables_are_dockers_links_of_the_own_namespace_and_of_kubernetes() {
    let service = |ns: &str, name: &str, ip: &str, ports: serde_json::Value| -> Service {
        let json = serde_json::json!({"metadata": {"name": name, "namespace": ns}, "spec": {"clusterIP": ip, "ports": ports}});
        serde_json::from_value(json).expect("a service")
    };
    let services = [
        service(
            "default",
            "kubernetes",
            "10.96.0.1",
            serde_json::json!([{"name": "https", "port": 443, "protocol": "TCP"}]),
        ),
        service(
            "ns",
            "my-db",
            "10.96.0.7",
            serde_json::json!([{"port": 53, "protocol": "UDP"}]),
        ),
        service("ns", "headless", "None", serde_json::json!([{"port": 1}])),
        service("other", "x", "10.96.0.8", serde_json::json!([{"port": 1}])),
    ];
    let wanted =
        wanted(serde_json::json!({"metadata": {"namespace": "ns"}, "spec": {"containers": []}}));
    let vars = service_variables(&wanted, &services);
    for (name, value) in [
        ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
        ("KUBERNETES_SERVICE_PORT", "443"),
        ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
        ("KUBERNETES_PORT", "tcp://10.96.0.1:443"),
        ("KUBERNETES_PORT_443_TCP", "tcp://10.96.0.1:443"),
        ("KUBERNETES_PORT_443_TCP_PROTO", "tcp"),
        ("KUBERNETES_PORT_443_TCP_PORT", "443"),
        ("KUBERNETES_PORT_443_TCP_ADDR", "10.96.0.1"),
        ("MY_DB_SERVICE_HOST", "10.96.0.7"),
        ("MY_DB_PORT_53_UDP_PROTO", "udp"),
    ] {
        assert_eq!(vars.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert_eq!(vars.len(), 15);
}
