#!/usr/bin/env bash
# A Python client that nobody here shares code with opens the vectors, joins a live room, and reads and
# answers what the program `unibus` says there. Needs Python 3 with tests/interop/requirements.txt; listens on
# loopback only.
# usage: ops/interop/rooms.sh [PYTHON]
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:-python3}
"$python" tests/interop/vectors.py
cargo build -q
bin=${CARGO_TARGET_DIR:-target}/debug
dir=$(mktemp -d)
pids=()
finish() { kill "${pids[@]}" 2>/dev/null || true; rm -rf "$dir"; }
trap finish EXIT
nats=14222 http=18470
"$bin/unibus-node" --bind 127.0.0.1 --port $nats --http-port $http --monitor-port 0 --bus-auth enforce \
  --data-dir "$dir/data" --internal-id-file "$dir/internal.json" > "$dir/node.log" 2>&1 &
pids+=($!)
fail() { echo "$1"; tail -n 20 "$dir"/*.log; exit 1; }
add() {
  for _ in $(seq 100); do
    "$bin/unibus-node" user add "$1" --nats-url nats://127.0.0.1:$nats \
      --internal-id-file "$dir/internal.json" > "$dir/add.log" 2>&1 && return 0
    sleep 0.2
  done
  fail "the node lets nobody in"
}
"$python" tests/interop/live.py --http http://127.0.0.1:$http --nats nats://127.0.0.1:$nats > "$dir/live.log" 2>&1 &
pids+=($!)
word() {
  for _ in $(seq 100); do
    awk -v w="$1" '$1 == w { print $2; found = 1 } END { exit !found }' "$dir/live.log" && return 0
    sleep 0.1
  done
  return 1
}
me() {
  "$bin/unibus" --server nats://127.0.0.1:$nats --control http://127.0.0.1:$http --identity "$dir/me.json" "$@"
}
key=$(word key) && contact=$(word contact) || fail "the Python client does not start"
add "$key"
me identity new "$dir/me.json" --json > "$dir/me.public"
add "$(sed -n 's/.*"nkey": "\(U[A-Z0-9]*\)".*/\1/p' "$dir/me.public")"
me room create meet.python
me room invite meet.python "$contact"
word joined > /dev/null || fail "the Python client has not joined"
me room sub meet.python --count 2 --wait 30s --raw > "$dir/heard.log" 2> "$dir/sub.log" &
sub=$!
until grep -q listening "$dir/sub.log"; do kill -0 $sub || fail "no subscription"; sleep 0.1; done
me room pub meet.python 'tea?'
wait $sub || fail "nothing was answered"
cat "$dir/live.log"
[ "$(cat "$dir/heard.log")" = $'tea?\nyou said: tea?' ] || fail "heard: $(cat "$dir/heard.log")"
echo "the Python client has read and answered: $(tail -n 1 "$dir/heard.log")"
