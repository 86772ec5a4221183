# buildah: its own containers through the runtime, and a Dockerfile.

b() { CONTAINERS_CONF=$work/containers.conf buildah --root "$work/buildah/root" --runroot "$work/buildah/run" "$@"; }
ran() { b run --runtime "$runtime" --isolation oci --network none "$@"; }
cases_of_buildah() {
  command -v buildah >/dev/null || { echo "SKIP buildah: all: buildah cannot be installed"; return; }
  printf '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n' >"$work/containers.conf"
  after_case() { b rm -a; b rmi -af; }
  holds "run in a container from scratch" 'c=$(b from scratch); b copy -q $c $work/image /; b config --env PATH=/bin $c; is hello ran $c -- echo hello; ends 3 ran $c -- sh -c "exit 3"'
  holds "run with a user, a volume and a working folder" 'c=$(b from scratch); b copy -q $c $work/image /; b config --env PATH=/bin --workingdir /tmp $c; mkdir v; is "1000 /tmp" ran --user user -v $PWD/v:/v $c -- sh -c "echo \$(id -u) \$(pwd)"'
  holds "run with a terminal" 'c=$(b from scratch); b copy -q $c $work/image /; b config --env PATH=/bin $c; has "/dev/" in_terminal bash -c "$(declare -f b); work=$work; b run --runtime $runtime --isolation oci --network none -t $c -- tty"'
  holds "capabilities are added and dropped" 'c=$(b from scratch); b copy -q $c $work/image /; b config --env PATH=/bin $c; hasnt "^0000000000000000$" ran --cap-add CAP_SYS_ADMIN $c -- sh -c "grep CapEff /proc/self/status | cut -f2"'
  holds "bud runs the steps of a Dockerfile" '
    cp -a $work/image context; printf "FROM scratch\nCOPY . /\nENV PATH=/bin\nRUN echo built >/built && chmod 4755 /bin/busybox\nUSER user\nRUN id -u >/tmp/who\nRUN --mount=type=tmpfs,target=/scratch touch /scratch/x\n" >Dockerfile
    b bud -q --runtime $runtime --isolation oci --network none -t localhost/interop-bud -f Dockerfile context
    c=$(b from localhost/interop-bud); is built ran $c -- cat /built; is 1000 ran $c -- cat /tmp/who'
  holds "a step that fails ends the build with its code" '
    cp -a $work/image context; printf "FROM scratch\nCOPY . /\nENV PATH=/bin\nRUN exit 5\n" >Dockerfile
    has "exit status 5" b bud --runtime $runtime --isolation oci --network none -f Dockerfile context'
  after_case
  after_case() { :; }
  umount "$work"/buildah/root/overlay 2>/dev/null
}
