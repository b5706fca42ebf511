#!/bin/sh
# Installs missing build packages, builds, and runs `attio-bridge dev` with the given arguments.
set -eu
cd "$(dirname "$0")/.."
deploy/build-packages.sh
exec cargo run --locked --quiet -- dev "$@"
