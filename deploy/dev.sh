#!/bin/sh
# From a fresh clone to signed deliveries becoming CloudEvents: installs what the build needs and the
# machine lacks, builds, and runs `attio-bridge dev` with the words it is given.
set -eu
cd "$(dirname "$0")/.."
deploy/build-packages.sh
exec cargo run --locked --quiet -- dev "$@"
