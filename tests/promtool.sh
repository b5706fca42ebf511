#!/bin/sh
# Prints the path of promtool, which lies beside prometheus. What is not installed is extracted from Debian's Prometheus
# package into ${CARGO_TARGET_DIR:-target}/kit.
set -eu
cd "$(dirname "$0")/.."
mkdir -p "${CARGO_TARGET_DIR:-target}/kit"
kit=$(cd "${CARGO_TARGET_DIR:-target}/kit" && pwd)

missing=""
for program in promtool prometheus; do
    [ -x "$kit/$program" ] && continue
    if found=$(command -v "$program"); then
        ln -sf "$found" "$kit/$program"
    else
        missing="$missing $program"
    fi
done

if [ -n "$missing" ]; then
    command -v apt-get >/dev/null 2>&1 || {
        echo "tests/promtool.sh: missing$missing, and no apt-get to download it" >&2
        exit 1
    }
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    cd "$scratch"
    apt-get download --quiet prometheus >/dev/null 2>&1 ||
        { apt-get update --quiet && apt-get download --quiet prometheus; } >&2
    for program in $missing; do
        dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x "./usr/bin/$program"
        mv "usr/bin/$program" "$kit/$program"
    done
fi
echo "$kit/promtool"
