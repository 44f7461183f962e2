#!/usr/bin/env bash
# A Python client that nobody here shares code with opens the vectors, joins a live room, reads and
# answers the Rust client. Needs Python 3 with tests/interop/requirements.txt; listens on loopback only.
# usage: ops/interop/rooms.sh [PYTHON]
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:-python3}
"$python" tests/interop/vectors.py
cargo build -q --bin unibus-node
cargo build -q -p unibus-client --example meet
bin=${CARGO_TARGET_DIR:-target}/debug
dir=$(mktemp -d)
pids=()
finish() { kill "${pids[@]}" 2>/dev/null || true; rm -rf "$dir"; }
trap finish EXIT
nats=14222 http=18470
"$bin/unibus-node" --bind 127.0.0.1 --port $nats --http-port $http --monitor-port 0 --bus-auth enforce \
  --data-dir "$dir/data" --internal-id-file "$dir/internal.json" > "$dir/node.log" 2>&1 &
pids+=($!)
add() {
  for _ in $(seq 100); do
    "$bin/unibus-node" user add "$1" --nats-url nats://127.0.0.1:$nats \
      --internal-id-file "$dir/internal.json" > "$dir/add.log" 2>&1 && return 0
    sleep 0.2
  done
  cat "$dir/add.log" "$dir/node.log"; return 1
}
"$python" tests/interop/live.py --http http://127.0.0.1:$http --nats nats://127.0.0.1:$nats > "$dir/live.log" 2>&1 &
pids+=($!)
word() { for _ in $(seq 100); do awk -v w="$1" '$1 == w { print $2; found = 1 } END { exit !found }' "$dir/live.log" && return 0; sleep 0.1; done; return 1; }
key=$(word key); contact=$(word contact)
add "$key"
# The first run makes the identity and is not let in yet.
meet() { "$bin/examples/meet" "$dir/me.json" http://127.0.0.1:$http nats://127.0.0.1:$nats "$contact" "tea?"; }
timeout 60 "$bin/examples/meet" "$dir/me.json" http://127.0.0.1:1 nats://127.0.0.1:1 "$contact" "" > /dev/null 2>&1 || true
add "$(sed -n 's/.*"nkey": "\(U[A-Z0-9]*\)".*/\1/p' "$dir/me.json")"
answer=$(meet) || { cat "$dir/live.log" "$dir/node.log"; exit 1; }
cat "$dir/live.log"
[ "$answer" = "you said: tea?" ] || { echo "answered: $answer"; exit 1; }
echo "the Python client has read and answered: $answer"
