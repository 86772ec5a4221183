#!/usr/bin/env bash
# Fuzzes every decoder of outside input: ./run.sh [SECONDS a target, 600] [TARGET…]
#
# Stable Rust does: the coverage passes are LLVM's own, and libFuzzer comes with its crate. New inputs that found
# something are kept in KERNELET_FUZZ_DIR (a temporary folder, unless it is set), not in corpus/, which is small and
# reviewed; `./run.sh merge` takes the few over that bring coverage of their own. A crash's input lies in
# KERNELET_FUZZ_DIR/crashes: write a unit test with it first.
set -euo pipefail
cd "$(dirname "$0")"
all=(json yaml protobuf message patch_json patch_merge patch_strategic patch_apply selector quantity continuation
  request spdy session bundle seccomp image layer shim dbus)
work=${KERNELET_FUZZ_DIR:-$(mktemp -d)}
jobs=${KERNELET_FUZZ_JOBS:-$(nproc)}
mkdir -p "$work/crashes"

export CARGO_TARGET_DIR=$work/target CARGO_INCREMENTAL=0 RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=4 --cfg fuzzing"
target=$(rustc -vV | sed -n 's/^host: //p')
nice -n 19 cargo build --quiet --target "$target"
fuzz=$work/target/$target/debug/fuzz

if [ "${1:-}" = merge ]; then
  for name in "${all[@]}"; do
    [ -d "$work/$name" ] || continue
    mkdir -p "corpus/$name"
    KERNELET_FUZZ_TARGET=$name nice -n 19 "$fuzz" -merge=1 -max_len=2048 "corpus/$name" "$work/$name" 2>&1 | tail -1
  done
  du -sh corpus
  exit
fi

seconds=${1:-600}
shift || true
[ $# -gt 0 ] && all=("$@")
one() {
  local name=$1 before=$SECONDS code=0
  mkdir -p "$work/$name" "corpus/$name"
  KERNELET_FUZZ_TARGET=$name nice -n 19 "$fuzz" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=65536 \
    -artifact_prefix="$work/crashes/$name-" -print_final_stats=1 "$work/$name" "corpus/$name" \
    >"$work/$name.log" 2>&1 || code=$?
  local runs; runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/$name.log")
  echo "$name: $((SECONDS - before)) s, ${runs:-?} inputs, $([ $code = 0 ] && echo nothing found || echo "FOUND, see $work/$name.log")"
  return $code
}
failed=0 running=0
for name in "${all[@]}"; do
  if [ "$running" -ge "$jobs" ]; then
    wait -n || failed=1
    running=$((running - 1))
  fi
  one "$name" &
  running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
  wait -n || failed=1
  running=$((running - 1))
done
exit $failed
