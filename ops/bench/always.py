#!/usr/bin/env python3
"""Durable publishing beside durable publishing: runs `versus` with nats-server's `sync_interval: always`.

    ops/bench/always.py [--versus ../shared/bench/versus] [--node BINARY] [--rounds 3] [ROW…]

Rows are those of versus, by default the two whose targets are 30 and 15 times nats-server's rate:
r3-js-window and r3-js-64. nats-server syncs its stream files before it acknowledges then, as this
project's node always does. Prints what versus prints, and whether each target is met.
"""
import argparse, json, pathlib, subprocess, sys, tempfile

TARGETS = {"r3-js-window": 30, "r3-js-64": 15}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--versus", default="../shared/bench/versus")
    ap.add_argument("--node", default="target/release/unibus-node")
    ap.add_argument("--rounds", default="3")
    ap.add_argument("rows", nargs="*")
    a = ap.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told = pathlib.Path(folder) / "rows.json"
        done = subprocess.run([sys.executable, a.versus, "--rounds", a.rounds, "--node", a.node, "--sync", "always",
                               "--json", str(told), *(a.rows or TARGETS)])
        rows = [json.loads(line) for line in told.read_text().splitlines()] if told.exists() else []
    for row in rows:
        target = TARGETS.get(row["row"])
        if target:
            print(f"{row['row']}: {row['speed']:.1f} times, target {target}: {'met' if row['speed'] >= target else 'missed'}")
    sys.exit(done.returncode)


main()
