#!/bin/sh
# Prints the path of Helm. Built from its Go module into ${CARGO_TARGET_DIR:-target}/kit, unless it is there: about three
# minutes on two cores.
#
#   tests/helm.sh [4|3]
set -eu
case "${1:-4}" in
4) major=4 version=v4.3.1 ;;
3) major=3 version=v3.22.0 ;;
*)
    echo "tests/helm.sh: there is no Helm $1" >&2
    exit 2
    ;;
esac

cd "$(dirname "$0")/.."
mkdir -p "${CARGO_TARGET_DIR:-target}/kit"
kit=$(cd "${CARGO_TARGET_DIR:-target}/kit" && pwd)/helm-$major
if [ "$(cat "$kit/version" 2>/dev/null)" != "$version" ]; then
    echo "tests/helm.sh: building Helm $version" >&2
    GOBIN="$kit" go install "helm.sh/helm/v$major/cmd/helm@$version" >&2
    echo "$version" >"$kit/version"
fi
echo "$kit/helm"
