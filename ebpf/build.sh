#!/bin/sh
# Builds the eBPF programs and puts the object beside their sources.
#   ebpf/build.sh          rebuild ebpf/programs/kernelet.bpf.o and its .toolchain file
#   ebpf/build.sh check    rebuild elsewhere and compare: the same toolchain gives the same bytes
# Needs core for the BPF target: Debian's rustc-web and libstd-rust-web-dev-bpf (used when
# /usr/bin/rustc has it) or a nightly toolchain with rust-src; and bpf-linker 0.13.
# Building kernelet itself needs none of this: it embeds the committed object.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
: "${CARGO_TARGET_DIR:=$here/../target/ebpf}"
export CARGO_TARGET_DIR
PATH="$HOME/.cargo/bin:$PATH"
command -v bpf-linker >/dev/null || {
    echo "bpf-linker is missing: cargo install bpf-linker --version 0.13.0 (see docs)" >&2
    exit 3
}
target=bpfel-unknown-none
flags='--cfg=bpf_target_arch="x86_64" -Clink-arg=--btf -Cdebuginfo=2'
# Paths must not reach the object: the same sources give the same bytes in any folder.
flags="$flags --remap-path-prefix=$here=/ebpf --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
cd "$here/programs"
if [ -d "$(/usr/bin/rustc --print sysroot 2>/dev/null)/lib/rustlib/$target" ]; then
    RUSTC=/usr/bin/rustc
    export RUSTC
    RUSTC_BOOTSTRAP=aya_ebpf,aya_ebpf_bindings RUSTFLAGS="$flags" \
        cargo build --quiet --locked --release --target $target
else
    RUSTC="rustup run nightly rustc"
    RUSTFLAGS="$flags" cargo +nightly build --quiet --locked --release --target $target -Z build-std=core
fi
object=$CARGO_TARGET_DIR/$target/release/kernelet.stripped
# BTF stays (the maps' types are in it), DWARF goes.
strip=$(command -v llvm-strip-22 || command -v /usr/lib/llvm-22/bin/llvm-strip || command -v llvm-strip)
"$strip" -g -o "$object" "$CARGO_TARGET_DIR/$target/release/kernelet"
toolchain="$($RUSTC --version), $(bpf-linker --version)"
case "${1:-}" in
check)
    if cmp -s "$object" "$here/programs/kernelet.bpf.o"; then
        echo "kernelet.bpf.o is what its sources build to ($toolchain)"
    elif [ "$toolchain" = "$(cat "$here/programs/kernelet.bpf.toolchain")" ]; then
        echo "kernelet.bpf.o is not what its sources build to: run ebpf/build.sh" >&2
        exit 1
    else
        echo "another toolchain ($toolchain) built another object; run the tests with it" >&2
        exit 4
    fi
    ;;
*)
    cp "$object" "$here/programs/kernelet.bpf.o"
    echo "$toolchain" >"$here/programs/kernelet.bpf.toolchain"
    ls -l "$here/programs/kernelet.bpf.o"
    ;;
esac
