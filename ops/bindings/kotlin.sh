#!/usr/bin/env bash
# Generates the Kotlin binding, compiles it with Meet.kt, and runs that against a node of its own, with somebody
# at the shell on the other side. Needs Java 17, pip and apt-get: the compiler and kotlinx.coroutines come out of
# the Python package kotlin-jupyter-kernel, JNA out of Debian's libjna-java and libjna-jni; nothing is installed,
# all of it is kept in FOLDER. Listens on loopback only.
# `--no-build` takes the binding in FOLDER and the programs as they are.
# usage: ops/bindings/kotlin.sh FOLDER [--no-build]
set -euo pipefail
build=yes
[ "${2:-}" = --no-build ] && build='' && set -- "$1"
[ $# -eq 1 ] || { sed -n '2,7s/^# //p' "$0"; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
if [ -n "$build" ]; then
  ops/bindings/generate.sh "$out" kotlin
  cargo build --release
fi
bin=$(realpath -m "${CARGO_TARGET_DIR:-target}")/release

kernel=$out/kernel/run_kotlin_kernel/jars
if ! ls "$kernel"/*-all.jar > /dev/null 2>&1; then
  pip download --quiet --no-deps --dest "$out/wheel" kotlin-jupyter-kernel==0.19.0.944
  python3 -m zipfile -e "$out"/wheel/*.whl "$out/kernel"
fi
jna=$out/jna/usr/share/java/jna.jar
if [ ! -e "$jna" ]; then
  (mkdir -p "$out/deb" && cd "$out/deb" && apt-get download -qq libjna-java libjna-jni 2> /dev/null)
  for package in "$out"/deb/*.deb; do dpkg-deb --extract "$package" "$out/jna"; done
fi
# Where JNA looks for its own part when nobody has installed it.
natives=$out/jna/natives
mkdir -p "$natives/com/sun/jna/linux-x86-64"
cp "$(find "$out/jna" -name libjnidispatch.system.so | head -n 1)" "$natives/com/sun/jna/linux-x86-64/libjnidispatch.so"
compiler=$(ls "$kernel"/*-all.jar)
library=$(ls "$kernel"/kotlin-stdlib-*.jar)
classpath=$compiler:$library:$jna

echo "== compiling"
java -cp "$compiler:$(printf '%s:' "$kernel"/*.jar)" org.jetbrains.kotlin.cli.jvm.K2JVMCompiler \
  -no-stdlib -no-reflect -Werror -nowarn -classpath "$classpath" -d "$out/classes" \
  "$out/kotlin/uniffi/unibus/unibus.kt" ops/bindings/Meet.kt

echo "== running"
dir=$(mktemp -d)
pids=()
finish() { kill "${pids[@]}" 2>/dev/null || true; rm -rf "$dir"; }
trap finish EXIT
nats=14522 http=18670
"$bin/unibus-node" --bind 127.0.0.1 --port $nats --http-port $http --monitor-port 0 --bus-auth enforce \
  --data-dir "$dir/data" --config-dir "$dir/config" --internal-id-file "$dir/internal.json" > "$dir/node.log" 2>&1 &
pids+=($!)
fail() { echo "$1"; tail -n 60 "$dir"/*.log; exit 1; }
export UNIBUS_SERVER=nats://127.0.0.1:$nats UNIBUS_CONTROL=http://127.0.0.1:$http
let_in() {
  "$bin/unibus" identity new "$dir/$1.json" --json > "$dir/$1.card"
  local key
  key=$(sed -n 's/.*"nkey": "\(U[A-Z0-9]*\)".*/\1/p' "$dir/$1.card")
  for _ in $(seq 100); do
    "$bin/unibus-node" user add "$key" --nats-url "$UNIBUS_SERVER" --internal-id-file "$dir/internal.json" \
      > "$dir/add.log" 2>&1 && return 0
    sleep 0.2
  done
  fail "the node lets nobody in"
}
let_in ann; let_in bob
contact=$(sed -n 's/.*"contact": "\([^"]*\)".*/\1/p' "$dir/bob.card")
java -Djna.library.path="$out/kotlin" -cp "$out/classes:$classpath:$natives" MeetKt \
  "$dir/ann.json" "$UNIBUS_CONTROL" "$UNIBUS_SERVER" "$contact" > "$dir/meet.log" 2> "$dir/java.log" &
meet=$!
pids+=($meet)
until grep -q '^invited' "$dir/meet.log"; do kill -0 $meet 2> /dev/null || fail "nobody was invited"; sleep 0.2; done
"$bin/unibus" room join team.kotlin --identity "$dir/bob.json"
"$bin/unibus" room pub team.kotlin hello --identity "$dir/bob.json"
wait $meet || fail "the application has failed"
grep -qx 'done' "$dir/meet.log" || fail "the application has not come to its end"
"$bin/unibus" room history team.kotlin --identity "$dir/bob.json" | tee "$dir/history"
grep -q 'you said: hello' "$dir/history" || fail "nothing was answered"
echo "the Kotlin application has met, talked, shared and reconnected"
