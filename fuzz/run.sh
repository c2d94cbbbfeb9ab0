#!/bin/sh
# sh fuzz/run.sh [SECONDS [TARGET ..]]: fuzzes every target, or those named, each for SECONDS (600), and prints a line for each. Needs
# nightly Rust and `cargo install cargo-fuzz`. What failed lies in fuzz/artifacts/TARGET: `cargo fuzz run TARGET FILE` shows it again, and
# once it is mended the file belongs into fuzz/corpus/TARGET. What was found goes on in the next run (fuzz/target/found); the few inputs
# that reach most of what the corpus does not are added to it.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-600}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- $(sed -n 's/^    ("\(.*\)", .*/\1/p' fuzz/readers.rs)
# Readers of several files write them for each input: to memory where there is such a place.
[ -d /dev/shm ] && export TMPDIR=/dev/shm

# Safe Rust needs no sanitizer: the checks that debug builds make are on, and that is twice as fast.
fuzz() {
    target=$1
    shift
    cargo +nightly fuzz run --sanitizer none "$target" "$@" >"$log" 2>&1
}

status=0
for target; do
    found=fuzz/target/found/$target corpus=fuzz/corpus/$target chosen=fuzz/target/chosen/$target
    mkdir -p "$found" "$chosen"
    log=fuzz/target/found/$target.log
    fuzz "$target" "$found" "$corpus" -- \
        -max_total_time="$seconds" -max_len=4096 -timeout=25 -rss_limit_mb=2048 || status=1
    echo "$target: $(sed -n 's/^Done \([0-9]*\) runs in \([0-9]*\) second.*/\1 inputs in \2 s/p' "$log"), coverage" \
        "$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1), failures: $(ls "fuzz/artifacts/$target" | wc -l)"
    [ -z "$(ls "fuzz/artifacts/$target")" ] || continue
    # The merge writes what reaches most first.
    rm -rf "$chosen"
    cp -R "$corpus" "$chosen"
    log=fuzz/target/chosen/$target.log
    fuzz "$target" "$chosen" "$found" -- -set_cover_merge=1 -use_counters=0 -max_len=1024 || status=1
    ls -tr "$chosen" | while read -r file; do
        [ -e "$corpus/$file" ] || echo "$file"
    done | head -n 12 | while read -r file; do cp "$chosen/$file" "$corpus/"; done
done
exit $status
