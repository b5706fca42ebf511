#!/bin/sh
# Installs the system packages that building the bridge needs: librdkafka is compiled from source and
# links OpenSSL and zlib. Does nothing if all of them are installed.
set -eu

missing() {
    command -v make >/dev/null 2>&1 || echo make
    command -v g++ >/dev/null 2>&1 || echo g++
    command -v perl >/dev/null 2>&1 || echo perl
    if command -v pkg-config >/dev/null 2>&1; then
        pkg-config --exists libssl || echo libssl-dev
        pkg-config --exists zlib || echo zlib1g-dev
    else
        echo pkg-config libssl-dev zlib1g-dev
    fi
}

packages=$(missing | tr '\n' ' ')
[ -n "$packages" ] || exit 0
if ! command -v apt-get >/dev/null 2>&1; then
    echo "missing build packages, and no apt-get to install them: $packages" >&2
    exit 1
fi
echo "installing with apt-get: $packages" >&2
root=""
[ "$(id -u)" = 0 ] || root=sudo
$root apt-get update -q
# shellcheck disable=SC2086 # a list of packages
DEBIAN_FRONTEND=noninteractive $root apt-get install -q -y --no-install-recommends $packages
