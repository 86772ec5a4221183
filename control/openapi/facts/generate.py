#!/usr/bin/env python3
"""Makes values.txt, the values that enumerated fields may have and what each means, from upstream's own source of its
OpenAPI documents (Apache-2.0): k8s.io/kubernetes v1.35.0, pkg/generated/openapi.

Developers only: the table is committed and a build never runs this. It needs the Go module, or the proxy to get it.

    generate.py [FOLDER OF THE MODULE] [--check]

`k8s-openapi`, which the other descriptions come from, leaves these out.
"""
import ast, json, pathlib, re, subprocess, sys

VERSION = "v1.35.0"
GROUPS = "apps.v1 certificates.v1 core.v1 discovery.v1 flowcontrol.v1 policy.v1 scheduling.v1".split()
HERE = pathlib.Path(__file__).parent


def module():
    """The folder of the Go module."""
    answer = subprocess.run(
        ["go", "mod", "download", "-json", f"k8s.io/kubernetes@{VERSION}"], check=True, capture_output=True, text=True
    )
    return pathlib.Path(json.loads(answer.stdout)["Dir"])


def fields(source):
    """Of each field with values: (type, field, values in order), a value being (value, meaning)."""
    ty = names = None
    description = ""
    for line in source.splitlines():
        if found := re.match(r"func schema_k8sio_api_(\w+?)_(v\w+?)_(\w+)\(", line):
            ty, names, description = ".".join(found.groups()), [], ""
        elif line.startswith("func "):
            ty = None
        elif ty is None:
            continue
        elif found := re.match(r'(\t+)"([^"]+)": \{$', line):
            names = [name for name in names if name[0] < len(found[1])] + [(len(found[1]), found[2])]
            description = ""
        elif found := re.match(r'\t+Description: +("(?:[^"\\]|\\.)*"),$', line):
            description = ast.literal_eval(found[1])
        elif (found := re.match(r"(\t+)Enum: +\[\]interface\{\}\{(.*)\},$", line)) and names:
            values = [ast.literal_eval(value) for value in re.findall(r'"(?:[^"\\]|\\.)*"', found[2])]
            # Items stand deeper than the field itself, and their own description is none.
            items = len(found[1]) > names[-1][0] + 2
            text = "" if items else description.partition("\n\nPossible enum values:\n - ")[2]
            meanings = dict(re.match(r'(?s)`"(.*?)"`(.*)', part).groups() for part in text.split("\n - ") if part)
            assert items or list(meanings) == values, (ty, names, values, meanings)
            yield ty, names[-1][1] + "[]" * items, tuple((value, meanings.get(value, "").strip()) for value in values)


def table(source):
    rows = {}
    for ty, field, values in fields(source):
        if ty.rpartition(".")[0] in GROUPS:
            rows.setdefault(values, []).append(f"{ty} {field}")
    out = []
    for values, who in sorted(rows.items(), key=lambda row: row[1]):
        out.append(",".join(sorted(who)))
        for value, meaning in values:
            assert "\t" not in meaning and "\n" not in meaning, (who, meaning)
            out.append(f"\t{value}\t{meaning}".rstrip() if value else f"\t\t{meaning}")
    return "\n".join(out) + "\n"


def main():
    folders = [argument for argument in sys.argv[1:] if argument != "--check"]
    source = (pathlib.Path(folders[0]) if folders else module()) / "pkg/generated/openapi/zz_generated.openapi.go"
    text, path = table(source.read_text()), HERE / "values.txt"
    if "--check" in sys.argv:
        sys.exit(0 if path.read_text() == text else "values.txt is not what upstream's source makes")
    path.write_text(text)


main()
