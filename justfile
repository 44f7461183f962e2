# Commands for people who work on unibus; `just` lists them. Nothing here is needed by CI (.ci/run).

# List the recipes
default:
    @just --list

# Run one node on loopback
run *ARGS:
    cargo run --release -- {{ARGS}}

# What CI runs
ci:
    .ci/run

# Every test
test:
    cargo test --workspace

# Format and lints
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# Licences, sources and known faults of dependencies (cargo install cargo-deny)
deny:
    cargo deny check

# Write ops/configuration.md anew from the program
reference:
    UNIBUS_WRITE_REFERENCE=1 cargo test --workspace --test ops reference

# The official JavaScript clients against a running node
interop-js NATS="nats://127.0.0.1:4222" WS="":
    npm install --silent --prefix ops/interop/js
    ops/interop/js/main.js {{NATS}} {{WS}}

# The status page of a running node in a real browser
status MONITOR="http://127.0.0.1:8222":
    npm install --silent --prefix ops/status
    ops/status/check.js {{MONITOR}}

# Benchmarks of decoder, match and encode
bench:
    cargo bench -p unibus-proto
