#!/usr/bin/env bash
# Unpacking an image of 500 MB and 30,000 files in five gzip layers, beside podman (pull into its overlay storage), and skopeo
# with umoci (copy into a layout, unpack into a bundle): from a layout on the same disk, each from nothing.
#
# ROUNDS (1) is how often each is taken, in turn; the least counts. FILES and MEGABYTES make a smaller image.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/install.sh
[ "$(id -u)" = 0 ] || { echo "| image unpack | not measured: needs root | |"; exit 0; }
packages podman:podman skopeo:skopeo umoci:umoci python3:python3 || true
# podman makes an image's name of the path: lower case, and no part that begins with a dot.
work=/var/tmp/kernelet-unpack-$$
mkdir "$work"
trap 'umount "$work/podman/root/overlay" 2>/dev/null || true; chmod -R u+w "$work" 2>/dev/null || true; rm -rf --one-file-system "$work"' EXIT
python3 - "$work/layout" "${FILES:-30000}" "${MEGABYTES:-500}" <<'PY'
import gzip, hashlib, io, json, os, random, sys, tarfile
out, files, megabytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.makedirs(out + "/blobs/sha256")
chance = random.Random(7)
# A text's redundancy, so that it compresses about as programs and scripts do.
words = [bytes(chance.randrange(97, 123) for _ in range(chance.randrange(2, 10))) for _ in range(4000)]
pool = b" ".join(chance.choice(words) for _ in range(400000))
def blob(data, media):
    digest = hashlib.sha256(data).hexdigest()
    open(f"{out}/blobs/sha256/{digest}", "wb").write(data)
    return {"mediaType": media, "digest": "sha256:" + digest, "size": len(data)}
kind, layers, plain = "application/vnd.oci.image.", [], []
mean = megabytes * 1000000 // files
for layer in range(5):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for index in range(files // 5):
            if index % 100 == 0:
                folder = f"usr/lib/part{layer}/{index // 100}"
                entry = tarfile.TarInfo(folder); entry.type = tarfile.DIRTYPE; entry.mode = 0o755; tar.addfile(entry)
            # A few large files and many small ones, as images have.
            size = mean * 20 if index % 40 == 0 else mean // 2
            start = chance.randrange(len(pool) - 1)
            body = (pool[start:] + pool * (size // len(pool) + 1))[:size]
            entry = tarfile.TarInfo(f"{folder}/file{index}"); entry.size = len(body); entry.mode = 0o644
            tar.addfile(entry, io.BytesIO(body))
    plain.append("sha256:" + hashlib.sha256(raw.getvalue()).hexdigest())
    layers.append(blob(gzip.compress(raw.getvalue(), 6, mtime=0), kind + "layer.v1.tar+gzip"))
config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/true"]}, "rootfs": {"type": "layers", "diff_ids": plain}}).encode()
manifest = blob(json.dumps({"schemaVersion": 2, "mediaType": kind + "manifest.v1+json", "config": blob(config, kind + "config.v1+json"), "layers": layers}).encode(), kind + "manifest.v1+json")
manifest["annotations"] = {"org.opencontainers.image.ref.name": "localhost/large:1"}
open(out + "/oci-layout", "w").write('{"imageLayoutVersion":"1.0.0"}')
open(out + "/index.json", "w").write(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
PY
echo '{"default": [{"type": "insecureAcceptAnything"}]}' >"$work/policy.json"
# timed COMMAND…: seconds, or why there is no figure.
timed() {
  local began=${EPOCHREALTIME/./} ended
  "$@" >"$work/log" 2>&1 || { echo "failed: $(tail -1 "$work/log" | tr '|\t' '  ' | cut -c1-120)"; return; }
  ended=${EPOCHREALTIME/./}
  python3 -c "print(($ended - $began) / 1e6)"
}
ours() { timed target/release/kernelet image load --data-dir "$work/ours" "$work/layout"; rm -rf "$work/ours"; }
podman_pull() {
  command -v podman >/dev/null || { echo "podman cannot be had"; return; }
  timed podman --root "$work/podman/root" --runroot "$work/podman/run" --storage-driver overlay pull --signature-policy "$work/policy.json" "oci:$work/layout:localhost/large:1"
  umount "$work/podman/root/overlay" 2>/dev/null || true
  rm -rf --one-file-system "$work/podman"
}
both() { skopeo --policy "$work/policy.json" copy "oci:$work/layout:localhost/large:1" "oci:$work/copy:1" && umoci unpack --image "$work/copy:1" "$work/bundle"; }
skopeo_umoci() {
  { command -v skopeo && command -v umoci; } >/dev/null || { echo "skopeo and umoci cannot be had"; return; }
  timed both
  rm -rf "$work/copy" "$work/bundle"
}
for ((round = 0; round < ${ROUNDS:-1}; round++)); do
  printf '%s\t%s\t%s\n' "$(ours)" "$(podman_pull)" "$(skopeo_umoci)"
done >"$work/figures"
python3 - "$work/figures" "${FILES:-30000}" "${MEGABYTES:-500}" <<'PY'
import sys
rows = [line.rstrip("\n").split("\t") for line in open(sys.argv[1])]
def least(column):
    try: return min(float(row[column]) for row in rows), ""
    except ValueError: return None, rows[0][column]
ours, why = least(0)
name, budget = f"unpack of an image of {sys.argv[3]} MB in {int(sys.argv[2]):,} files", "≤ 0.5 × podman"
if ours is None:
    print(f"| {name} | not measured: {why} | {budget} |")
else:
    beside = []
    for column, peer in ((1, "podman"), (2, "skopeo and umoci")):
        figure, why = least(column)
        beside.append(f"{ours / figure:.2f} × {peer} ({figure:.2f} s)" if figure else f"{peer}: {why}")
    print(f"| {name} | {ours:.2f} s: {', '.join(beside)} | {budget} |")
PY
