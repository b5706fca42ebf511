#!/bin/sh
# Makes the files of a release from the last commit, the same bytes wherever it is run: binary, SBOM, OCI image, checksums.
# Needs Debian, what deploy/build-packages.sh installs, and no container engine. docs/release.md explains each file.
#
#   deploy/release.sh FOLDER          makes them in FOLDER, which must not exist
#   deploy/release.sh FOLDER check    also checks them: a second build elsewhere is compared, the SBOM validated, and the
#                                     image started
#   deploy/release.sh FOLDER once COMMIT   makes them from another commit
set -eu
umask 022
# Paths end up in binaries, so each build is done below the same ones, in a mount namespace of its own.
if [ "${1:-}" = in-namespace ]; then
    mount -t tmpfs tmpfs /mnt
    for name in source target cargo; do
        mkdir "/mnt/$name"
    done
    mount --bind "$WORK/source" /mnt/source
    mount --bind "$WORK/target" /mnt/target
    mount --bind "$CRATES" /mnt/cargo
    cd /mnt/source
    export CARGO_HOME=/mnt/cargo CARGO_TARGET_DIR=/mnt/target RUSTFLAGS=--remap-path-prefix=/mnt=
    cargo build --release --locked --features vendored --bin attio-bridge --config 'profile.release.strip="symbols"'
    "$TOOLS/bin/cargo-cyclonedx" cyclonedx --quiet --format json --spec-version 1.5 --features vendored --target "$HOST"

    # A base like the Dockerfile's: the C library, its certificates, a user, and for scanners the names of the packages.
    root=$WORK/root
    mkdir -p "$root/usr/local/bin" "$root/etc/ssl/certs" "$root/home/nonroot" "$root/var/lib/dpkg/status.d"
    for package in "$WORK"/packages/*.deb; do
        dpkg-deb --fsys-tarfile "$package" | tar --extract --no-same-owner --directory "$root"
        dpkg-deb --field "$package" >"$root/var/lib/dpkg/status.d/$(dpkg-deb --field "$package" Package)"
    done
    find "$root/usr/share/ca-certificates" -name '*.crt' | LC_ALL=C sort | xargs cat >"$root/etc/ssl/certs/ca-certificates.crt"
    echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
    printf 'root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n' >"$root/etc/passwd"
    printf 'root:x:0:\nnonroot:x:65532:\n' >"$root/etc/group"
    cp "$WORK/target/release/attio-bridge" "$root/usr/local/bin/"
    find "$root" -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +

    # The value of an instruction of the Dockerfile.
    of() { sed -n "s/^$1 //p" deploy/Dockerfile | tail -n 1 | tr -d '[]"'; }
    set -- --history.created "$CREATED" --created "$CREATED" --os linux --architecture "$(dpkg --print-architecture)" \
        --config.user "$(of USER)" --config.env PATH=/usr/local/bin:/usr/bin:/bin --config.env "$(of ENV)" --config.stopsignal "$(of STOPSIGNAL)" \
        --config.entrypoint "$(of ENTRYPOINT)" --config.cmd "$(of CMD)" \
        --config.label "org.opencontainers.image.version=$VERSION" --config.label "org.opencontainers.image.revision=$REVISION" \
        --config.label "org.opencontainers.image.description=$(sed -n 's/^description = "\(.*\)"/\1/p' Cargo.toml)" \
        --config.label org.opencontainers.image.title=attio-bridge --config.label org.opencontainers.image.licenses=Apache-2.0
    for port in $(of EXPOSE); do
        set -- "$@" --config.exposedports "$port/tcp"
    done
    image=$WORK/image
    umoci=$TOOLS/usr/bin/umoci
    "$umoci" init --layout "$image"
    "$umoci" new --image "$image:$VERSION"
    "$umoci" insert --history.created "$CREATED" --image "$image:$VERSION" "$root" /
    "$umoci" config --image "$image:$VERSION" "$@"
    "$umoci" gc --layout "$image"
    exit
fi

folder=$(realpath --canonicalize-missing "${1:-.}")
cd "$(dirname "$0")/.."
if [ -e "$folder" ]; then
    echo "deploy/release.sh: name a folder that does not exist" >&2
    exit 2
fi
mkdir -p "${CARGO_TARGET_DIR:-target}/kit"
kit=$(cd "${CARGO_TARGET_DIR:-target}/kit" && pwd)

REVISION=$(git rev-parse "${3:-HEAD}")
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct "$REVISION")
CREATED=$(date --utc --date "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
VERSION=$(git show "$REVISION:Cargo.toml" | sed -n 's/^version = "\(.*\)"/\1/p' | head -n 1)
HOST=$(rustc -vV | sed -n 's/^host: //p')
CRATES=${CARGO_HOME:-$HOME/.cargo}
TOOLS=$kit/release
WORK=$(mktemp -d)
server=""
trap 'rm -rf "$WORK"; [ -z "$server" ] || kill "$server"' EXIT

if [ ! -x "$TOOLS/usr/bin/umoci" ]; then
    mkdir -p "$TOOLS"
    (cd "$TOOLS" && apt-get download --quiet umoci && dpkg-deb --extract umoci_*.deb .)
fi
[ -x "$TOOLS/bin/cargo-cyclonedx" ] || cargo install --quiet --locked --root "$TOOLS" cargo-cyclonedx@0.5.9
mkdir "$WORK/source" "$WORK/target" "$WORK/packages"
git archive "$REVISION" | tar -x -C "$WORK/source"
(cd "$WORK/packages" && apt-get download --quiet base-files ca-certificates libc6 libgcc-s1)
# Nothing of the environment may change the build.
env -i PATH="$PATH" HOME="$HOME" RUSTUP_HOME="${RUSTUP_HOME:-$HOME/.rustup}" LC_ALL=C.UTF-8 \
    REVISION="$REVISION" ATTIO_BRIDGE_REVISION="$REVISION" SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" CREATED="$CREATED" \
    VERSION="$VERSION" HOST="$HOST" CRATES="$CRATES" TOOLS="$TOOLS" WORK="$WORK" \
    unshare --user --map-root-user --mount "$WORK/source/deploy/release.sh" in-namespace

mkdir -p "$folder"
name=attio-bridge-$VERSION-$HOST
cp "$WORK/target/release/attio-bridge" "$folder/$name"
cp "$WORK/source/attio-bridge.cdx.json" "$folder/$name.cdx.json"
tar --create --file "$folder/$name.oci.tar" --directory "$WORK/image" --sort=name --mtime="@$SOURCE_DATE_EPOCH" \
    --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX .
(cd "$folder" && sha256sum "$name" "$name.cdx.json" "$name.oci.tar" >SHA256SUMS && cat SHA256SUMS)
[ "${2:-}" = check ] || exit 0

echo "a second build, elsewhere"
(umask 077 && CFLAGS=-g deploy/release.sh "$WORK/second" once "$REVISION" >/dev/null)
diff -r "$folder" "$WORK/second"

echo "the SBOM, by the published validator"
python=$TOOLS/python/bin/python
[ -x "$python" ] || python3 -m venv "$TOOLS/python"
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r deploy/release.txt
"$python" - "$folder/$name.cdx.json" <<'PYTHON'
import json
import sys

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

text = open(sys.argv[1]).read()
if error := JsonStrictValidator(SchemaVersion.V1_5).validate_str(text):
    sys.exit(str(error))
names = {component["name"] for component in json.loads(text)["components"]}
missing = {"tokio", "async-nats", "rdkafka-sys", "openssl-src", "libz-sys", "libmimalloc-sys", "ring"} - names
if missing or "proptest" in names:
    sys.exit(f"the SBOM lacks {missing}, or has what only tests need")
print(f"valid, {len(names)} components")
PYTHON

echo "the image"
mkdir "$WORK/layout"
tar --extract --file "$folder/$name.oci.tar" --directory "$WORK/layout"
unshare --user --map-root-user "$TOOLS/usr/bin/umoci" unpack --image "$WORK/layout:$VERSION" "$WORK/bundle"
du --summarize --apparent-size --human-readable "$folder/$name" "$folder/$name.oci.tar" "$WORK/bundle/rootfs" | sed "s|$WORK/bundle/rootfs|unpacked|"
# As its user, with its files alone, and no more of the environment than a container has.
ports=$(python3 -c 'import socket; a, b = socket.socket(), socket.socket(); a.bind(("127.0.0.1", 0)); b.bind(("127.0.0.1", 0))
print(a.getsockname()[1], b.getsockname()[1])')
inside() {
    exec env -i "$(sed -n 's/^ENV //p' deploy/Dockerfile)" ATTIO_WEBHOOK_SECRET="$(echo secret | sha256sum | cut -c -64)" \
        ATTIO_BRIDGE__BUS__TYPE=stdout ATTIO_BRIDGE__HTTP__LISTEN="127.0.0.1:${ports% *}" \
        ATTIO_BRIDGE__ADMIN__LISTEN="127.0.0.1:${ports#* }" unshare --user --map-user=65532 --map-group=65532 \
        --root="$WORK/bundle/rootfs" --wd=/ /usr/local/bin/attio-bridge "$@"
}
(inside version)
(inside check)
(inside serve) >"$WORK/serve.log" 2>&1 &
server=$!
tries=0
until (inside healthcheck) >/dev/null 2>&1; do
    tries=$((tries + 1))
    if [ "$tries" -ge 100 ] || ! kill -0 "$server"; then
        cat "$WORK/serve.log" >&2
        exit 1
    fi
    sleep 0.2
done
kill "$server"
wait "$server"
server=""
echo "it serves, is healthy, and stops with 0"
