# containerd with its runc shim, driven by ctr.

c() { "$engines/usr/bin/ctr" --address "$work/containerd/socket" --namespace interop "$@"; }
ctr_run() { c run --snapshotter native --runtime io.containerd.runc.v2 --runc-binary "$runtime" "$@"; }
cases_of_ctr() {
  engines=${KERNELET_ENGINES:-}
  [ -x "$engines/usr/bin/containerd" ] || { echo "SKIP ctr: all: containerd's package cannot be had"; return; }
  mkdir -p "$work/containerd" && cat >"$work/containerd/config.toml" <<CONF
version = 2
root = "$work/containerd/root"
state = "$work/containerd/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs", "io.containerd.internal.v1.opt"]
[grpc]
address = "$work/containerd/socket"
CONF
  # The shim keeps its sockets below /run, and its containers' state beside them.
  mkdir -p /run/containerd
  PATH=$engines/usr/bin:$PATH "$engines/usr/bin/containerd" --config "$work/containerd/config.toml" >"$work/containerd/log" 2>&1 &
  local daemon=$!
  soon c version >/dev/null 2>&1 || { echo "FAIL ctr: containerd starts"; tail -3 "$work/containerd/log"; failed=1; kill $daemon; return; }
  oci_archive "$work/image.oci"
  c image import --snapshotter native "$work/image.oci" >"$work/import.log" 2>&1 || { echo "FAIL ctr: an image can be imported"; tail -3 "$work/import.log"; failed=1; kill $daemon; return; }
  image=localhost/interop:1
  after_case() { c task kill -a -s KILL "$id"; c task rm -f "$id"; c container rm "$id"; }
  holds "run prints what the program prints" 'is hello ctr_run --rm $image $id echo hello'
  holds "run takes the program's exit code" 'ends 7 ctr_run --rm $image $id sh -c "exit 7"'
  holds "run of what isn't there says so" 'has "nothing" ctr_run --rm $image $id /nothing'
  holds "run with a terminal" 'has "/dev/pts/" in_terminal "$engines/usr/bin/ctr" --address $work/containerd/socket --namespace interop run --snapshotter native --runc-binary $runtime --rm -t $image $id tty'
  holds "detached: task ls, ps, exec, kill" 'ctr_run -d $image $id sleep 104; has "$id.*RUNNING" c task ls; has "[0-9]" c task ps $id; is in c task exec --exec-id e1 $id echo in; ends 9 c task exec --exec-id e2 $id sh -c "exit 9"; c task kill -s KILL $id; soon has "$id.*STOPPED" c task ls'
  holds "exec with a terminal" 'ctr_run -d $image $id sleep 100; has "/dev/pts/" in_terminal "$engines/usr/bin/ctr" --address $work/containerd/socket --namespace interop task exec -t --exec-id e1 $id tty'
  holds "pause and resume" 'ctr_run -d $image $id sleep 100; c task pause $id; has "$id.*PAUSED" c task ls; c task resume $id; has "$id.*RUNNING" c task ls'
  holds "metrics come from the container's cgroup" 'ctr_run -d --cgroup /$id $image $id sleep 100; has "memory" c task metrics $id'
  holds "limits are the kernel's" 'ctr_run -d --cgroup /$id --memory-limit 67108864 $image $id sleep 100; is 67108864 limit_of $(c task ls | awk -v i=$id "\$1 == i {print \$2}") memory'
  holds "env, working folder, mounts" 'is "v 0 /tmp f" ctr_run --rm --env K=v --cwd /tmp --mount type=bind,src=$(echo f >f; echo $PWD),dst=/tmp,options=rbind:ro $image $id sh -c "echo \$K \$(id -u) \$(pwd) \$(cat /tmp/f)"'
  holds "the default seccomp profile filters" 'is 2 ctr_run --rm --seccomp $image $id sh -c "grep Seccomp: /proc/self/status | cut -f2"'
  holds "privileged" 'hasnt "^0000000000000000$" ctr_run --rm --privileged $image $id sh -c "grep CapEff /proc/self/status | cut -f2"'
  holds "devices" 'has "1, *9" ctr_run --rm --device /dev/urandom $image $id ls -l /dev/urandom'
  holds "the host's network" 'is "$(readlink /proc/self/ns/net)" ctr_run --rm --net-host $image $id readlink /proc/self/ns/net'
  holds "a mapped user namespace" 'has "^ *0 +5000 +1000$" ctr_run --rm --uidmap 0:5000:1000 --gidmap 0:5000:1000 $image $id cat /proc/self/uid_map'
  after_case() { :; }
  c image rm $image >/dev/null 2>&1
  kill $daemon; wait $daemon 2>/dev/null
  umount -R "$work/containerd" 2>/dev/null
}
# oci_archive FILE: the image as an OCI layout in a tar file.
oci_archive() {
  python3 - "$work/image.tar" "$1" <<'PY'
import hashlib, io, json, sys, tarfile
layer = open(sys.argv[1], "rb").read()
blobs = {}
def blob(data, media):
    digest = hashlib.sha256(data).hexdigest(); blobs[digest] = data
    return {"mediaType": media, "digest": "sha256:" + digest, "size": len(data)}
kind = "application/vnd.oci.image."
config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"]}, "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]}}).encode()
manifest = json.dumps({"schemaVersion": 2, "mediaType": kind + "manifest.v1+json", "config": blob(config, kind + "config.v1+json"), "layers": [blob(layer, kind + "layer.v1.tar")]}).encode()
entry = blob(manifest, kind + "manifest.v1+json")
entry["annotations"] = {"io.containerd.image.name": "localhost/interop:1", "org.opencontainers.image.ref.name": "1"}
files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(), **{"blobs/sha256/" + name: data for name, data in blobs.items()}}
with tarfile.open(sys.argv[2], "w") as out:
    for name, data in files.items():
        member = tarfile.TarInfo(name); member.size = len(data); out.addfile(member, io.BytesIO(data))
PY
}
