#!/bin/sh
# Prints where promtool is. Where there is none it comes from Debian's package of Prometheus, unpacked
# into ${CARGO_TARGET_DIR:-target}/kit and not installed.
set -eu
cd "$(dirname "$0")/.."
mkdir -p "${CARGO_TARGET_DIR:-target}/kit"
kit=$(cd "${CARGO_TARGET_DIR:-target}/kit" && pwd)

if [ ! -x "$kit/promtool" ]; then
    if found=$(command -v promtool); then
        ln -sf "$found" "$kit/promtool"
    else
        command -v apt-get >/dev/null 2>&1 || {
            echo "tests/promtool.sh: there is no promtool, and no apt-get to fetch it with" >&2
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
