#!/usr/bin/env bash
# Which lines of the product the tests reach, by crate and module, as a table and file by file.
#
#     ops/coverage.sh [FOLDER] [TEST_ARGUMENTS…]        FOLDER: target/coverage; --lib --tests
#     LLVM_SUFFIX=-19 ops/coverage.sh target/coverage --lib --test control
#
# Builds everything once more with counters, in FOLDER. Counters live in files that are mapped into memory, so that
# nodes which a test kills count too; eight files for each program, which its processes share. Needs llvm-profdata
# and llvm-cov that read what rustc writes: rustup's component llvm-tools, or a distribution's with a suffix. Tests
# that assert memory may fail, as counters take some: that fails nothing here.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-target/coverage}
shift || true
arguments=("$@")
[ ${#arguments[@]} -gt 0 ] || arguments=(--lib --tests)
profdata=llvm-profdata${LLVM_SUFFIX:-} cov=llvm-cov${LLVM_SUFFIX:-}
for program in "$profdata" "$cov"; do
    command -v "$program" > /dev/null || { echo "$0: no $program; see LLVM_SUFFIX at the top" >&2; exit 1; }
done
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
rm -rf "$folder/counters"
mkdir "$folder/counters"

export CARGO_TARGET_DIR=$folder/target CARGO_INCREMENTAL=0
export RUSTFLAGS="-C instrument-coverage -C llvm-args=-runtime-counter-relocation"
# Build scripts count as well, and nobody asks them.
export LLVM_PROFILE_FILE=/dev/null
packages=(--workspace --exclude unibus-bindings --exclude unibus-nemesis)
cargo test "${packages[@]}" "${arguments[@]}" --no-run --message-format json > "$folder/built.json"
export LLVM_PROFILE_FILE="$folder/counters/%8m%c.profraw"
cargo test "${packages[@]}" "${arguments[@]}" --no-fail-fast > "$folder/tests.log" 2>&1 ||
    echo "$0: some tests failed, see $folder/tests.log" >&2

find "$folder/counters" -name '*.profraw' > "$folder/counters.txt"
"$profdata" merge -sparse --failure-mode=all -f "$folder/counters.txt" -o "$folder/all.profdata"
rm -rf "$folder/counters"
objects=()
while read -r program; do objects+=(-object "$program"); done < <(
    grep -o '"executable":"[^"]*"' "$folder/built.json" | cut -d'"' -f4 | sort -u)
"$cov" report -instr-profile="$folder/all.profdata" "${objects[@]}" \
    -ignore-filename-regex='/\.cargo/|/rustc/|/tests/|/tests?\.rs|/target/|^fuzz/|/fuzz/(src|fuzz_targets)/' > "$folder/files.txt"

# Columns 8 and 9 are lines and lines missed.
awk -v root="$PWD/" '
    $1 ~ /\.rs$/ {
        sub(root, "", $1); parts = split($1, part, "/")
        place = part[1] == "src" ? (parts > 2 ? "src/" part[2] : "src") : part[1] "/" part[2]
        lines[place] += $8; missed[place] += $9; all += $8; none += $9
    }
    END {
        print "| place | lines | reached |\n|---|---|---|"
        for (place in lines)
            printf "| %s | %d | %.1f %% |\n", place, lines[place], 100 * (1 - missed[place] / lines[place]) | "sort"
        close("sort")
        printf "| all | %d | %.1f %% |\n", all, 100 * (1 - none / all)
    }' "$folder/files.txt"
