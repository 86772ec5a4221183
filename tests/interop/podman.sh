# podman as root, with conmon, overlay storage and cgroupfs.

p() { CONTAINERS_CONF=$work/containers.conf podman --root "$work/podman/root" --runroot "$work/podman/run" --tmpdir "$work/podman/tmp" --runtime "$runtime" "$@"; }
r() { p run --rm "$@"; }
# A container that runs until it is told to end, and its first process.
started() { p run -d --name "$id" "$@" >/dev/null; }
pid() { p inspect -f '{{.State.Pid}}' "${1:-$id}"; }
state() { p inspect -f '{{.State.Status}}' "${1:-$id}"; }
after_podman() { p pod rm -af -t 0; p rm -af -t 0; p volume prune -f; }

podman_prepare() {
  # Hard limits as high as podman's own defaults can't be had everywhere.
  cat >"$work/containers.conf" <<CONF
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
netns = "none"
cgroupns = "private"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime_supports_json = ["kernelet-oci", "runc", "crun"]
CONF
  runtime=$ours
  p import -c 'CMD ["/bin/sh"]' -c 'ENV PATH=/bin' "$work/image.tar" localhost/interop:1 >"$work/import.log" 2>&1 || { echo "FAIL $tool: an image can be imported"; tail -3 "$work/import.log"; failed=1; return 1; }
  image=localhost/interop:1
}

cases_of_podman() {
  command -v podman conmon >/dev/null || { echo "SKIP podman: all: podman cannot be installed"; return; }
  podman_prepare || return
  after_case() { after_podman; }
  holds "run prints what the program prints" 'is hello r $image echo hello'
  holds "run takes the program's exit code" 'ends 7 r $image sh -c "exit 7"'
  holds "run of what isn't there ends with 127" 'ends 127 r $image /nothing'
  holds "run of what can't be executed ends with 126" 'ends 126 r $image /etc/notexecutable'
  holds "run of a program that a signal ends gives 128 more" 'started $image sleep 100; p kill -s KILL $id; is 137 p wait $id'
  holds "run -i feeds standard input" 'echo fed >in; is fed r -i $image cat <in'
  holds "run -it gives a terminal of the caller's size" 'has "^24 80$" in_terminal_p run --rm -it $image sh -c "tty; stty size"'
  holds "run -d, logs and wait" 'started $image sh -c "echo out; echo err >&2; exit 3"; is 3 p wait $id; has out p logs $id; has err p logs $id'
  holds "--rm leaves no container" 'r --name $id $image true; ends 1 p container exists $id'
  holds "env, workdir and user" 'is "v /tmp 1000 1000" r -e K=v -w /tmp -u 1000:1000 $image sh -c "echo \$K \$(pwd) \$(id -u) \$(id -g)"'
  holds "a user by name brings its groups" 'has "uid=1000.*2000" r -u user $image id'
  holds "group-add" 'has "3000" r --group-add 3000 $image id'
  holds "umask" 'is 0027 r --umask 0027 $image sh -c umask'
  holds "a volume is written" 'r -v $PWD:/v $image sh -c "echo x >/v/f"; is x cat f'
  holds "a read-only volume is not written" 'has "Read-only" r -v $PWD:/v:ro $image touch /v/f; [ ! -e f ]'
  holds "a named volume keeps its content" 'p volume create $id; r -v $id:/v $image sh -c "echo y >/v/f"; is y r -v $id:/v $image cat /v/f; p volume rm $id'
  holds "a file as a volume" 'echo z >f; is z r -v $PWD/f:/etc/f:ro $image cat /etc/f'
  holds "tmpfs with a size" 'has "size=64k" r --tmpfs /t:size=64k $image mount'
  holds "tmpcopyup of an image's folder" 'is user r --mount type=tmpfs,destination=/etc,tmpcopyup $image sh -c "cut -d: -f1 /etc/passwd | tail -1"'
  holds "--read-only" 'has "Read-only" r --read-only $image touch /f'
  holds "--read-only leaves tmpfs at /tmp" 'r --read-only $image touch /tmp/f'
  holds "shm-size" 'has "/dev/shm.*size=1024k" r --shm-size 1m $image mount'
  holds "propagation of a volume" 'mkdir d; mount --bind d d; mount --make-shared d; has " shared:[0-9]+|master" r -v $PWD/d:/d:rshared $image grep " /d " /proc/self/mountinfo; umount d'
  holds "--init is process 1" 'has "catatonit|podman-init" r --init $image sh -c "cat /proc/1/cmdline"'
  holds "default capabilities" 'is 00000000a80425fb r $image sh -c "grep CapEff /proc/self/status | cut -f2"'
  holds "cap-add" 'is 00000000a82425fb r --cap-add SYS_ADMIN $image sh -c "grep CapEff /proc/self/status | cut -f2"'
  holds "cap-drop all" 'is 0000000000000000 r --cap-drop ALL $image sh -c "grep CapBnd /proc/self/status | cut -f2"'
  holds "a user has no capability" 'is 0000000000000000 r -u 1000 $image sh -c "grep CapEff /proc/self/status | cut -f2"'
  holds "privileged" 'has "^rw" r --privileged $image sh -c "grep \" /sys \" /proc/self/mountinfo | cut -d\" \" -f6"'
  holds "the default seccomp profile filters" 'is 2 r $image sh -c "grep Seccomp: /proc/self/status | cut -f2"'
  holds "seccomp=unconfined" 'is 0 r --security-opt seccomp=unconfined $image sh -c "grep Seccomp: /proc/self/status | cut -f2"'
  holds "a seccomp profile of the user's" 'echo "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":[{\"names\":[\"mkdir\",\"mkdirat\"],\"action\":\"SCMP_ACT_ERRNO\",\"errnoRet\":95}]}" >s.json; has "not supported" r --security-opt seccomp=s.json $image mkdir /tmp/d'
  holds "no-new-privileges" 'is 1 r --security-opt no-new-privileges $image sh -c "grep NoNewPrivs /proc/self/status | cut -f2"'
  holds "paths are masked, and unmasked" 'is 0 r $image sh -c "wc -c </proc/timer_list 2>/dev/null || echo 0"; hasnt "/proc/timer_list" r --security-opt unmask=ALL $image cat /proc/self/mountinfo; has "/proc/acpi|/proc/kcore" r $image cat /proc/self/mountinfo'
  holds "a device" 'has "1, *9" r --device /dev/urandom:/dev/dice $image ls -l /dev/dice'
  holds "a device that may only be read" 'has "not permitted|denied" r --device /dev/fuse:/dev/z:r $image sh -c "echo x >/dev/z"'
  holds "other devices are refused" 'has "not permitted" r --cap-add MKNOD $image sh -c "mknod /m b 254 0; cat /m"'
  holds "memory, cpus and pids limits are the kernel's" 'started --memory 64m --cpus 0.5 --pids-limit 50 $image sleep 100; is 67108864 limit_of $(pid) memory; is 50 limit_of $(pid) pids; is "50000 100000" limit_of $(pid) quota'
  holds "cpuset" 'started --cpuset-cpus 0 $image sleep 100; is 0 limit_of $(pid) cpus'
  holds "cpu shares" 'started --cpu-shares 512 $image sleep 100; version2 || is 512 cgroup_of $(pid) cpu cpu.shares'
  holds "memory reservation and swap" 'started --memory 64m --memory-reservation 32m --memory-swap 64m $image sleep 100; version2 || is 33554432 cgroup_of $(pid) memory memory.soft_limit_in_bytes'
  holds "a container out of memory is killed" 'ends 137 r --memory 16m --memory-swap 16m $image sh -c "exec tail -c 100m /dev/zero"'
  holds "ulimit" 'is 100 r --ulimit nofile=100:200 --ulimit nproc=1024:1024 $image sh -c "ulimit -n"'
  holds "oom-score-adj" 'is 500 r --oom-score-adj 500 $image cat /proc/self/oom_score_adj'
  holds "userns=auto" 'hasnt "^ *0 +0 +4294967295" r --userns=auto $image cat /proc/self/uid_map'
  holds "uidmap" 'has "^ *0 +5000 +1000$" r --uidmap 0:5000:1000 --gidmap 0:5000:1000 $image cat /proc/self/uid_map'
  holds "a mapped root owns its files" 'is 0 r --uidmap 0:5000:2000 --gidmap 0:5000:2000 $image stat -c %u /etc/passwd'
  holds "pid=host" 'is $(cat /proc/1/comm) r --pid host $image cat /proc/1/comm'
  holds "pid=container" 'started $image sleep 101; has "sleep 101" r --pid container:$id $image ps'
  holds "net=host" 'is "$(readlink /proc/self/ns/net)" r --net host $image readlink /proc/self/ns/net'
  holds "net=container" 'started $image sleep 100; is "$(readlink /proc/$(pid)/ns/net)" r --net container:$id $image readlink /proc/self/ns/net'
  holds "ipc=host" 'is "$(readlink /proc/self/ns/ipc)" r --ipc host $image readlink /proc/self/ns/ipc'
  holds "ipc=container" 'started --ipc shareable $image sleep 100; is "$(readlink /proc/$(pid)/ns/ipc)" r --ipc container:$id $image readlink /proc/self/ns/ipc'
  holds "uts=host" 'is "$(hostname)" r --uts host $image hostname'
  holds "cgroupns=host shows the whole path" 'has "libpod" r --cgroupns host $image cat /proc/self/cgroup'
  holds "cgroup-parent" 'started --cgroup-parent /interop-$id $image sleep 100; has "/interop-$id/libpod" cat /proc/$(pid)/cgroup; p rm -ft0 $id'
  holds "hostname" 'is box r --hostname box $image hostname'
  holds "sysctl" 'is 1 r --sysctl net.ipv4.ip_forward=1 $image cat /proc/sys/net/ipv4/ip_forward'
  holds "annotations and labels" 'started --annotation a=b -l c=d $image sleep 100; is b p inspect -f "{{index .Config.Annotations \"a\"}}" $id'
  holds "hooks of the hooks folder" 'mkdir h; printf "#!/bin/sh\ncat >$PWD/seen\n" >hook; chmod +x hook; echo "{\"version\":\"1.0.0\",\"hook\":{\"path\":\"$PWD/hook\"},\"when\":{\"always\":true},\"stages\":[\"createRuntime\"]}" >h/a.json; p --hooks-dir $PWD/h run --rm $image true; has "\"pid\": *[1-9]" cat seen'
  holds "exec: exit codes" 'started $image sleep 100; ends 9 p exec $id sh -c "exit 9"; ends 127 p exec $id nothing'
  holds "exec: env, user, workdir" 'started $image sleep 100; is "w 1000 /tmp" p exec -e K=w -u user -w /tmp $id sh -c "echo \$K \$(id -u) \$(pwd)"'
  holds "exec -it" 'started $image sleep 100; has "/dev/pts/" in_terminal_p exec -it $id tty'
  holds "exec -i" 'started $image sleep 100; echo fed >in; is fed p exec -i $id cat <in'
  holds "exec -d" 'started $image sleep 100; p exec -d $id touch /tmp/done; soon p exec $id test -e /tmp/done'
  holds "exec --privileged" 'started $image sleep 100; hasnt "^0000000000000000$" p exec --privileged $id sh -c "grep CapEff /proc/self/status | cut -f2"'
  holds "exec joins every namespace" 'started $image sleep 100; for n in pid net ipc uts mnt cgroup; do is "$(readlink /proc/$(pid)/ns/$n)" p exec $id readlink /proc/self/ns/$n; done'
  holds "stop lets the program end" 'started $image sh -c "trap \"exit 5\" TERM; echo up; while :; do sleep 0.1; done"; soon has up p logs $id; p stop -t 8 $id; is 5 p inspect -f "{{.State.ExitCode}}" $id'
  holds "stop kills after its time" 'started $image sh -c "trap : TERM; echo up; while :; do sleep 0.1; done"; soon has up p logs $id; p stop -t 1 $id; is 137 p inspect -f "{{.State.ExitCode}}" $id'
  holds "kill sends the signal" 'started $image sh -c "trap \"echo got\" USR1; echo up; while :; do sleep 0.1; done"; soon has up p logs $id; p kill -s USR1 $id; soon has got p logs $id'
  holds "pause and unpause" 'started $image sleep 100; p pause $id; is paused state; p unpause $id; is running state; p exec $id true'
  holds "a paused container is removed by force" 'started $image sleep 100; p pause $id; p rm -f -t 0 $id'
  holds "restart" 'started $image sleep 100; before=$(pid); p restart -t 0 $id; is running state; [ "$before" != "$(pid)" ]'
  holds "a restart policy" 'started --restart on-failure:2 $image false; soon is 2 p inspect -f "{{.RestartCount}}" $id'
  holds "create, init and start" 'p create --name $id $image echo made; p init $id; is initialized state; is made p start -a $id'
  holds "attach" 'p create --name $id -i $image cat; echo fed >in; has fed p start -ai $id <in'
  holds "inspect knows runtime and process" 'started $image sleep 100; is $runtime p inspect -f "{{.OCIRuntime}}" $id; [ -d /proc/$(pid) ]'
  holds "top" 'started $image sleep 102; has "sleep 102" p top $id'
  holds "stats" 'started $image sleep 100; has "$id" p stats --no-stream $id'
  holds "healthcheck" 'started --health-cmd "test -e /tmp/ok" --health-interval disable $image sleep 100; ends 1 p healthcheck run $id; p exec $id touch /tmp/ok; p healthcheck run $id'
  holds "cp and diff" 'started $image sleep 100; echo c >f; p cp f $id:/tmp/f; is c p exec $id cat /tmp/f; has "/tmp/f" p diff $id'
  holds "commit" 'started $image sh -c "echo kept >/kept; sleep 100"; soon p exec $id test -s /kept; p commit -q $id localhost/$id:1; is kept r localhost/$id:1 cat /kept; p rmi -f localhost/$id:1'
  holds "update of limits" 'started --memory 64m $image sleep 100; p update --memory 32m $id; is 33554432 limit_of $(pid) memory'
  holds "a folder as the root" 'is hi r --rootfs $work/image echo hi'
  holds "preserve-fds" 'echo q >f; exec 3<f; is q r --preserve-fds 1 $image sh -c "cat <&3"'
  holds "a read-only cgroup mount" 'has "/sys/fs/cgroup.* ro," r $image cat /proc/self/mountinfo'
  holds "volumes-from" 'started -v $PWD:/v $image sleep 100; echo f >f; is f r --volumes-from $id $image cat /v/f'
  holds "entrypoint" 'is "ep x" r --entrypoint echo $image ep x'
  holds "/dev is complete" 'for d in null zero full random urandom tty; do r $image test -c /dev/$d; done; is /proc/self/fd r $image readlink /dev/fd'
  holds "no descriptor is passed on" 'is "0 1 2 3" r $image sh -c "echo \$(ls /proc/self/fd)"'
  holds "a pod shares namespaces" 'p pod create --name $id --share net,ipc,uts; p run -d --pod $id --name $id-a $image sleep 100; p run -d --pod $id --name $id-b $image sleep 100; for n in net ipc uts; do is "$(readlink /proc/$(pid $id-a)/ns/$n)" readlink /proc/$(pid $id-b)/ns/$n; done; [ "$(readlink /proc/$(pid $id-a)/ns/mnt)" != "$(readlink /proc/$(pid $id-b)/ns/mnt)" ]; p pod stop -t 0 $id; p pod rm -f $id'
  holds "a pod that shares its processes" 'p pod create --name $id --share pid,net; p run -d --pod $id --name $id-a $image sleep 103; has "sleep 103" r --pod $id $image ps'
  holds "play kube" 'kube_of $id >k.yaml; p play kube --network none k.yaml || p play kube k.yaml; soon has told p logs $id-main; is 33554432 limit_of $(pid $id-main) memory; p play kube --down k.yaml'
  holds "generate kube" 'started -e K=v $image sleep 100; has "name: K" p generate kube $id'
  holds "generate systemd" 'started $image sleep 100; has "ExecStart=" p generate systemd $id'
  holds "ten containers at once" 'for i in 1 2 3 4 5 6 7 8 9 10; do p run --rm $image sh -c "exit $i" & pids[$i]=$!; done; for i in 1 2 3 4 5 6 7 8 9 10; do ends $i wait ${pids[$i]}; done'
  holds "a container's log keeps every line" 'started $image sh -c "seq 20000"; p wait $id; is 20000 sh -c "$(declare -f p); work=$work runtime=$runtime id=$id; p logs $id | wc -l"'
  after_case
  p system reset -f >/dev/null 2>&1
  after_case() { :; }
}
in_terminal_p() { CONTAINERS_CONF=$work/containers.conf in_terminal podman --root "$work/podman/root" --runroot "$work/podman/run" --tmpdir "$work/podman/tmp" --runtime "$runtime" "$@"; }
kube_of() {
  cat <<KUBE
apiVersion: v1
kind: Pod
metadata: {name: $1}
spec:
  hostNetwork: true
  containers:
  - name: main
    image: $image
    command: [sh, -c, "echo told; sleep 100"]
    resources: {limits: {memory: 32Mi}}
KUBE
}
