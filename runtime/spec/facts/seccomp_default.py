#!/usr/bin/env python3
"""Writes seccomp_default.txt: what the containers' common default profile answers to each call.

    seccomp_default.py default.json > seccomp_default.txt

default.json is the Go module github.com/moby/profiles/seccomp's; `go mod download` fetches it.
"""
import json, sys

OPERATORS = {"SCMP_CMP_LT": "<", "SCMP_CMP_EQ": "=", "SCMP_CMP_GT": ">"}


def condition(group):
    words = []
    for arg in group.get("args") or []:
        if arg["op"] == "SCMP_CMP_MASKED_EQ":
            words.append("a%d&%x=%x" % (arg["index"], arg["value"], arg.get("valueTwo", 0)))
        else:
            words.append("a%d%s%x" % (arg["index"], OPERATORS[arg["op"]], arg["value"]))
    includes, excludes = group.get("includes") or {}, group.get("excludes") or {}
    words += ["+" + cap for cap in includes.get("caps", [])]
    words += ["-" + cap for cap in excludes.get("caps", [])]
    arches = set(includes.get("arches", []))
    words += ["@" + arch for arch in ("amd64", "arm64") if arch in arches]
    if arches and not arches & {"amd64", "arm64"}:
        return None
    if set(excludes.get("arches", [])) & {"amd64", "arm64"}:
        raise SystemExit("an architecture of ours is excluded: say so in the format")
    if group["action"] == "SCMP_ACT_ERRNO":
        words.append("!%d" % group["errnoRet"])
    elif group["action"] != "SCMP_ACT_ALLOW":
        raise SystemExit("an action that the format has no word for: " + group["action"])
    return ",".join(words) or "*"


profile = json.load(open(sys.argv[1]))
assert profile["defaultAction"] == "SCMP_ACT_ERRNO" and profile["defaultErrnoRet"] == 1
by_condition = {}
calls = {}
for group in profile["syscalls"]:
    words = condition(group)
    if words is None:
        continue
    for name in group["names"]:
        calls.setdefault(name, [])
        if words not in calls[name]:
            calls[name].append(words)
for name, words in calls.items():
    key = ["*"] if "*" in words else sorted(words)
    by_condition.setdefault(" ".join(key), []).append(name)
print("# Conditions, of which one must hold (a0<26: the first argument, hexadecimal; +: with this capability, -: without;")
print("# @: on this machine; !38: answered by this errno; *: always), and the calls that are then allowed. Others: errno 1.")
print("# By seccomp_default.py, from moby/profiles' seccomp, v0.2.3.")
for words, names in sorted(by_condition.items()):
    line = words + ":"
    for name in sorted(names):
        if len(line) + len(name) > 118:
            print(line)
            line = " "
        line += " " + name
    print(line)
