#!/bin/sh
# Prints the path of an OpenTelemetry Collector with an OTLP receiver and an OTLP/HTTP exporter. Built from its Go modules into
# ${CARGO_TARGET_DIR:-target}/kit, unless it is there: about two minutes on two cores.
set -eu
version=v0.165.0
# The modules that are stable have versions of their own.
stable=v1.71.0

cd "$(dirname "$0")/.."
mkdir -p "${CARGO_TARGET_DIR:-target}/kit"
kit=$(cd "${CARGO_TARGET_DIR:-target}/kit" && pwd)/collector
if [ "$(cat "$kit/version" 2>/dev/null)" != "$version" ]; then
    echo "tests/collector.sh: building the OpenTelemetry Collector $version" >&2
    rm -rf "$kit"
    mkdir -p "$kit"
    cat >"$kit/builder.yaml" <<YAML
dist: {name: collector, output_path: $kit/dist}
receivers: [{gomod: go.opentelemetry.io/collector/receiver/otlpreceiver $version}]
exporters: [{gomod: go.opentelemetry.io/collector/exporter/otlphttpexporter $version}]
providers:
  - {gomod: go.opentelemetry.io/collector/confmap/provider/envprovider $stable}
  - {gomod: go.opentelemetry.io/collector/confmap/provider/fileprovider $stable}
YAML
    GOBIN="$kit" go install "go.opentelemetry.io/collector/cmd/builder@$version" >&2
    "$kit/builder" --config "$kit/builder.yaml" >&2
    echo "$version" >"$kit/version"
fi
echo "$kit/dist/collector"
