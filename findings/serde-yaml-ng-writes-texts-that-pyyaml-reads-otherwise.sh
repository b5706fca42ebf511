#!/bin/sh
# A text that serde_yaml_ng writes is a date, a number, a boolean or an error for PyYAML.
#
# Version    serde_yaml_ng 0.10.0 (crate), PyYAML 6.0.4 (PyPI)
# Expected   a serializer quotes a text that would be read as something else, and a YAML document of texts alone is
#            read as texts alone.
# Observed   serde_yaml_ng quotes what YAML 1.2 would read otherwise ('010', '0o7', '~', '1e3'), and PyYAML reads YAML
#            1.1: `on` is True, 2026-11-24T07:47:53.667Z a datetime, 12:30:45 the number 45045, 1_000 the number 1000,
#            and a text `=` ends the reading with a ConstructorError. An AsyncAPI or Kubernetes document with such a
#            text is another document in Python.
#
# Exits 0 while the behaviour is as described, 1 when it has changed. Needs cargo and Python with venv.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
mkdir src
cat >Cargo.toml <<'TOML'
[package]
name = "texts"
version = "0.0.0"
edition = "2024"

[dependencies]
serde_yaml_ng = "=0.10.0"
TOML
cat >src/main.rs <<'RUST'
fn main() {
    for text in ["on", "2026-11-24T07:47:53.667Z", "12:30:45", "1_000", "010", "="] {
        print!("{}", serde_yaml_ng::to_string(&text).expect("a text is YAML"));
    }
}
RUST
CARGO_TARGET_DIR="$work/target" cargo run --quiet >texts
python3 -m venv python
python/bin/pip install --quiet --disable-pip-version-check PyYAML==6.0.4
cat >read.py <<'PYTHON'
import sys

import yaml

for line in sys.stdin:
    try:
        value = yaml.safe_load(line)
        print(line.strip(), type(value).__name__, value)
    except yaml.YAMLError as error:
        print(line.strip(), type(error).__name__)
PYTHON
observed=$(python/bin/python read.py <texts)
printf '%s\n' "$observed"

expected="on bool True
2026-11-24T07:47:53.667Z datetime 2026-11-24 07:47:53.667000+00:00
12:30:45 int 45045
1_000 int 1000
'010' str 010
= ConstructorError"
if [ "$observed" = "$expected" ]; then
    echo "as described"
else
    printf 'changed; expected\n%s\n' "$expected"
    exit 1
fi
