# Docker's engine, with the runtime added beside its own.

d() { "$engines/usr/bin/docker" --host "unix://$work/docker/socket" "$@"; }
d_run() { d run --runtime "$(docker_name)" --rm "$@"; }
d_started() { d run --runtime "$(docker_name)" -d --name "$id" "$@" >/dev/null; }
docker_name() { case $runtime in */kernelet-oci) echo kernelet ;; *) echo "peer-$(basename "$runtime")" ;; esac; }
d_pid() { d inspect -f '{{.State.Pid}}' "$id"; }
cases_of_docker() {
  engines=${KERNELET_ENGINES:-}
  [ -x "$engines/usr/sbin/dockerd" ] || { echo "SKIP docker: all: docker.io's package cannot be had"; return; }
  mkdir -p "$work/docker"
  local peer runtimes=(--add-runtime "kernelet=$ours")
  for peer in $peers; do runtimes+=(--add-runtime "peer-$(basename "$peer")=$peer"); done
  PATH=$engines/usr/bin:$engines/usr/sbin:$PATH "$engines/usr/sbin/dockerd" --data-root "$work/docker/data" --exec-root "$work/docker/exec" --pidfile "$work/docker/pid" \
    --host "unix://$work/docker/socket" --storage-driver vfs --iptables=false --ip6tables=false --ip-masq=false --bridge none --userland-proxy=false "${runtimes[@]}" --default-runtime kernelet \
    --exec-opt native.cgroupdriver=cgroupfs >"$work/docker/log" 2>&1 &
  local daemon=$! deadline=$((SECONDS + 20))
  until d version >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] && kill -0 $daemon 2>/dev/null || { echo "SKIP docker: all: dockerd does not start on this machine: $(grep -E 'failed|error' "$work/docker/log" | tail -1 | cut -c1-200)"; kill $daemon 2>/dev/null; wait $daemon; return; }
    sleep 0.2
  done
  d import -c 'CMD ["/bin/sh"]' -c 'ENV PATH=/bin' "$work/image.tar" interop:1 >/dev/null || { echo "FAIL docker: an image can be imported"; failed=1; }
  image=interop:1
  after_case() { d rm -f "$id"; }
  holds "run prints what the program prints" 'is hello d_run $image echo hello'
  holds "run takes the program's exit code" 'ends 7 d_run $image sh -c "exit 7"'
  holds "run of what isn't there ends with 127" 'ends 127 d_run $image /nothing'
  holds "run of what can't be executed ends with 126" 'ends 126 d_run $image /etc/notexecutable'
  holds "run -it" 'has "/dev/(pts/|console)" in_terminal "$engines/usr/bin/docker" --host unix://$work/docker/socket run --runtime $(docker_name) --rm -it $image tty'
  holds "run -i feeds standard input" 'echo fed >in; is fed d_run -i $image cat <in'
  holds "env, user, working folder, hostname" 'is "v 1000 /tmp box" d_run -e K=v -u user -w /tmp --hostname box $image sh -c "echo \$K \$(id -u) \$(pwd) \$(hostname)"'
  holds "limits are the kernel's" 'd_started --memory 64m --cpus 0.5 --pids-limit 50 $image sleep 100; is 67108864 limit_of $(d_pid) memory; is 50 limit_of $(d_pid) pids; is "50000 100000" limit_of $(d_pid) quota'
  holds "update of limits" 'd_started --memory 64m $image sleep 100; d update --memory 32m --memory-swap 64m $id; is 33554432 limit_of $(d_pid) memory'
  holds "out of memory is told" 'ends 137 d run --runtime $(docker_name) --name $id --memory 16m --memory-swap 16m $image sh -c "exec tail -c 100m /dev/zero"; is true d inspect -f "{{.State.OOMKilled}}" $id'
  holds "volumes" 'echo f >f; is f d_run -v $PWD:/v:ro $image cat /v/f; has "Read-only" d_run -v $PWD:/v:ro $image touch /v/g'
  holds "--read-only and tmpfs" 'has "Read-only" d_run --read-only $image touch /f; d_run --read-only --tmpfs /tmp $image touch /tmp/f'
  holds "capabilities" 'is 00000000a80425fb d_run $image sh -c "grep CapEff /proc/self/status | cut -f2"; is 0000000000000000 d_run --cap-drop ALL $image sh -c "grep CapEff /proc/self/status | cut -f2"'
  holds "the default seccomp profile filters" 'is 2 d_run $image sh -c "grep Seccomp: /proc/self/status | cut -f2"'
  holds "privileged" 'is 0 d_run --privileged $image sh -c "grep Seccomp: /proc/self/status | cut -f2"'
  holds "--init" 'has "docker-init|tini" d_run --init $image cat /proc/1/cmdline'
  holds "devices" 'has "1, *9" d_run --device /dev/urandom:/dev/dice $image ls -l /dev/dice'
  holds "sysctl and ulimit" 'is "1 100" d_run --sysctl net.ipv4.ip_forward=1 --ulimit nofile=100:200 $image sh -c "echo \$(cat /proc/sys/net/ipv4/ip_forward) \$(ulimit -n)"'
  holds "exec" 'd_started $image sleep 100; is in d exec $id echo in; ends 9 d exec $id sh -c "exit 9"; ends 126 d exec $id nothing; is 1000 d exec -u user $id id -u'
  holds "exec -it" 'd_started $image sleep 100; has "/dev/pts/" in_terminal "$engines/usr/bin/docker" --host unix://$work/docker/socket exec -it $id tty'
  holds "stop, kill, restart" 'd_started $image sh -c "trap \"exit 5\" TERM; echo up; while :; do sleep 0.1; done"; soon has up d logs $id; d stop -t 8 $id; is 5 d inspect -f "{{.State.ExitCode}}" $id; d restart -t 0 $id; d kill $id; is 137 d inspect -f "{{.State.ExitCode}}" $id'
  holds "pause and unpause" 'd_started $image sleep 100; d pause $id; is paused d inspect -f "{{.State.Status}}" $id; d unpause $id; d exec $id true'
  holds "top and stats" 'd_started $image sleep 105; has "sleep 105" d top $id; has "$id" d stats --no-stream $id'
  holds "healthcheck" 'd_started --health-cmd "test -e /tmp/ok" --health-interval 1s $image sh -c "touch /tmp/ok; sleep 100"; soon is healthy d inspect -f "{{.State.Health.Status}}" $id'
  holds "namespaces of another container" 'd_started --ipc shareable $image sleep 106; has "sleep 106" d_run --pid container:$id $image ps; is "$(readlink /proc/$(d_pid)/ns/ipc)" d_run --ipc container:$id $image readlink /proc/self/ns/ipc; is "$(readlink /proc/$(d_pid)/ns/net)" d_run --network container:$id $image readlink /proc/self/ns/net'
  holds "the host's namespaces" 'is "$(readlink /proc/self/ns/ipc)" d_run --ipc host $image readlink /proc/self/ns/ipc; is "$(cat /proc/1/comm)" d_run --pid host $image cat /proc/1/comm'
  holds "build runs its steps" 'mkdir c; printf "FROM interop:1\nRUN echo built >/built\n" >c/Dockerfile; DOCKER_BUILDKIT=0 d build -q -t $id c; is built d_run $id cat /built; d rmi -f $id'
  after_case() { :; }
  d rmi -f interop:1 >/dev/null 2>&1
  kill $daemon; wait $daemon 2>/dev/null
  umount -R "$work/docker" 2>/dev/null
}
