#!/usr/bin/env python3
"""Runs the commands of cases/*.case with stock kubectl and compares what they print with what they print against a stock
kube-apiserver (golden/, recorded by `oracle.sh record`).

    run.py --kubectl PROGRAM --kubeconfig FILE [--record] [--jobs N] [--show] [CASE…]

A case is a file of lines:

    @file NAME … @end   a file in the case's folder
    @alone              not beside other cases: it reads or writes what belongs to the whole cluster
    $ COMMAND           run by bash in the case's folder; exit code, output and errors are compared
    ! COMMAND           run, must succeed, not compared (how one gets there)
    ~ COMMAND           repeated until it succeeds, at most 60 s: a level that controllers reach
    # …                 says why

Every case has a namespace of its own name, which is the kubeconfig's. Times, uids, addresses, random names and their like
are masked on both sides. A difference that stays is written in differences.md, with its reason: one that isn't there is a
failure, and so is one that is there and doesn't show any more.
"""

import argparse
import concurrent.futures
import datetime
import os
import re
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ORACLE = "v1.35.0"
SAFE = "[bcdfghjklmnpqrstvwxz2456789]"

MASKS = [
    # Where kubectl itself crashes, its stack.
    (r"(?s)\[signal SIG\w+: .*", "<stack>\n"),
    # klog's own prefix.
    (r"\b[EWI]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ (\w+\.go):\d+\]", r"<log \1>"),
    (r"https://(127\.0\.0\.1|\[::1\]):\d+", "https://<server>"),
    (r"\b(127\.0\.0\.1|192\.168\.7\.250):\d{4,5}\b", "<server>"),
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "<uid>"),
    (r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", "<time>"),
    (r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? [+-]\d{4}( \w+)?", "<time>"),
    (r"\b[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d [+-]\d{4}", "<time>"),
    (r'(resourceVersion"?: ?"?)\d+("?)', r"\1<version>\2"),
    (r"(resourceVersion=)\d+", r"\1<version>"),
    (r'(resourceVersion\\": ?\\")\d+', r"\1<version>"),
    (r"(Resource Version: +)\d+", r"\1<version>"),
    (r"(Expected resource version to be \d+, was )\d+", r"\1<version>"),
    (r"(kube-api-access-)[a-z0-9]{5}\b", r"\1<random>"),
    (r"(X509SHA256=)[0-9a-f]{64}", r"\1<hash>"),
    (r"(reportingInstance: default-scheduler-)\S+", r"\1<host>"),
    (r"(JTI=)[0-9a-f-]{36}", r"\1<uid>"),
    (r"\beyJ[\w-]+\.[\w-]+\.[\w-]+", "<token>"),
    (r"\b10\.96\.\d+\.\d+\b", "<service-ip>"),
    (r"(nodePort\"?: ?)3[0-2]\d{3}\b", r"\1<port>"),
    (r"(:|  )3[0-2]\d{3}/(TCP|UDP)", r"\1<port>/\2"),
    (r"(?s)-----BEGIN ([A-Z ]+)-----.*?-----END \1-----", r"<\1>"),
    (r"[A-Za-z0-9+/]{100,}={0,2}", "<base64>"),
    # Hash of a template and what is random after it.
    (rf"-{SAFE}{{6,10}}-{SAFE}{{5}}\b", "-<hash>-<random>"),
    (rf"-{SAFE}{{8,10}}\b", "-<hash>"),
    (rf"((?:pod-template|controller-revision)-hash(=|: |\": ?\"))\w+", r"\1<hash>"),
    (rf"\b((?:keep|made|web)-){SAFE}{{5}}\b", r"\1<random>"),
    (rf"\b(web-){SAFE}{{6,10}}\b", r"\1<hash>"),
    (r"\.[0-9a-f]{14,16}\b", ".<random>"),
    # Ages: of one that is alone between blanks, of an event's "x2 over 5s", of "5s ago".
    (r"(?m)(?<![^\s(])(<invalid>|1?\d{1,2}s|\d+m\d*s?|0s)(?= ago|\)|\s|$)", "<age>"),
]
MASKS = [(re.compile(pattern), new) for pattern, new in MASKS]


def mask(text, folder):
    """Takes out what is never twice the same. Columns are told apart by two blanks, whatever their width: kubectl's own
    alignment follows the longest cell, often a random one."""
    text = text.replace(folder, "<dir>")
    for pattern, new in MASKS:
        text = pattern.sub(new, text)
    return re.sub(r"(?m) +$", "", re.sub(r"(?m)(?<=\S) {2,}| {24,}(?=\[)", "  ", text))


class Case:
    """One file of cases/."""

    def __init__(self, path):
        self.name = os.path.basename(path)[: -len(".case")]
        self.files, self.steps, self.alone = [], [], False
        lines = iter(open(path, encoding="utf-8").read().split("\n"))
        for number, line in enumerate(lines, 1):
            if line.startswith("@file "):
                content = []
                for inner in lines:
                    if inner == "@end":
                        break
                    content.append(inner)
                self.files.append((line[6:].strip(), "\n".join(content) + "\n"))
            elif line == "@alone":
                self.alone = True
            elif line[:2] in ("$ ", "! ", "~ "):
                command = line[2:]
                while command.endswith("\\"):
                    command = command[:-1] + next(lines).lstrip()
                self.steps.append((line[0], command))
            elif line and not line.startswith("#"):
                raise SystemExit(f"{path}: what is {line!r}?")


class Cluster:
    """A control plane, reached by one kubectl."""

    def __init__(self, kubectl, kubeconfig):
        self.kubectl, self.kubeconfig = os.path.abspath(kubectl), os.path.abspath(kubeconfig)
        version = subprocess.run([kubectl, "version", "--client"], capture_output=True, text=True, check=True).stdout
        self.version = re.search(r"v(\d+\.\d+)\.\S+", version)
        self.tools = tempfile.TemporaryDirectory(prefix="kubectl-tools.")
        os.symlink(self.kubectl, os.path.join(self.tools.name, "kubectl"))
        for name in os.listdir(os.path.join(HERE, "tools")):
            os.symlink(os.path.join(HERE, "tools", name), os.path.join(self.tools.name, name))

    def run(self, command, folder, config, limit=60):
        environment = {
            "PATH": self.tools.name + ":" + os.environ["PATH"],
            "HOME": folder, "KUBECONFIG": config, "KUBECACHEDIR": os.path.join(self.tools.name, "cache"),
            "LC_ALL": "C.UTF-8", "TZ": "UTC",
        }
        try:
            done = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
                                  capture_output=True, timeout=limit)
        except subprocess.TimeoutExpired as late:
            return -1, (late.stdout or b"").decode(), (late.stderr or b"").decode() + f"did not end in {limit} s\n"
        return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")

    def admin(self, command):
        code, out, err = self.run(command, self.tools.name, self.kubeconfig)
        if code:
            raise SystemExit(f"{command}: {out}{err}")
        return out

    def nodes(self, stop):
        """Two nodes without a machine: they stay Ready because their leases are renewed."""
        self.admin(f"kubectl delete node node-1 node-2 --ignore-not-found; kubectl create -f {HERE}/nodes.yaml")

        def renew():
            now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            # The last is made by a case.
            for node in ("node-1", "node-2", "node-d"):
                self.admin(
                    "kubectl apply --server-side --force-conflicts --field-manager=nodes -f - <<EOF\n"
                    f"apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata: {{name: {node}, namespace: kube-node-lease}}\n"
                    f"spec: {{holderIdentity: {node}, leaseDurationSeconds: 40, renewTime: '{now}'}}\nEOF")

        renew()

        def beat():
            while not stop.wait(8):
                renew()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        return thread


# No node ends these pods; what makes new ones goes first.
CLEAR = ("kubectl delete deployments,replicasets,daemonsets,replicationcontrollers --all; "
         'until [ -z "$(kubectl get pods -o name)" ]; do kubectl delete pods --all --force; done; '
         "kubectl delete namespace %s --ignore-not-found --wait=%s")


def run_case(cluster, case, show):
    """The case's transcript: (command, what it printed)."""
    transcript = []
    with tempfile.TemporaryDirectory(prefix="kubectl-case.") as folder:
        config = os.path.join(cluster.tools.name, case.name + ".kubeconfig")
        cluster.admin(f"cp {cluster.kubeconfig} {config}; "
                      f"kubectl --kubeconfig {config} config set-context --current --namespace {case.name} >/dev/null")
        # What an interrupted run has left.
        cluster.run(CLEAR % (case.name, "true"), folder, config, limit=180)
        cluster.admin(f"kubectl create namespace {case.name}")
        cluster.admin(f"until kubectl get -n {case.name} serviceaccount/default configmap/kube-root-ca.crt; do sleep 0.1; done")
        for name, content in case.files:
            path = os.path.join(folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.write(content)
            if content.startswith("#!"):
                os.chmod(path, 0o755)
        try:
            for kind, command in case.steps:
                if kind == "~":
                    until = time.monotonic() + 60
                    while (answer := cluster.run(command, folder, config))[0]:
                        if time.monotonic() > until:
                            transcript.append((command, "never succeeded: " + mask(answer[1] + answer[2], folder)))
                            break
                        time.sleep(0.05)
                    continue
                code, out, err = cluster.run(command, folder, config)
                if kind == "!":
                    if code:
                        transcript.append((command, f"had to succeed: {mask(out + err, folder)}[exit {code}]\n"))
                    continue
                text = mask(out, folder)
                if text and not text.endswith("\n"):
                    text += "\n[no newline]\n"
                if err:
                    text += "[stderr]\n" + mask(err, folder)
                    text += "" if text.endswith("\n") else "\n"
                if code:
                    text += f"[exit {code}]\n"
                transcript.append((command, text))
                if show:
                    print(f"$ {command}\n{text}", flush=True)
        finally:
            cluster.run(CLEAR % (case.name, "false"), folder, config)
    return transcript


def golden_path(case, version):
    """The recorded transcript: one for every kubectl, and one of its own where a kubectl's differs."""
    own = os.path.join(HERE, "golden", ORACLE, f"{case.name}.kubectl-{version}.txt")
    return own if os.path.exists(own) else os.path.join(HERE, "golden", ORACLE, f"{case.name}.txt")


def read_golden(path):
    transcript = []
    for line in open(path, encoding="utf-8").read().split("\n")[1:]:
        if line.startswith("\x20"):
            transcript[-1][1].append(line[1:])
        elif line.startswith("$ "):
            transcript.append((line[2:], []))
    return [(command, "".join(line + "\n" for line in lines)) for command, lines in transcript]


def write_golden(case, version, full_version, transcript):
    body = "".join("$ " + command.replace("\n", "\\n") + "\n" + "".join(f" {line}\n" for line in text.split("\n")[:-1])
                   for command, text in transcript)
    header = f"# kube-apiserver {ORACLE}, kubectl {full_version}\n"
    folder = os.path.join(HERE, "golden", ORACLE)
    os.makedirs(folder, exist_ok=True)
    shared, own = os.path.join(folder, f"{case.name}.txt"), os.path.join(folder, f"{case.name}.kubectl-{version}.txt")
    if version == "1.32":
        path = shared
    else:
        if os.path.exists(shared) and open(shared, encoding="utf-8").read().split("\n", 1)[1] == body:
            if os.path.exists(own):
                os.remove(own)
            return
        path = own
    with open(path, "w", encoding="utf-8") as file:
        file.write(header + body)


def diff(left, right):
    """The lines that only one side has, in order: `-` upstream's, `+` ours."""
    a, b = left.split("\n"), right.split("\n")
    while a and b and a[0] == b[0]:
        a.pop(0), b.pop(0)
    while a and b and a[-1] == b[-1]:
        a.pop(), b.pop()
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in range(len(a) - 1, -1, -1):
        for j in range(len(b) - 1, -1, -1):
            table[i][j] = table[i + 1][j + 1] + 1 if a[i] == b[j] else max(table[i + 1][j], table[i][j + 1])
    i = j = 0
    lines = []
    while i < len(a) or j < len(b):
        if i < len(a) and j < len(b) and a[i] == b[j]:
            i, j = i + 1, j + 1
        elif j == len(b) or (i < len(a) and table[i + 1][j] >= table[i][j + 1]):
            lines.append("-" + a[i])
            i += 1
        else:
            lines.append("+" + b[j])
            j += 1
    return lines


def in_order(text):
    """Sorts what comes in any order: managed fields, whose times are masked, and the errors that kubectl keeps in a map."""
    def fields(found):
        indent, body = found.groups()
        return f"{indent}managedFields:\n" + "".join(sorted(re.split(rf"(?m)^(?={indent}- )", body)))

    def errors(found):
        return "due to error: [" + ", ".join(sorted(re.split(r", (?=cannot )", found.group(1)))) + "]"

    text = re.sub(r"(?m)^( *)managedFields:\n((?:\1(?:- |  ).*\n)+)", fields, text)
    return re.sub(r"due to error: \[(.*)\]", errors, text)


class Differences:
    """differences.md: a heading `## CASE` or `## CASE, kubectl VERSION`, the command as `` `COMMAND` ``, the reason, and the
    lines in a block of `diff`. A line `-~ PATTERN` or `+~ PATTERN` stands for any number of lines that match."""

    def __init__(self, path):
        self.rows = {}
        self.seen = set()
        if not os.path.exists(path):
            return
        for section in re.split(r"(?m)^## ", open(path, encoding="utf-8").read())[1:]:
            head, rest = section.split("\n", 1)
            case, _, version = head.strip().partition(", kubectl ")
            # Several commands may share a reason and a block.
            commands = re.findall(r"(?m)^`+ ?\$ (.*?) ?`+$", rest)
            block = re.search(r"(?ms)^```diff\n(.*?)^```$", rest)
            if not commands or not block:
                raise SystemExit(f"differences.md: {head} has no command or no block")
            for command in commands:
                self.rows[(case, version, command)] = block.group(1).split("\n")[:-1]

    def explain(self, case, version, command, lines):
        """Whether these lines are known."""
        for key in ((case, version, command), (case, "", command)):
            if key in self.rows:
                self.seen.add(key)
                return self.matches(self.rows[key], lines)
        return False

    @staticmethod
    def matches(known, lines):
        patterns = [(line[0], re.compile(line[3:])) for line in known if line[1:3] == "~ "]
        plain = [line for line in known if line[1:3] != "~ "]
        rest = []
        for line in lines:
            if line in plain:
                plain.remove(line)
            elif not any(line[0] == sign and pattern.search(line[1:]) for sign, pattern in patterns):
                rest.append(line)
        return not plain and not rest


def compare(case, version, transcript, differences):
    """What is wrong with this transcript, as text."""
    path = golden_path(case, version)
    if not os.path.exists(path):
        return [f"{case.name}: nothing is recorded"]
    golden = read_golden(path)
    if [command for command, _ in golden] != [command.replace("\n", "\\n") for command, _ in transcript]:
        extra = [command for command, _ in transcript if command not in [name for name, _ in golden]]
        return [f"{case.name}: the recorded commands are others: record again; {extra}"]
    wrong = []
    for (command, expected), (_, text) in zip(golden, transcript):
        lines = diff(in_order(expected), in_order(text))
        if not lines:
            continue
        if not differences.explain(case.name, version, command, lines):
            wrong.append(f"## {case.name}\n`$ {command}`\n\n```diff\n" + "\n".join(lines) + "\n```\n")
    return wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kubectl", required=True)
    parser.add_argument("--kubeconfig", required=True)
    parser.add_argument("--record", action="store_true", help="this is the oracle: write golden/")
    parser.add_argument("--jobs", type=int, default=3)
    parser.add_argument("--show", action="store_true")
    parser.add_argument("cases", nargs="*")
    options = parser.parse_args()
    cluster = Cluster(options.kubectl, options.kubeconfig)
    version, full = cluster.version.group(1), cluster.version.group(0)
    names = sorted(name for name in os.listdir(os.path.join(HERE, "cases")) if name.endswith(".case"))
    cases = [Case(os.path.join(HERE, "cases", name)) for name in names]
    if options.cases:
        cases = [case for case in cases if case.name in options.cases]
    differences = Differences(os.path.join(HERE, "differences.md"))
    stop = threading.Event()
    beat = cluster.nodes(stop)
    wrong, commands = [], 0

    def one(case):
        return case, run_case(cluster, case, options.show)

    def settle(case, transcript):
        nonlocal commands
        commands += len(transcript)
        if options.record:
            write_golden(case, version, full, transcript)
            wrong.extend(f"{case.name}: {command}: {text}" for command, text in transcript
                         if text.startswith(("never succeeded", "had to succeed")) or "did not end in" in text)
        else:
            wrong.extend(compare(case, version, transcript, differences))

    try:
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            for case, transcript in pool.map(one, [case for case in cases if not case.alone]):
                settle(case, transcript)
        for case in cases:
            if case.alone:
                settle(*one(case))
    finally:
        stop.set()
        beat.join()
        cluster.run("kubectl delete node node-1 node-2 --ignore-not-found", cluster.tools.name, cluster.kubeconfig)
    if not options.record and not options.cases:
        for case, only, command in sorted(set(differences.rows) - differences.seen):
            if only in ("", version):
                wrong.append(f"differences.md: {case}: `$ {command}` is no difference any more")
    for text in wrong:
        print(text)
    print(f"kubectl {full}: {len(cases)} cases, {commands} commands, {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
