#!/usr/bin/env bash
# Builds unibus-bindings and generates its Kotlin, Swift and Python sources, with the shared library that
# they load, into a folder. For a phone, build the library for its target with cargo and put it in the
# place of this host's: for Android cargo ndk, for iOS
#   cargo rustc -p unibus-bindings --lib --release --target aarch64-apple-ios --crate-type staticlib
# usage: ops/bindings/generate.sh FOLDER [kotlin|swift|python …]
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,7s/^# //p' "$0"; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd); shift
cd "$(dirname "$0")/../.."
[ $# -gt 0 ] || set -- kotlin swift python
case $(uname) in Darwin) library=libunibus_bindings.dylib ;; *) library=libunibus_bindings.so ;; esac
cargo build --release --package unibus-bindings
target=${CARGO_TARGET_DIR:-target}/release
for language in "$@"; do
  "$target/uniffi-bindgen" generate --language "$language" --no-format \
    --out-dir "$folder/$language" "$target/$library"
  cp "$target/$library" "$folder/$language/"
done
find "$folder" -type f | sort
