# podman as an ordinary user: a user namespace through newuidmap, storage without overlay, no cgroup of its own.

# The user may read the program, and has a folder of its own for everything.
as_user() { setpriv --reuid 7001 --regid 7001 --clear-groups env -i HOME="$work/home" XDG_RUNTIME_DIR="$work/home/run" PATH="$PATH" CONTAINERS_CONF="$work/home/containers.conf" USER=interop "$@"; }
u() { as_user podman --root "$work/home/storage" --runroot "$work/home/run/containers" --storage-driver vfs --runtime "$runtime" --cgroup-manager cgroupfs "$@"; }
u_run() { u run --rm "$@"; }
u_started() { u run -d --name "$id" "$@" >/dev/null; }
cases_of_rootless() {
  command -v podman newuidmap >/dev/null || { echo "SKIP rootless: all: podman or newuidmap cannot be installed"; return; }
  mkdir -p "$work/home/run"; chmod 700 "$work/home/run"; cp "$work/image.tar" "$work/home/image.tar"
  printf '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\nnetns = "none"\n[engine]\nevents_logger = "file"\n' >"$work/home/containers.conf"
  chown -R 7001:7001 "$work/home"
  cd "$work/home"
  runtime=$ours
  u import -c 'CMD ["/bin/sh"]' -c 'ENV PATH=/bin' "$work/home/image.tar" localhost/interop:1 >"$work/import.log" 2>&1 || { echo "SKIP rootless: all: an image cannot be imported: $(tail -1 "$work/import.log")"; cd /; return; }
  image=localhost/interop:1
  after_case() { u rm -af -t 0; u pod rm -af -t 0; }
  holds "run prints what the program prints" 'is hello u_run $image echo hello'
  holds "run takes the program's exit code" 'ends 7 u_run $image sh -c "exit 7"; ends 127 u_run $image /nothing'
  holds "root in the container is the user outside" 'has "^ *0 +7001 +1$" u_run $image cat /proc/self/uid_map; has "^ *1 +700000 +65536$" u_run $image cat /proc/self/uid_map'
  holds "another user in the container" 'is "1000 1000" u_run -u user $image sh -c "echo \$(id -u) \$(id -g)"'
  holds "userns=keep-id" 'is 7001 u_run --userns keep-id $image id -u'
  holds "userns=nomap" 'u_run --userns nomap $image true'
  holds "files of a volume belong to the user" 'u_run -v $PWD:/v $image touch /v/f; is 7001 stat -c %u f'
  holds "run -it" 'has "/dev/pts/" in_terminal setpriv --reuid 7001 --regid 7001 --clear-groups env -i HOME=$work/home XDG_RUNTIME_DIR=$work/home/run PATH=$PATH CONTAINERS_CONF=$work/home/containers.conf podman --root $work/home/storage --runroot $work/home/run/containers --storage-driver vfs --runtime $runtime --cgroup-manager cgroupfs run --rm -it $image tty'
  holds "exec" 'u_started $image sleep 100; is in u exec $id echo in; ends 9 u exec $id sh -c "exit 9"; is 1000 u exec -u user $id id -u'
  holds "stop and logs" 'u_started $image sh -c "trap \"exit 5\" TERM; echo up; while :; do sleep 0.1; done"; soon has up u logs $id; u stop -t 8 $id; is 5 u inspect -f "{{.State.ExitCode}}" $id'
  holds "kill" 'u_started $image sleep 100; u kill -s KILL $id; soon is exited u inspect -f "{{.State.Status}}" $id'
  holds "--read-only and tmpfs" 'has "Read-only" u_run --read-only $image touch /f; u_run --tmpfs /t $image touch /t/f'
  holds "the default seccomp profile filters" 'is 2 u_run $image sh -c "grep Seccomp: /proc/self/status | cut -f2"'
  holds "capabilities are those of the namespace" 'hasnt "^0000000000000000$" u_run $image sh -c "grep CapEff /proc/self/status | cut -f2"; is 0000000000000000 u_run --cap-drop ALL $image sh -c "grep CapEff /proc/self/status | cut -f2"'
  holds "hostname and sysctl" 'is "box 1" u_run --hostname box --sysctl net.ipv4.ip_forward=1 $image sh -c "echo \$(hostname) \$(cat /proc/sys/net/ipv4/ip_forward)"'
  holds "a pod" 'u pod create --name $id --share net,ipc,uts; u run -d --pod $id --name $id-a $image sleep 100; u run --pod $id $image true'
  holds "the host's network" 'is "$(readlink /proc/self/ns/net)" u_run --net host $image readlink /proc/self/ns/net'
  after_case
  u system reset -f >/dev/null 2>&1
  # The process that holds the user's namespace.
  kill "$(cat "$work/home/run/libpod/tmp/pause.pid" 2>/dev/null)" 2>/dev/null
  after_case() { :; }
  cd /
}
