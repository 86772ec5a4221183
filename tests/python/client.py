"""The official Python client against kernelet: typed and dynamic calls, every kind of patch, watch, errors."""

import base64
import threading
import time

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import portforward, stream

config.load_kube_config()
api = client.ApiClient()
core, apps = client.CoreV1Api(api), client.AppsV1Api(api)
rbac, version = client.RbacAuthorizationV1Api(api), client.VersionApi(api)


def check(name, condition, what=""):
    if not condition:
        raise SystemExit(f"FAILED: {name}: {what}")
    print(f"ok: {name}")


def raises(name, status, reason, call):
    try:
        call()
    except ApiException as error:
        body = error.body if isinstance(error.body, str) else error.body.decode()
        check(name, error.status == status and f'"reason":"{reason}"' in body.replace(" ", ""), f"{error.status} {body}")
        return body
    raise SystemExit(f"FAILED: {name}: no error")


check("version", version.get_code().minor.startswith("35"), version.get_code())
names = [item.metadata.name for item in core.list_namespace().items]
check("namespaces", {"default", "kube-system", "kube-public", "kube-node-lease"} <= set(names), names)

core.create_namespace({"metadata": {"name": "py"}})
created = core.create_namespaced_config_map("py", {"metadata": {"name": "a", "labels": {"x": "1"}}, "data": {"k": "v"}})
check("create", created.metadata.uid and created.metadata.resource_version not in (None, "", "0"))
raises("already exists", 409, "AlreadyExists", lambda: core.create_namespaced_config_map("py", {"metadata": {"name": "a"}}))
raises("not found", 404, "NotFound", lambda: core.read_namespaced_config_map("b", "py"))
body = raises("invalid name", 422, "Invalid", lambda: core.create_namespaced_config_map("py", {"metadata": {"name": "A_b"}}))
check("invalid name's cause", "metadata.name" in body and "RFC 1123" in body, body)

patched = core.patch_namespaced_config_map("a", "py", {"data": {"l": "w"}})
check("strategic patch", patched.data == {"k": "v", "l": "w"}, patched.data)
patched = core.patch_namespaced_config_map("a", "py", [{"op": "replace", "path": "/data/k", "value": "z"}])
check("json patch", patched.data["k"] == "z", patched.data)
created.data = {"new": "1"}
raises("conflict", 409, "Conflict", lambda: core.replace_namespaced_config_map("a", "py", created))
fresh = core.read_namespaced_config_map("a", "py")
same = core.replace_namespaced_config_map("a", "py", fresh)
check("a write without a change keeps its revision", same.metadata.resource_version == fresh.metadata.resource_version)

core.create_namespaced_secret("py", {"metadata": {"name": "s"}, "stringData": {"p": "q"}})
secret = core.read_namespaced_secret("s", "py")
check("stringData", base64.b64decode(secret.data["p"]) == b"q" and secret.type == "Opaque")

for index in range(25):
    core.create_namespaced_config_map("py", {"metadata": {"generateName": "many-", "labels": {"many": "yes"}}})
page = core.list_namespaced_config_map("py", label_selector="many=yes", limit=10)
seen = len(page.items)
while page.metadata._continue:
    page = core.list_namespaced_config_map("py", label_selector="many=yes", limit=10, _continue=page.metadata._continue)
    seen += len(page.items)
check("limit and continue", seen == 25, seen)
check("field selector", len(core.list_namespaced_config_map("py", field_selector="metadata.name=a").items) == 1)

listed = core.list_namespaced_config_map("py")
events = []


def follow():
    stream = watch.Watch().stream(core.list_namespaced_config_map, "py", resource_version=listed.metadata.resource_version,
                                  label_selector="w=1", timeout_seconds=20)
    for event in stream:
        events.append((event["type"], event["object"].metadata.name))
        if event["type"] == "DELETED":
            return


thread = threading.Thread(target=follow)
thread.start()
core.create_namespaced_config_map("py", {"metadata": {"name": "watched", "labels": {"w": "1"}}})
core.patch_namespaced_config_map("watched", "py", {"data": {"a": "b"}})
core.patch_namespaced_config_map("watched", "py", {"metadata": {"labels": {"w": "2"}}})
thread.join(20)
check("watch with a selector", events == [("ADDED", "watched"), ("MODIFIED", "watched"), ("DELETED", "watched")], events)

dyn = dynamic.DynamicClient(api)
deployments = dyn.resources.get(api_version="apps/v1", kind="Deployment")
manifest = {
    "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "hello", "namespace": "py"},
    "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "hello"}},
             "template": {"metadata": {"labels": {"app": "hello"}},
                          "spec": {"containers": [{"name": "hello", "image": "kernelet.local/hello:v1", "imagePullPolicy": "Never"}]}}},
}
applied = deployments.server_side_apply(body=manifest, field_manager="python")
check("server-side apply", applied.spec.template.spec.terminationGracePeriodSeconds == 30)
check("managed fields", [field["manager"] for field in applied.metadata.to_dict()["managedFields"]] == ["python"])
manifest["spec"]["replicas"] = 1
other = raises("apply conflict", 409, "Conflict", lambda: deployments.server_side_apply(body=manifest, field_manager="somebody"))
check("apply conflict's text", "conflict with \\\"python\\\"" in other and ".spec.replicas" in other, other)

until = time.monotonic() + 60
while apps.read_namespaced_deployment("hello", "py").status.ready_replicas != 2:
    check("the deployment becomes ready", time.monotonic() < until, apps.read_namespaced_deployment("hello", "py").status)
    time.sleep(0.1)
scale = apps.patch_namespaced_deployment_scale("hello", "py", {"spec": {"replicas": 1}})
check("scale", scale.spec.replicas == 1)
pod = core.list_namespaced_pod("py", label_selector="app=hello").items[0]
check("log", isinstance(core.read_namespaced_pod_log(pod.metadata.name, "py"), str))

# The image holds one program; a second one of it finds its port taken, says so and ends with 1.
pods = core.list_namespaced_pod("py", label_selector="app=hello").items
name = next(pod.metadata.name for pod in pods if pod.metadata.deletion_timestamp is None)
session = stream(core.connect_get_namespaced_pod_exec, name, "py", command=["/hello"],
                 stdin=False, stdout=True, stderr=True, tty=False, _preload_content=False)
session.run_forever(timeout=20)
told = session.read_stderr()
check("exec", told.startswith("hello: ") and session.returncode == 1, (told, session.returncode))
forward = portforward(core.connect_get_namespaced_pod_portforward, name, "py", ports="8080")
connection = forward.socket(8080)
connection.setblocking(True)
connection.settimeout(20)
connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
page = b""
while name.encode() not in page and (more := connection.recv(4096)):
    page += more
connection.close()
check("port-forward", page.startswith(b"HTTP/1.") and name.encode() in page and not forward.error(8080), (page, forward.error(8080)))
attached = stream(core.connect_get_namespaced_pod_attach, name, "py", stdin=False, stdout=True, stderr=True, tty=False,
                  _preload_content=False)
attached.update(timeout=1)
check("attach", attached.is_open())
attached.close()
raises("exec without an upgrade", 400, "BadRequest",
       lambda: core.connect_get_namespaced_pod_exec(name, "py", command=["/hello"]))

review = client.AuthorizationV1Api(api).create_self_subject_access_review(
    {"spec": {"resourceAttributes": {"verb": "create", "resource": "pods", "namespace": "py"}}})
check("self subject access review", review.status.allowed is True)
core.create_namespaced_service_account("py", {"metadata": {"name": "robot"}})
token = core.create_namespaced_service_account_token("robot", "py", {"spec": {"expirationSeconds": 600}})
robot = client.Configuration.get_default_copy()
robot.cert_file = robot.key_file = None
robot.api_key = {"authorization": f"Bearer {token.status.token}"}
as_robot = client.CoreV1Api(client.ApiClient(robot))
denied = raises("forbidden", 403, "Forbidden", lambda: as_robot.list_namespaced_pod("py"))
check("forbidden's text", 'User \\"system:serviceaccount:py:robot\\" cannot list resource \\"pods\\"' in denied, denied)
rbac.create_namespaced_role("py", {"metadata": {"name": "reader"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]})
rbac.create_namespaced_role_binding("py", {"metadata": {"name": "robot"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
                                          "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": "py"}]})
check("a binding allows at once", len(as_robot.list_namespaced_pod("py").items) >= 1)
robot.api_key = {"authorization": "Bearer nonsense"}
raises("a wrong token", 401, "Unauthorized", lambda: client.CoreV1Api(client.ApiClient(robot)).list_namespaced_pod("py"))

utils.create_from_dict(api, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "from-dict", "namespace": "py"}})
core.delete_collection_namespaced_config_map("py", label_selector="many=yes")
check("deletecollection", not core.list_namespaced_config_map("py", label_selector="many=yes").items)
core.delete_namespace("py")
until = time.monotonic() + 60
while "py" in [item.metadata.name for item in core.list_namespace().items]:
    check("the namespace goes", time.monotonic() < until)
    time.sleep(0.1)
print("the Python client is content")
