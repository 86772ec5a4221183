# Sourced by up.sh, test.sh and bench.sh: installs what each needs on a fresh Debian or Ubuntu machine. Each function
# is idempotent and quick when nothing is missing.

cache=${KERNELET_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kernelet}
mkdir -p "$cache"

# packages PROGRAM-OR-FILE:PACKAGE… : installs the packages of what is missing.
packages() {
  local missing=() pair what
  for pair in "$@"; do
    what=${pair%%:*}
    case $what in
      /*) [ -e "$what" ] || missing+=("${pair##*:}") ;;
      *) command -v "$what" >/dev/null 2>&1 || missing+=("${pair##*:}") ;;
    esac
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  if [ "$(id -u)" != 0 ]; then
    echo "missing: ${missing[*]}; install them, or run this as root" >&2
    return 1
  fi
  echo "installing ${missing[*]}" >&2
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq >/dev/null 2>&1 || true
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >"$cache/apt.log" 2>&1 \
    || { tail -5 "$cache/apt.log" >&2; return 1; }
}

# A Rust toolchain by rustup is expected; a C compiler and linker are not.
build_tools() {
  packages cc:gcc make:make
  if ! command -v cargo >/dev/null 2>&1; then
    [ -e "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
  fi
  command -v cargo >/dev/null 2>&1 || { echo "cargo is missing: install Rust with rustup" >&2; return 1; }
}

# The node's programs, in target/release. kernelet-oci is built static and at a fixed address: it starts twice for each
# container, and the loader's work is a tenth of that time. A plain `cargo build` makes it dynamic, and the same otherwise.
release_programs() {
  local host flags='-C target-feature=+crt-static -C relocation-model=static'
  host=$(rustc -vV | sed -n 's/^host: //p')
  cargo build --locked --release -p kernelet -p kernelet-cni "$@" || return 1
  RUSTFLAGS="${RUSTFLAGS:+$RUSTFLAGS }$flags" cargo build --locked --release --target "$host" -p kernelet-oci \
    --config "profile.release.lto='fat'" --config "profile.release.panic='abort'" || return 1
  cp "target/$host/release/kernelet-oci" target/release/kernelet-oci
}

# debian_package SUITE PACKAGE FOLDER: unpacks a package of another Debian suite, without touching this machine's own
# package lists. Needs a Debian mirror among this machine's sources.
debian_package() {
  local suite=$1 package=$2 folder=$3 work mirror
  mirror=$(sed -n 's/^\(deb\|URIs:\)\( \[[^]]*\]\)\? *\(http[^ ]*\).*/\3/p' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -v security | head -1)
  [ -n "$mirror" ] || { echo "no Debian mirror in this machine's sources" >&2; return 1; }
  work=$(mktemp -d "$cache/package.XXXX")
  mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
  echo "deb $mirror $suite main" > "$work/sources.list"
  local options=(-qq -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root)
  (cd "$work" && apt-get "${options[@]}" update && apt-get "${options[@]}" download "$package/$suite" && dpkg-deb -x ./*.deb "$folder") >"$cache/$package.log" 2>&1
  local code=$?
  rm -rf "$work"
  [ $code = 0 ] || { tail -3 "$cache/$package.log" >&2; return 1; }
}

# kubectl 1.31 or newer: the one on the PATH, else Debian 13's, a single binary.
kubectl_tool() {
  local minor
  minor=$(kubectl version --client -o json 2>/dev/null | sed -n 's/.*"minor": "\([0-9]*\).*/\1/p' | head -1)
  if [ "${minor:-0}" -ge 31 ]; then return 0; fi
  export PATH="$cache/bin:$PATH"
  [ -x "$cache/bin/kubectl" ] && return 0
  local root; root=$(mktemp -d "$cache/kubectl.XXXX")
  debian_package trixie kubectl "$root" && mkdir -p "$cache/bin" && cp "$root/usr/bin/kubectl" "$cache/bin/kubectl"
  local code=$?
  rm -rf "$root"
  return $code
}

# Both versions of kubectl that the script of tests/kubectl runs with, each a single binary of a Debian suite.
kubectls() {
  export KERNELET_KUBECTLS="$cache/kubectl"
  local pair suite minor root
  for pair in trixie:1.32 sid:1.36; do
    suite=${pair%%:*} minor=${pair##*:}
    [ -x "$KERNELET_KUBECTLS/$minor/kubectl" ] && continue
    root=$(mktemp -d "$cache/kubectl.XXXX")
    # A suite moves on: what it has must be what the golden files were recorded with.
    if debian_package "$suite" kubectl "$root" && [[ $("$root/usr/bin/kubectl" version --client) == *"v$minor."* ]]; then
      mkdir -p "$KERNELET_KUBECTLS/$minor" && cp "$root/usr/bin/kubectl" "$KERNELET_KUBECTLS/$minor/kubectl"
    fi
    rm -rf "$root"
    [ -x "$KERNELET_KUBECTLS/$minor/kubectl" ] || { echo "no kubectl $minor in Debian's $suite" >&2; return 1; }
  done
}

nextest_tool() {
  cargo nextest --version >/dev/null 2>&1 && return 0
  echo "building cargo-nextest" >&2
  # Unoptimised: it only starts the tests, and takes a third of the time to build.
  CARGO_PROFILE_DEV_DEBUG=0 cargo install --locked --quiet --debug cargo-nextest
}

# The API's objects in every encoding, each field filled, as upstream's own tests have them.
fixtures() {
  export KERNELET_FIXTURES="$cache/fixtures-v0.35"
  [ -n "$(ls "$KERNELET_FIXTURES" 2>/dev/null)" ] && return 0
  local work from=; work=$(mktemp -d "$cache/api.XXXX")
  if command -v go >/dev/null 2>&1; then
    from=$(cd "$work" && GOFLAGS=-mod=mod go mod download -json k8s.io/api@v0.35.0 2>/dev/null | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
  fi
  if [ -z "$from" ]; then
    debian_package sid golang-k8s-api-dev "$work/root" && from=$work/root/usr/share/gocode/src/k8s.io/api
  fi
  [ -d "${from:-/nonexistent}/testdata/HEAD" ] && mkdir -p "$KERNELET_FIXTURES" && cp "$from"/testdata/HEAD/* "$KERNELET_FIXTURES/"
  local code=$?
  chmod -R u+w "$work"; rm -rf "$work"
  return $code
}

# The API's types as JSON schemas, which the facts' table is held against.
schemas() {
  export KERNELET_SCHEMAS="$cache/schemas-v1.35/_definitions.json"
  [ -s "$KERNELET_SCHEMAS" ] && return 0
  python3 -m pip --version >/dev/null 2>&1 || packages /usr/lib/python3/dist-packages/pip:python3-pip || return 1
  local work; work=$(mktemp -d "$cache/schemas.XXXX")
  python3 -m pip download -q --no-deps -d "$work" kubernetes-validate >"$cache/schemas.log" 2>&1 \
    && (cd "$work" && python3 -m zipfile -e ./*.whl .) \
    && mkdir -p "$cache/schemas-v1.35" \
    && cp "$work"/kubernetes_validate/kubernetes-json-schema/v1.35.*-local/_definitions.json "$KERNELET_SCHEMAS"
  local code=$?
  rm -rf "$work"
  return $code
}

# The Python client, in an environment of its own.
python_client() {
  export KERNELET_PYTHON="$cache/python/bin/python"
  "$KERNELET_PYTHON" -c 'import kubernetes, yaml' >/dev/null 2>&1 && return 0
  packages python3:python3 || return 1
  python3 -m venv "$cache/python" 2>/dev/null || { packages /usr/lib/python3/dist-packages/ensurepip:python3-venv; python3 -m venv "$cache/python"; }
  "$cache/python/bin/pip" install -q 'kubernetes>=32' pyyaml >"$cache/pip.log" 2>&1 || { tail -3 "$cache/pip.log" >&2; return 1; }
}

# Prometheus and its checker, unpacked and not installed: the package would start a daemon.
prometheus_tool() {
  export KERNELET_PROMETHEUS="$cache/prometheus"
  [ -x "$KERNELET_PROMETHEUS/promtool" ] && return 0
  local root; root=$(mktemp -d "$cache/prometheus.XXXX")
  debian_package bookworm prometheus "$root" && mkdir -p "$KERNELET_PROMETHEUS" \
    && cp "$root"/usr/bin/prometheus "$root"/usr/bin/promtool "$KERNELET_PROMETHEUS/"
  local code=$?
  rm -rf "$root"
  return $code
}

# The tools that tests/interop runs kernelet-oci under. Engines that would start a daemon, and change the machine's
# network, on being installed are unpacked instead.
interop_tools() {
  packages podman:podman conmon:conmon buildah:buildah catatonit:catatonit newuidmap:uidmap fuse-overlayfs:fuse-overlayfs skopeo:skopeo \
    runc:runc crun:crun busybox:busybox-static python3:python3 script:bsdutils jq:jq || true
  export KERNELET_ENGINES="$cache/engines"
  [ -x "$KERNELET_ENGINES/usr/sbin/dockerd" ] && return 0
  packages /usr/lib/x86_64-linux-gnu/libdevmapper.so.1.02.1:libdevmapper1.02.1 tini:tini || true
  local suite; suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")
  debian_package "$suite" docker.io "$KERNELET_ENGINES" && debian_package "$suite" containerd "$KERNELET_ENGINES"
}
