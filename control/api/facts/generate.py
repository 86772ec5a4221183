#!/usr/bin/env python3
"""Makes facts.txt, the compact table of the built-in kinds' types, from the pinned public sources.

Developers only: the table is committed and a build never runs this. It needs Python 3, the Go module proxy (or a
folder that already holds the modules) and PyPI. From upstream it takes facts alone: names, protobuf numbers,
pointer and omitempty, list types and keys, patch strategies, required, defaults of scalars.

    generate.py --cache DIR            writes facts.txt beside this file
    generate.py --cache DIR --check    compares only, and holds the table against kubernetes-validate's schemas

Sources: k8s.io/api and k8s.io/apimachinery v0.35.0 (struct tags and markers), PyPI kubernetes-validate 1.35.0 (what
is required; the check of types, list types, keys and strategies).
"""
import argparse, io, json, pathlib, re, subprocess, sys, urllib.request, zipfile

VERSION = "v0.35.0"
VALIDATE = "1.35.0"
HERE = pathlib.Path(__file__).parent

# Package code in the table -> (module, folder, OpenAPI prefix, Go package name).
PACKAGES = {
    "meta.v1": ("apimachinery", "pkg/apis/meta/v1", "io.k8s.apimachinery.pkg.apis.meta.v1", "v1"),
    "runtime": ("apimachinery", "pkg/runtime", "io.k8s.apimachinery.pkg.runtime", "runtime"),
}
GROUPS = {  # package code -> API group
    "core.v1": "",
    "apps.v1": "apps",
    "authentication.v1": "authentication.k8s.io",
    "authorization.v1": "authorization.k8s.io",
    "autoscaling.v1": "autoscaling",
    "certificates.v1": "certificates.k8s.io",
    "coordination.v1": "coordination.k8s.io",
    "discovery.v1": "discovery.k8s.io",
    "events.v1": "events.k8s.io",
    "flowcontrol.v1": "flowcontrol.apiserver.k8s.io",
    "policy.v1": "policy",
    "rbac.v1": "rbac.authorization.k8s.io",
    "scheduling.v1": "scheduling.k8s.io",
    "apidiscovery.v2": "apidiscovery.k8s.io",
}
for code in GROUPS:
    group, version = code.split(".")
    PACKAGES[code] = ("api", f"{group}/{version}", f"io.k8s.api.{code}", version)

# The kinds that are served; everything they reach comes with them.
KINDS = {
    "core.v1": "Namespace Node Pod Service Endpoints ConfigMap Secret ServiceAccount Event Binding LimitRange "
    "ResourceQuota ReplicationController",
    "apps.v1": "Deployment ReplicaSet DaemonSet ControllerRevision",
    "authentication.v1": "TokenReview TokenRequest SelfSubjectReview",
    "authorization.v1": "SubjectAccessReview LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview",
    "autoscaling.v1": "Scale",
    "certificates.v1": "CertificateSigningRequest",
    "coordination.v1": "Lease",
    "discovery.v1": "EndpointSlice",
    "events.v1": "Event",
    "flowcontrol.v1": "FlowSchema PriorityLevelConfiguration",
    "policy.v1": "PodDisruptionBudget Eviction",
    "rbac.v1": "Role RoleBinding ClusterRole ClusterRoleBinding",
    "scheduling.v1": "PriorityClass",
    "apidiscovery.v2": "APIGroupDiscovery",
    "meta.v1": "Status APIVersions APIGroup APIGroupList APIResourceList Table PartialObjectMetadata "
    "PartialObjectMetadataList DeleteOptions ListOptions CreateOptions UpdateOptions PatchOptions GetOptions "
    "WatchEvent TableOptions List",
}
CORE_OPTIONS = "PodLogOptions"

# Types whose JSON and protobuf forms the codecs know by themselves.
SPECIAL = {
    ("meta.v1", "Time"): "time", ("meta.v1", "MicroTime"): "microtime", ("meta.v1", "Duration"): "duration",
    ("meta.v1", "FieldsV1"): "fieldsv1", ("intstr", "IntOrString"): "intstr", ("resource", "Quantity"): "quantity",
    ("runtime", "RawExtension"): "raw", ("types", "UID"): "string", ("types", "NodeName"): "string",
}
IMPORTS = {"k8s.io/api/core/v1": "core.v1", "k8s.io/apimachinery/pkg/apis/meta/v1": "meta.v1",
           "k8s.io/apimachinery/pkg/runtime": "runtime", "k8s.io/apimachinery/pkg/api/resource": "resource",
           "k8s.io/apimachinery/pkg/util/intstr": "intstr", "k8s.io/apimachinery/pkg/types": "types"}
SCALARS = {"string": "string", "bool": "bool", "int32": "int32", "int64": "int64", "float64": "double"}


def sources(cache):
    cache.mkdir(parents=True, exist_ok=True)
    for module in ("api", "apimachinery"):
        if not (cache / f"k8s.io/{module}@{VERSION}").exists():
            url = f"https://proxy.golang.org/k8s.io/{module}/@v/{VERSION}.zip"
            zipfile.ZipFile(io.BytesIO(urllib.request.urlopen(url).read())).extractall(cache)
    if not (cache / "_definitions.json").exists():
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(cache),
                        f"kubernetes-validate=={VALIDATE}"], check=True)
        wheel = zipfile.ZipFile(next(cache.glob("kubernetes_validate-*.whl")))
        name = f"kubernetes_validate/kubernetes-json-schema/v{VALIDATE}-local-strict/_definitions.json"
        (cache / "_definitions.json").write_bytes(wheel.read(name))
    return json.loads((cache / "_definitions.json").read_text())["$defs"]


def parse_package(folder):
    """All structs (name -> (markers, [(comments, name, type, tag)])) and named types of a Go package."""
    structs, named, imports = {}, {}, {}
    for file in sorted(folder.glob("*.go")):
        if file.name.endswith("_test.go") or file.name.startswith("zz_") or file.name == "generated.pb.go":
            continue
        comments, current, fields, markers = [], None, [], []
        for alias, path in re.findall(r'^\s+(\w+ )?"(k8s[^"]+)"$', file.read_text(), re.M):
            imports[alias.strip() or path.rsplit("/")[-1]] = IMPORTS.get(path)
        for line in file.read_text().splitlines():
            text = line.strip()
            if current is None:
                if text.startswith("//"):
                    comments.append(text[2:].strip())
                    continue
                m = re.match(r"^type (\w+) struct \{(\})?$", text)
                if m:
                    if m.group(2):
                        structs[m.group(1)] = (comments, [])
                    else:
                        current, fields, markers = m.group(1), [], comments
                elif m := re.match(r"^type (\w+) ([\w.\[\]]+)$", text):
                    named[m.group(1)] = m.group(2)
                if text or not comments or not any(c.startswith("+") for c in comments):
                    comments = []
            elif text == "}":
                structs[current] = (markers, fields)
                current, comments = None, []
            elif text.startswith("//"):
                comments.append(text[2:].strip())
            elif m := re.match(r"^(\w+)\s+([\w.*\[\]{}]+)\s+`(.*)`", text):
                fields.append((comments, m.group(1), m.group(2), m.group(3)))
                comments = []
            elif m := re.match(r"^([\w.*]+)\s+`(.*)`", text):
                fields.append((comments, None, m.group(1), m.group(2)))
                comments = []
            else:
                comments = []
    return structs, named, imports


def marker(comments, name):
    out = []
    for c in comments:
        if c.startswith(f"+{name}="):
            out.append(c[len(name) + 2:].strip())
    return out


class Generator:
    def __init__(self, cache):
        self.defs = sources(cache)
        self.parsed = {code: parse_package(cache / f"k8s.io/{module}@{VERSION}" / folder)
                       for code, (module, folder, _, _) in PACKAGES.items()}
        self.out = {}     # (package, type) -> lines
        self.queue = []

    def resolve(self, package, go):
        """(table type, go type) of a Go type expression in a package."""
        if go.startswith("*"):
            return self.resolve(package, go[1:])
        if go == "[]byte":
            return "bytes", "[]uint8"
        if go.startswith("[]"):
            inner, name = self.resolve(package, go[2:])
            return f"[]{inner}", f"[]{name}"
        if m := re.match(r"map\[([\w.]+)\](.*)", go):
            _, key = self.resolve(package, m.group(1))
            inner, name = self.resolve(package, m.group(2))
            return f"{{}}{inner}", f"map[{key}]{name}"
        if go == "interface{}":
            return "any", "interface {}"
        if go in SCALARS:
            return SCALARS[go], go
        if "." in go:
            alias, name = go.split(".")
            target = self.parsed[package][2][alias]
        else:
            target, name = package, go
        if (target, name) in SPECIAL:
            return SPECIAL[(target, name)], f"{target.split('.')[-1]}.{name}"
        structs, named, _ = self.parsed[target]
        short = PACKAGES[target][3]
        if name in named:
            inner, _ = self.resolve(target, named[name])
            if inner == "[]string" :
                inner = "strings"
            return inner, f"{short}.{name}"
        if name not in structs:
            raise SystemExit(f"{target}.{name}: unknown type")
        self.queue.append((target, name))
        return (name if target == package else f"{target}.{name}"), f"{short}.{name}"

    def default_go(self, package, ty):
        if ty.startswith("[]"):
            return "[]" + self.default_go(package, ty[2:])
        if ty.startswith("{}"):
            return "map[string]" + self.default_go(package, ty[2:])
        plain = {"bytes": "[]uint8", "double": "float64", "any": "interface {}", "time": "v1.Time",
                 "microtime": "v1.MicroTime", "duration": "v1.Duration", "fieldsv1": "v1.FieldsV1",
                 "intstr": "intstr.IntOrString", "quantity": "resource.Quantity", "raw": "runtime.RawExtension"}
        if ty in plain:
            return plain[ty]
        if ty in ("string", "bool", "int32", "int64", "strings"):
            return ty
        code, _, name = ty.rpartition(".")
        return f"{PACKAGES[code or package][3]}.{name}"

    def emit(self, package, name):
        if (package, name) in self.out:
            return
        structs = self.parsed[package][0]
        markers, fields = structs[name]
        lines = self.out[(package, name)] = []
        definition = self.defs.get(f"{PACKAGES[package][2]}.{name}", {})
        atomic = "atomic" in marker(markers, "structType")
        gvks = sorted({(g["group"], g["version"], g["kind"])
                       for g in definition.get("x-kubernetes-group-version-kind", [])})
        if name in ("DeleteOptions", "WatchEvent"):
            gvks = [g for g in gvks if g[0] == "" and g[1] == "v1"]
        elif not gvks and any(f[1] is None and f[2].endswith("TypeMeta") for f in fields):
            group = GROUPS.get(package, "meta.k8s.io" if name.startswith(("Table", "PartialObject")) else "")
            gvks = [(group, PACKAGES[package][3], name)]
        kinds = ",".join("/".join(g) for g in gvks)
        lines.append(f"T {package}.{name}" + (f" kinds={kinds}" if kinds else "") + (" atomic" if atomic else ""))
        self.fields(package, fields, definition, lines, None)

    def fields(self, package, fields, definition, lines, inside):
        required = set(definition.get("required", []))
        for comments, go_name, go, tag in fields:
            tags = dict(re.findall(r'(\w+):"([^"]*)"', tag))
            names = tags.get("json", "").split(",")
            if names[0] == "-":
                continue
            proto = tags.get("protobuf", "-").split(",")
            number = int(proto[1]) if len(proto) > 1 else None
            if not names[0] and (go_name is None or "inline" in names):
                if go.endswith("TypeMeta"):
                    lines.append("apiVersion - string o")
                    lines.append("kind - string o")
                    continue
                alias, _, inner = go.lstrip("*").rpartition(".")
                target = self.parsed[package][2][alias] if alias else package
                structs = self.parsed[target][0]
                assert inside is None, "embedding twice"
                self.fields(target, structs[inner][1], definition, lines, number)
                continue
            ty, printed = self.resolve(package, go)
            flags = []
            if go.startswith("*"):
                flags.append("*")
            if "omitzero" in names[1:]:
                flags.append("z")
            elif "omitempty" in names[1:]:
                flags.append("o")
            if names[0] in required:
                flags.append("r")
            if inside is not None:
                flags.append(f"in={inside}")
            if lt := marker(comments, "listType"):
                flags.append(f"list={lt[0]}")
            if keys := marker(comments, "listMapKey"):
                flags.append(f"keys={','.join(keys)}")
            if "atomic" in marker(comments, "mapType") + marker(comments, "structType"):
                flags.append("atomic")
            if "patchStrategy" in tags:
                flags.append(f"patch={tags['patchStrategy']}")
            if "patchMergeKey" in tags:
                flags.append(f"key={tags['patchMergeKey']}")
            defaults = [d for d in marker(comments, "default") if not d.startswith("ref(")]
            if defaults:
                flags.append(f"default={json.dumps(json.loads(defaults[0]), separators=(',', ':'))}")
            if printed != self.default_go(package, ty):
                flags.append(f"go={printed}")
            lines.append(" ".join([names[0], str(number or "-"), ty] + flags))

    def run(self):
        for package, kinds in KINDS.items():
            for kind in kinds.split():
                for name in (kind, kind + "List"):
                    if name in self.parsed[package][0]:
                        self.queue.append((package, name))
        self.queue.append(("core.v1", CORE_OPTIONS))
        while self.queue:
            self.emit(*self.queue.pop(0))
        head = [f"# Made by generate.py from k8s.io/api and k8s.io/apimachinery {VERSION} and kubernetes-validate {VALIDATE}.",
                "# T package.Type [kinds=group/version/Kind,…] [atomic], then a line a field: name protobuf-number type flags",
                "# (* pointer, o omitempty, z omitzero, r required, in=number of the embedded message)."]
        body = []
        for key in sorted(self.out):
            body += self.out[key]
        return "\n".join(head + body) + "\n"


def check(text, defs):
    """Holds the table against kubernetes-validate; answers the differences."""
    problems, package, definition, seen, name = [], None, None, set(), None

    def finish():
        if definition is not None:
            for missing in set(definition.get("properties", {})) - seen:
                problems.append(f"{name}.{missing}: missing")

    def flat(p):
        t = p.get("type")
        return next((x for x in t if x != "null"), None) if isinstance(t, list) else t

    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if line.startswith("T "):
            finish()
            package, _, short = line.split()[1].rpartition(".")
            name = f"{PACKAGES[package][2]}.{short}"
            definition, seen = defs.get(name), set()
            if definition is not None and ("atomic" in line.split()) != (definition.get("x-kubernetes-map-type") == "atomic"):
                problems.append(f"{name}: atomic")
            continue
        if definition is None:
            continue
        parts = line.split(" ")
        field, ty, flags = parts[0], parts[2], parts[3:]
        seen.add(field)
        p = definition.get("properties", {}).get(field)
        if p is None:
            problems.append(f"{name}.{field}: not in the schema")
            continue
        flag = dict(f.split("=", 1) for f in flags if "=" in f)
        for key, theirs in (("list", "x-kubernetes-list-type"), ("patch", "x-kubernetes-patch-strategy"),
                            ("key", "x-kubernetes-patch-merge-key")):
            if flag.get(key) != p.get(theirs):
                problems.append(f"{name}.{field}: {key} {flag.get(key)} / {p.get(theirs)}")
        if flag.get("keys", "").split(",") != p.get("x-kubernetes-list-map-keys", [""]):
            problems.append(f"{name}.{field}: keys")
        want = {"string": "string", "bool": "boolean", "int32": "integer", "int64": "integer", "double": "number",
                "bytes": "string"}.get(ty, "array" if ty.startswith("[]") else "object" if ty.startswith("{}") else None)
        if want and flat(p) != want and "$ref" not in p:
            problems.append(f"{name}.{field}: type {ty} / {p.get('type')}")
    finish()
    return problems


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--cache", type=pathlib.Path, required=True)
    args.add_argument("--check", action="store_true")
    args = args.parse_args()
    generator = Generator(args.cache)
    text = generator.run()
    problems = check(text, generator.defs)
    for p in problems:
        print(p, file=sys.stderr)
    target = HERE / "facts.txt"
    if args.check:
        same = target.read_text() == text
        if not same:
            print("facts.txt is not what the sources give", file=sys.stderr)
        sys.exit(bool(problems) or not same)
    target.write_text(text)
    print(f"{len(generator.out)} types, {len(text)} bytes, {len(problems)} differences from kubernetes-validate")


main()
