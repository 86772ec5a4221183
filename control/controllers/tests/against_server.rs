//! The controllers against a real server in this process.

mod common;

use common::{Cluster, wait_for};
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    certificates::v1::CertificateSigningRequest,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Endpoints, Event, Namespace, Node, Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use std::time::Duration;

fn deployment(replicas: i32) -> Value {
    json!({
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "one",
                    "ports": [{"name": "http", "containerPort": 8080}]}]},
            },
        },
    })
}

async fn complete(cluster: &Cluster, replicas: i32, generation: i64) -> Deployment {
    let api = cluster.api::<Deployment>();
    wait_for("the rollout to be complete", || async {
        let deployment = api.get("web").await.ok()?;
        let status = deployment.status.clone()?;
        (status.observed_generation? >= generation
            && status.updated_replicas.unwrap_or(0) == replicas
            && status.replicas.unwrap_or(0) == replicas
            && status.available_replicas.unwrap_or(0) == replicas)
            .then_some(deployment)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_namespace_gets_its_account_and_the_root_ca_again_and_again() {
    let cluster = Cluster::start().await;
    let accounts = cluster.api::<ServiceAccount>();
    let configs = cluster.api::<ConfigMap>();
    let account = || async { accounts.get("default").await.ok() };
    let config = || async { configs.get("kube-root-ca.crt").await.ok() };
    let first = wait_for("the account", account).await;
    let ca = wait_for("the root CA", config).await;
    assert_eq!(ca.data.unwrap()["ca.crt"], cluster.ca.cert_pem());
    accounts
        .delete("default", &DeleteParams::default())
        .await
        .unwrap();
    wait_for("another account", || async {
        account()
            .await
            .filter(|account| account.uid() != first.uid())
    })
    .await;
    let broken = json!({"data": {"ca.crt": "broken"}});
    let params = PatchParams::default();
    configs
        .patch("kube-root-ca.crt", &params, &Patch::Merge(&broken))
        .await
        .unwrap();
    wait_for("the root CA to be mended", || async {
        config()
            .await
            .filter(|c| c.data.as_ref().unwrap()["ca.crt"] == cluster.ca.cert_pem())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_rolls_out_rolls_on_and_rolls_back() {
    let cluster = Cluster::start().await;
    cluster.node("a").await;
    cluster.kubelet("a");
    cluster.create::<Deployment>(deployment(3)).await;
    let first = complete(&cluster, 3, 1).await;
    assert_eq!(
        first.annotations()["deployment.kubernetes.io/revision"],
        "1"
    );
    assert_eq!(first.metadata.generation, Some(1), "only the spec counts");
    let api = cluster.api::<Deployment>();
    let params = PatchParams::default();
    let image = |image: &str| json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
    api.patch("web", &params, &Patch::Strategic(image("two")))
        .await
        .unwrap();
    let second = complete(&cluster, 3, 2).await;
    assert_eq!(
        second.annotations()["deployment.kubernetes.io/revision"],
        "2"
    );
    let sets = cluster.api::<ReplicaSet>();
    let all = sets.list(&ListParams::default()).await.unwrap();
    assert_eq!(all.items.len(), 2, "the old set stays for a rollback");
    api.patch("web", &params, &Patch::Strategic(image("one")))
        .await
        .unwrap();
    let third = complete(&cluster, 3, 3).await;
    assert_eq!(
        third.annotations()["deployment.kubernetes.io/revision"],
        "3"
    );
    let all = sets.list(&ListParams::default()).await.unwrap();
    assert_eq!(all.items.len(), 2, "the first set is used again");
    wait_for("Progressing to say that it is done", || async {
        let status = api.get("web").await.ok()?.status?;
        let conditions = status.conditions?;
        let progressing = conditions.iter().find(|c| c.type_ == "Progressing")?;
        (progressing.reason.as_deref() == Some("NewReplicaSetAvailable")).then_some(())
    })
    .await;
    let events = cluster.api::<Event>();
    wait_for("the events of deployment and set", || async {
        let events = events.list(&ListParams::default()).await.ok()?.items;
        let has = |reason: &str, kind: &str, prefix: &str| {
            events.iter().any(|event| {
                event.reason.as_deref() == Some(reason)
                    && event.involved_object.kind.as_deref() == Some(kind)
                    && event
                        .message
                        .as_deref()
                        .unwrap_or_default()
                        .starts_with(prefix)
            })
        };
        (has(
            "ScalingReplicaSet",
            "Deployment",
            "Scaled up replica set web-",
        ) && has(
            "ScalingReplicaSet",
            "Deployment",
            "Scaled down replica set web-",
        ) && has("SuccessfulCreate", "ReplicaSet", "Created pod: web-")
            && has("SuccessfulDelete", "ReplicaSet", "Deleted pod: web-"))
        .then_some(())
    })
    .await;
    let scale = json!({"spec": {"replicas": 1}});
    api.patch("web", &params, &Patch::Merge(&scale))
        .await
        .unwrap();
    complete(&cluster, 1, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_pod_is_replaced_and_a_relabelled_one_released() {
    let cluster = Cluster::start().await;
    cluster.node("a").await;
    cluster.kubelet("a");
    cluster.create::<Deployment>(deployment(2)).await;
    complete(&cluster, 2, 1).await;
    let pods = cluster.api::<Pod>();
    let names = || async {
        let pods = pods
            .list(&ListParams::default().labels("app=web"))
            .await
            .ok()?;
        Some(
            pods.items
                .iter()
                .map(|pod| pod.name_any())
                .collect::<Vec<_>>(),
        )
    };
    let before = names().await.unwrap();
    pods.delete(&before[0], &DeleteParams::default())
        .await
        .unwrap();
    let freed = json!({"metadata": {"labels": {"app": "free"}}});
    let params = PatchParams::default();
    pods.patch(&before[1], &params, &Patch::Merge(&freed))
        .await
        .unwrap();
    wait_for("two new pods", || async {
        let now = names().await?;
        (now.len() == 2 && !now.iter().any(|name| before.contains(name))).then_some(())
    })
    .await;
    wait_for("the freed pod to be without an owner", || async {
        let freed = pods.get(&before[1]).await.ok()?;
        freed.owner_references().is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletion_cascades_waits_or_orphans_as_asked() {
    let cluster = Cluster::start().await;
    cluster.node("a").await;
    cluster.kubelet("a");
    let (api, sets, pods) = (
        cluster.api::<Deployment>(),
        cluster.api::<ReplicaSet>(),
        cluster.api::<Pod>(),
    );
    for params in [DeleteParams::background(), DeleteParams::foreground()] {
        cluster.create::<Deployment>(deployment(2)).await;
        complete(&cluster, 2, 1).await;
        api.delete("web", &params).await.unwrap();
        wait_for("deployment, set and pods to be gone", || async {
            let all = ListParams::default();
            let left = api.list(&all).await.ok()?.items.len()
                + sets.list(&all).await.ok()?.items.len()
                + pods.list(&all).await.ok()?.items.len();
            (left == 0).then_some(())
        })
        .await;
    }
    cluster.create::<Deployment>(deployment(2)).await;
    complete(&cluster, 2, 1).await;
    api.delete("web", &DeleteParams::orphan()).await.unwrap();
    wait_for("the deployment to be gone", || async {
        api.get_opt("web").await.ok()?.is_none().then_some(())
    })
    .await;
    let orphans = sets.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(orphans.len(), 1);
    assert!(orphans[0].owner_references().is_empty());
    // A deployment that selects it takes it over, pods and all.
    let before = pods.list(&ListParams::default()).await.unwrap().items.len();
    cluster.create::<Deployment>(deployment(2)).await;
    complete(&cluster, 2, 1).await;
    let adopted = sets.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(adopted.len(), 1);
    assert_eq!(adopted[0].uid(), orphans[0].uid());
    assert_eq!(
        pods.list(&ListParams::default()).await.unwrap().items.len(),
        before
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_follow_the_pods() {
    let cluster = Cluster::start().await;
    cluster.node("a").await;
    cluster.kubelet("a");
    cluster
        .create::<Service>(json!({"metadata": {"name": "web"}, "spec": {
            "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}}))
        .await;
    let slices = cluster.api::<EndpointSlice>();
    let of_service = ListParams::default().labels("kubernetes.io/service-name=web");
    let ready = || async {
        let slices = slices.list(&of_service).await.ok()?.items;
        let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
        let ready =
            endpoints.filter(|e| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true)));
        (!slices.is_empty()).then(|| ready.count())
    };
    wait_for("an empty slice", || async {
        (ready().await? == 0).then_some(())
    })
    .await;
    cluster.create::<Deployment>(deployment(3)).await;
    wait_for("three ready endpoints", || async {
        (ready().await? == 3).then_some(())
    })
    .await;
    let endpoints = cluster.api::<Endpoints>();
    wait_for("the Endpoints object", || async {
        let subsets = endpoints.get("web").await.ok()?.subsets?;
        let subset = subsets.first()?;
        (subset.addresses.as_ref()?.len() == 3 && subset.ports.as_ref()?[0].port == 8080)
            .then_some(())
    })
    .await;
    let pods = cluster.api::<Pod>();
    let pod = pods.list(&ListParams::default()).await.unwrap().items[0].name_any();
    let not_ready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let params = PatchParams::default();
    pods.patch_status(&pod, &params, &Patch::Strategic(&not_ready))
        .await
        .unwrap();
    wait_for("two ready endpoints", || async {
        (ready().await? == 2).then_some(())
    })
    .await;
    cluster
        .api::<Service>()
        .delete("web", &DeleteParams::default())
        .await
        .unwrap();
    wait_for("slices and Endpoints to be gone", || async {
        let slices = slices.list(&of_service).await.ok()?.items;
        let endpoints = endpoints.get_opt("web").await.ok()?;
        (slices.is_empty() && endpoints.is_none()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_goes_with_everything_in_it() {
    let cluster = Cluster::start().await;
    cluster.node("a").await;
    cluster.kubelet("a");
    let namespaces: Api<Namespace> = Api::all(cluster.admin.clone());
    let namespace = serde_json::from_value(json!({"metadata": {"name": "team"}})).unwrap();
    namespaces
        .create(&PostParams::default(), &namespace)
        .await
        .unwrap();
    let configs: Api<ConfigMap> = Api::namespaced(cluster.admin.clone(), "team");
    let held = serde_json::from_value(
        json!({"metadata": {"name": "held", "finalizers": ["example.com/held"]}}),
    )
    .unwrap();
    configs.create(&PostParams::default(), &held).await.unwrap();
    let deployments: Api<Deployment> = Api::namespaced(cluster.admin.clone(), "team");
    let web = serde_json::from_value(deployment(2)).unwrap();
    deployments
        .create(&PostParams::default(), &web)
        .await
        .unwrap();
    let pods: Api<Pod> = Api::namespaced(cluster.admin.clone(), "team");
    wait_for("the pods", || async {
        (pods.list(&ListParams::default()).await.ok()?.items.len() == 2).then_some(())
    })
    .await;
    namespaces
        .delete("team", &DeleteParams::default())
        .await
        .unwrap();
    wait_for("the namespace to say what it waits for", || async {
        let status = namespaces.get("team").await.ok()?.status?;
        let conditions = status.conditions?;
        let waiting = conditions
            .iter()
            .find(|c| c.type_ == "NamespaceFinalizersRemaining")?;
        (waiting.message.as_deref()
            == Some(
                "Some content in the namespace has finalizers remaining: \
                 example.com/held in 1 resource instances",
            ))
        .then_some(())
    })
    .await;
    let released = json!({"metadata": {"finalizers": null}});
    let params = PatchParams::default();
    configs
        .patch("held", &params, &Patch::Merge(&released))
        .await
        .unwrap();
    wait_for("the namespace to be gone", || async {
        namespaces
            .get_opt("team")
            .await
            .ok()?
            .is_none()
            .then_some(())
    })
    .await;
    let left = pods.list(&ListParams::default()).await.unwrap().items;
    assert!(left.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_get_ranges_and_lose_their_pods_when_they_fall_silent() {
    let cluster = Cluster::with(|config| config.node_grace = Duration::from_millis(1500)).await;
    cluster.node("silent").await;
    cluster.node("alive").await;
    let nodes: Api<Node> = Api::all(cluster.admin.clone());
    let ranges = || async {
        let nodes = nodes.list(&ListParams::default()).await.ok()?.items;
        let mut ranges: Vec<_> = nodes
            .into_iter()
            .map(|node| node.spec?.pod_cidr)
            .collect::<Option<_>>()?;
        ranges.sort();
        Some(ranges)
    };
    let ranges = wait_for("both ranges", ranges).await;
    assert_eq!(ranges, ["10.244.0.0/23", "10.244.2.0/23"]);
    let pod = |name: &str, seconds: Value| {
        json!({"metadata": {"name": name}, "spec": {
        "nodeName": "silent", "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "i"}],
        "tolerations": [
            {"key": "node.kubernetes.io/unreachable", "operator": "Exists",
                "effect": "NoExecute", "tolerationSeconds": seconds},
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"},
        ]}})
    };
    let leaves: Pod = cluster.create(pod("leaves", json!(1))).await;
    cluster.create::<Pod>(pod("stays", json!(null))).await;
    let leases: Api<Lease> = Api::namespaced(cluster.admin.clone(), "kube-node-lease");
    let lease = serde_json::from_value(json!({"metadata": {"name": "alive"},
        "spec": {"holderIdentity": "alive", "leaseDurationSeconds": 40}}));
    leases
        .create(&PostParams::default(), &lease.unwrap())
        .await
        .unwrap();
    let renewing = {
        let leases = leases.clone();
        tokio::spawn(async move {
            loop {
                let now = jiff::Timestamp::now()
                    .strftime("%Y-%m-%dT%H:%M:%S.%6fZ")
                    .to_string();
                let patch = json!({"spec": {"renewTime": now}});
                let params = PatchParams::default();
                let _ = leases.patch("alive", &params, &Patch::Merge(&patch)).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        })
    };
    let silent = wait_for("the silent node to be unreachable", || async {
        let node = nodes.get("silent").await.ok()?;
        let taints = node.spec.as_ref()?.taints.clone()?;
        (taints.len() == 2).then_some(node)
    })
    .await;
    let conditions = silent.status.unwrap().conditions.unwrap();
    let ready = conditions.iter().find(|c| c.type_ == "Ready").unwrap();
    assert_eq!(ready.status, "Unknown");
    assert_eq!(
        ready.message.as_deref(),
        Some("Kubelet stopped posting node status.")
    );
    let pods = cluster.api::<Pod>();
    wait_for("the impatient pod to leave", || async {
        let pod = pods.get_opt("leaves").await.ok()?;
        let going = pod.is_none_or(|pod| {
            pod.metadata.uid == leaves.metadata.uid && pod.metadata.deletion_timestamp.is_some()
        });
        going.then_some(())
    })
    .await;
    let stays = pods.get("stays").await.unwrap();
    assert_eq!(stays.metadata.deletion_timestamp, None);
    let alive = nodes.get("alive").await.unwrap();
    assert_eq!(alive.spec.unwrap().taints, None, "its lease is renewed");
    cluster.report("silent", "True").await;
    wait_for("the node that speaks again to lose its taints", || async {
        let spec = nodes.get("silent").await.ok()?.spec?;
        spec.taints
            .is_none_or(|taints| taints.is_empty())
            .then_some(())
    })
    .await;
    renewing.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nodes_serving_certificate_is_approved_and_signed() {
    let cluster = Cluster::start().await;
    let node =
        kernelet_client::from_service(cluster.server.service(kernelet_server::UserInfo::node("a")));
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "system:node:a");
    params
        .distinguished_name
        .push(rcgen::DnType::OrganizationName, "system:nodes");
    params.subject_alt_names = vec![rcgen::SanType::IpAddress([192, 0, 2, 1].into())];
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    let request = CertificateSigningRequest {
        metadata: kube::api::ObjectMeta {
            generate_name: Some("csr-".to_owned()),
            ..Default::default()
        },
        spec: k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec {
            request: k8s_openapi::ByteString(pem.into_bytes()),
            signer_name: "kubernetes.io/kubelet-serving".to_owned(),
            usages: Some(vec![
                "digital signature".to_owned(),
                "server auth".to_owned(),
            ]),
            ..Default::default()
        },
        status: None,
    };
    let api: Api<CertificateSigningRequest> = Api::all(node);
    let made = api.create(&PostParams::default(), &request).await.unwrap();
    let certificate = || async {
        let status = api.get(&made.name_any()).await.ok()?.status?;
        Some(String::from_utf8(status.certificate?.0).unwrap())
    };
    assert_eq!(certificate().await, None, "the node isn't known yet");
    // Its addresses come later than its request: only then can they be compared.
    cluster.node("a").await;
    let pem = wait_for("the certificate", certificate).await;
    assert!(pem.starts_with("-----BEGIN CERTIFICATE-----"), "{pem}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_tells_how_many_pods_may_go() {
    let cluster = Cluster::start().await;
    cluster.node("a").await;
    cluster.kubelet("a");
    cluster
        .create::<PodDisruptionBudget>(json!({"metadata": {"name": "web"}, "spec": {
            "maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}}}))
        .await;
    cluster.create::<Deployment>(deployment(3)).await;
    complete(&cluster, 3, 1).await;
    let api = cluster.api::<PodDisruptionBudget>();
    wait_for("one disruption to be allowed", || async {
        let status = api.get("web").await.ok()?.status?;
        (status.expected_pods == 3
            && status.desired_healthy == 2
            && status.current_healthy == 3
            && status.disruptions_allowed == 1)
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_were_never_placed_go_when_deleted() {
    let cluster = Cluster::start().await;
    let pods = cluster.api::<Pod>();
    wait_for("the default account", || async {
        cluster.api::<ServiceAccount>().get("default").await.ok()
    })
    .await;
    cluster
        .create::<Pod>(json!({"metadata": {"name": "waiting"}, "spec": {
            "containers": [{"name": "c", "image": "i"}]}}))
        .await;
    pods.delete("waiting", &DeleteParams::default())
        .await
        .unwrap();
    wait_for("the pod to be gone", || async {
        pods.get_opt("waiting").await.ok()?.is_none().then_some(())
    })
    .await;
}
