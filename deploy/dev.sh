#!/bin/sh
# Installs missing build packages, builds, and runs `attio-bridge dev` with the given arguments.
set -eu
cd "$(dirname "$0")/.."

needed=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
advice="attio-bridge is built with Rust $needed or newer: install it from https://rustup.rs, or run \`rustup update stable\`"
for tool in cargo rustc; do
    if ! command -v "$tool" >/dev/null 2>&1; then
        echo "$tool is not installed, or not on the PATH. $advice" >&2
        exit 1
    fi
done
found=$(rustc --version 2>/dev/null | cut -d ' ' -f 2) || found=
if [ "$(printf '%s\n' "$needed" "$found" | sort -V | head -n 1)" != "$needed" ]; then
    echo "Rust is too old: ${found:-unknown version}. $advice" >&2
    exit 1
fi

deploy/build-packages.sh
if [ ! -x "${CARGO_TARGET_DIR:-target}/debug/attio-bridge" ]; then
    echo "building: about 5 minutes the first time, on two cores" >&2
fi
# On a terminal cargo shows its progress.
quiet=--quiet
[ ! -t 2 ] || quiet=
# shellcheck disable=SC2086 # a flag or none
cargo build --locked $quiet
exec cargo run --locked --quiet -- dev "$@"
