#!/usr/bin/env bash
# Two people in the terminals of tmux, with a node of their own: they meet, talk, reply, react, and what
# was not seen is counted. Prints the screens. With `--keep`, the session stays: tmux -L unibus-chat attach.
# Needs tmux; listens on loopback only.
# usage: ops/interop/chat.sh [--keep] [--release]
set -euo pipefail
cd "$(dirname "$0")/../.."
keep='' profile=debug flag=''
for word in "$@"; do
  case $word in
    --keep) keep=yes ;;
    --release) profile=release flag=--release ;;
    *) echo "what is $word?"; exit 2 ;;
  esac
done
cargo build -q --workspace --bins $flag
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
bin=$target/$profile
dir=$(mktemp -d)
nats=14322 http=18570
mux() { tmux -L unibus-chat -f /dev/null "$@"; }
node=''
finish() {
  [ -n "$keep" ] && { echo "left open: tmux -L unibus-chat attach; then: kill $node; rm -r $dir"; return; }
  mux kill-server 2>/dev/null || true
  kill "$node" 2>/dev/null || true
  rm -rf "$dir"
}
trap finish EXIT
"$bin/unibus-node" --bind 127.0.0.1 --port $nats --http-port $http --monitor-port 0 --bus-auth enforce \
  --data-dir "$dir/data" --config-dir "$dir/config" --internal-id-file "$dir/internal.json" > "$dir/node.log" 2>&1 &
node=$!
export UNIBUS_SERVER=nats://127.0.0.1:$nats UNIBUS_CONTROL=http://127.0.0.1:$http
let_in() {
  "$bin/unibus" identity new "$dir/$1.json" --json > "$dir/$1.card"
  key=$(sed -n 's/.*"nkey": "\(U[A-Z0-9]*\)".*/\1/p' "$dir/$1.card")
  for _ in $(seq 100); do
    "$bin/unibus-node" user add "$key" --nats-url "$UNIBUS_SERVER" --internal-id-file "$dir/internal.json" \
      > "$dir/add.log" 2>&1 && return 0
    sleep 0.2
  done
  cat "$dir/add.log" "$dir/node.log"; return 1
}
let_in ann; let_in bob
contact=$(sed -n 's/.*"contact": "\([^"]*\)".*/\1/p' "$dir/bob.card")
chat() { echo "XDG_CONFIG_HOME=$dir/home-$1 LC_ALL=C.UTF-8 exec $bin/unibus chat --identity $dir/$1.json"; }
screen() { mux capture-pane -p -t "$1"; }
show() { printf '\n== what %s sees\n' "$1"; screen "$1"; }
type() { mux send-keys -t "$1" -l -- "$2"; mux send-keys -t "$1" Enter; }
until_shown() {
  for _ in $(seq 150); do screen "$1" | grep -qF -- "$2" && return 0; sleep 0.1; done
  echo "$1 never saw: $2"; show "$1"; exit 1
}
mux new-session -d -s ann -x 110 -y 24 "$(chat ann)"
mux new-session -d -s bob -x 80 -y 24 "$(chat bob)"
until_shown ann 'You belong to no room yet'
type ann '/create team.kitchen'
until_shown ann 'end-to-end encrypted'
type ann "/name $contact bob"; type ann '/invite bob'
until_shown bob '/join accepts'
type bob '/join'
until_shown ann 'bob joined'
type ann 'tea? 世界'
until_shown bob 'tea? 世界'
type bob '/reply yes, please'
until_shown ann 'yes, please'
type ann '/react ❤'
until_shown bob '❤'
type bob '/create bob.desk'
until_shown bob 'bob.desk is there'
type ann 'one'; type ann 'two'
until_shown bob 'team.kitchen   2'
show ann; show bob
mux send-keys -t bob Tab
until_shown bob 'new'
mux resize-window -t bob -x 60 -y 14
until_shown bob 'two'
show bob
type bob '/help'
until_shown bob 'Esc closes'
show bob
echo; echo "they have met, talked, replied, reacted and counted"
