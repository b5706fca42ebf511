#!/bin/sh
# Prints the path of promtool. If it is not installed, extracts it from Debian's Prometheus package into
# ${CARGO_TARGET_DIR:-target}/kit.
set -eu
cd "$(dirname "$0")/.."
mkdir -p "${CARGO_TARGET_DIR:-target}/kit"
kit=$(cd "${CARGO_TARGET_DIR:-target}/kit" && pwd)

if [ ! -x "$kit/promtool" ]; then
    if found=$(command -v promtool); then
        ln -sf "$found" "$kit/promtool"
    else
        command -v apt-get >/dev/null 2>&1 || {
            echo "tests/promtool.sh: no promtool, and no apt-get to download it" >&2
            exit 1
        }
        scratch=$(mktemp -d)
        trap 'rm -rf "$scratch"' EXIT
        cd "$scratch"
        apt-get download --quiet prometheus >/dev/null 2>&1 ||
            { apt-get update --quiet && apt-get download --quiet prometheus; } >&2
        dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool
        mv usr/bin/promtool "$kit/promtool"
    fi
fi
echo "$kit/promtool"
