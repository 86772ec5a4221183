#!/usr/bin/env bash
# A stock control plane to compare with: kube-apiserver, kube-controller-manager and kube-scheduler, built from Go modules,
# over Debian's etcd 3.5, on loopback. Needs go and openssl; the build takes half an hour on two cores.
#
#   oracle.sh build          builds what isn't built
#   oracle.sh start | stop   starts it and prints its kubeconfig; stops it
#   oracle.sh record [CASE…] starts it, records golden/ with each kubectl, stops it
#
# ORACLE_DIR is where everything lies [default: oracle in the cache]; ORACLE_PORT the first of its five ports.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../install.sh"
dir=${ORACLE_DIR:-$cache/oracle}
port=${ORACLE_PORT:-27500}
version=v1.35.0 staging=v0.35.0
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

build() {
  mkdir -p "$dir/src" "$dir/bin" "$dir/tmp"
  if [ ! -x "$dir/bin/etcd" ]; then
    # Debian 12's is 3.4: under load its watches fall minutes behind.
    debian_package trixie etcd-server "$dir/etcd" && cp "$dir/etcd/usr/bin/etcd" "$dir/bin/etcd"; rm -rf "$dir/etcd"
  fi
  cd "$dir/src"
  export GOPATH="$dir/gopath" GOCACHE="$dir/gocache" GOTMPDIR="$dir/tmp" GOFLAGS="-mod=mod -modcacherw" CGO_ENABLED=0
  go mod download "k8s.io/kubernetes@$version"
  local module=$GOPATH/pkg/mod/k8s.io/kubernetes@$version program version_of=k8s.io/component-base/version
  # Upstream's module names its staging modules by path; here they are modules like any other.
  sed -E "s|^module .*|module oracle|; s#(k8s\.io/[a-z-]+) => \./staging/.*#\1 => \1 $staging#; 0,/^require \(/s##require (\n\tk8s.io/kubernetes $version#" \
    "$module/go.mod" >go.mod
  cp "$module/go.sum" go.sum 2>/dev/null || true
  chmod u+w go.mod go.sum 2>/dev/null || true
  for program in kube-apiserver kube-controller-manager kube-scheduler; do
    printf 'package oracle\n\nimport _ "k8s.io/kubernetes/cmd/%s/app"\n' "$program" >"$program.go"
  done
  for program in kube-apiserver kube-controller-manager kube-scheduler; do
    [ -x "$dir/bin/$program" ] || nice -n 19 go build -trimpath -o "$dir/bin/" \
      -ldflags="-s -w -X $version_of.gitVersion=$version -X $version_of.gitMajor=1 -X $version_of.gitMinor=35 -X $version_of.gitTreeState=clean" \
      "k8s.io/kubernetes/cmd/$program"
  done
}

# certificate NAME SUBJECT [EXTENSION]
certificate() {
  openssl req -new -newkey rsa:2048 -nodes -keyout "$1.key" -out "$1.csr" -subj "$2" 2>/dev/null
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out "$1.crt" -extfile <(echo "${3:-basicConstraints=CA:FALSE}") 2>/dev/null
}

kubeconfig() {
  cat >"$1.kubeconfig" <<EOF
apiVersion: v1
kind: Config
clusters:
- {name: kernelet, cluster: {server: "https://127.0.0.1:$((port + 2))", certificate-authority-data: $(base64 -w0 ca.crt)}}
contexts:
- {name: kubernetes-admin@kernelet, context: {cluster: kernelet, user: kubernetes-admin}}
current-context: kubernetes-admin@kernelet
users:
- {name: kubernetes-admin, user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}}
EOF
}

# spawn NAME COMMAND…: a part of it, in a session of its own, its log beside it.
spawn() {
  local name=$1; shift
  setsid nohup "$@" >"$name.log" 2>&1 </dev/null &
  echo $! >"$name.pid"
}

start() {
  rm -rf "$dir/run"; mkdir -p "$dir/run"; cd "$dir/run"
  openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 30 -subj /CN=kubernetes 2>/dev/null
  openssl genrsa -out sa.key 2048 2>/dev/null; openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
  certificate server /CN=kube-apiserver "subjectAltName=IP:127.0.0.1,IP:10.96.0.1,DNS:localhost,DNS:kubernetes.default.svc"
  certificate admin /O=system:masters/CN=kubernetes-admin; kubeconfig admin
  certificate controllers /CN=system:kube-controller-manager; kubeconfig controllers
  certificate scheduler /CN=system:kube-scheduler; kubeconfig scheduler
  spawn etcd "$dir/bin/etcd" --data-dir etcd --listen-client-urls "http://127.0.0.1:$port" --advertise-client-urls "http://127.0.0.1:$port" \
    --listen-peer-urls "http://127.0.0.1:$((port + 1))" --initial-advertise-peer-urls "http://127.0.0.1:$((port + 1))" \
    --initial-cluster "default=http://127.0.0.1:$((port + 1))" --unsafe-no-fsync
  spawn kube-apiserver "$dir/bin/kube-apiserver" --etcd-servers="http://127.0.0.1:$port" --secure-port="$((port + 2))" \
    --bind-address=127.0.0.1 --advertise-address=192.168.7.250 --client-ca-file=ca.crt --tls-cert-file=server.crt --tls-private-key-file=server.key \
    --service-account-key-file=sa.pub --service-account-signing-key-file=sa.key --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --service-cluster-ip-range=10.96.0.0/16 --authorization-mode=Node,RBAC --enable-bootstrap-token-auth \
    --enable-admission-plugins=NodeRestriction --allow-privileged=true --endpoint-reconciler-type=none
  for ((i = 0; i < 600; i++)); do
    kubectl --kubeconfig admin.kubeconfig get --raw /readyz >/dev/null 2>&1 && break
    sleep 0.2
  done
  kubectl --kubeconfig admin.kubeconfig get --raw /readyz >/dev/null
  spawn kube-controller-manager "$dir/bin/kube-controller-manager" --kubeconfig=controllers.kubeconfig --authentication-kubeconfig=controllers.kubeconfig \
    --authorization-kubeconfig=controllers.kubeconfig --bind-address=127.0.0.1 --secure-port="$((port + 3))" --leader-elect=false \
    --controllers='*,bootstrap-signer-controller,token-cleaner-controller' --use-service-account-credentials --root-ca-file=ca.crt \
    --service-account-private-key-file=sa.key --cluster-signing-cert-file=ca.crt --cluster-signing-key-file=ca.key \
    --cluster-cidr=10.244.0.0/16 --allocate-node-cidrs --service-cluster-ip-range=10.96.0.0/16
  spawn kube-scheduler "$dir/bin/kube-scheduler" --kubeconfig=scheduler.kubeconfig --authentication-kubeconfig=scheduler.kubeconfig \
    --authorization-kubeconfig=scheduler.kubeconfig --bind-address=127.0.0.1 --secure-port="$((port + 4))" --leader-elect=false
  echo "$dir/run/admin.kubeconfig"
}

stop() {
  local name
  for name in kube-scheduler kube-controller-manager kube-apiserver etcd; do
    if [ -e "$dir/run/$name.pid" ]; then kill "$(cat "$dir/run/$name.pid")" 2>/dev/null || true; rm -f "$dir/run/$name.pid"; fi
  done
}

record() {
  local code=0 kubectl
  kubectls
  start
  trap stop EXIT
  for kubectl in "$KERNELET_KUBECTLS"/*/kubectl; do
    "$here/run.py" --kubectl "$kubectl" --kubeconfig "$dir/run/admin.kubeconfig" --record "$@" || code=1
  done
  return $code
}

case ${1:-} in
  build) build ;;
  start) build >&2; start ;;
  stop) stop ;;
  record) shift; build >&2; record "$@" ;;
  *) echo "usage: oracle.sh build | start | stop | record [CASE…]" >&2; exit 2 ;;
esac
