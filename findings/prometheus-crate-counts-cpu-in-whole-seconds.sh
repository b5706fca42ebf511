#!/bin/sh
# The process collector of the `prometheus` crate exports process_cpu_seconds_total in whole seconds.
#
# Versions   prometheus 0.14.0, feature `process`, on Linux
# Expected   Fractions of a second, as Prometheus's own client library (Go) exports them under the same name: the kernel
#            counts in hundredths.
# Observed   The counter is an integer, and each collection rounds down. After 1.5 s of CPU time it says 1. A process
#            that uses 2 % of a core looks idle for 50 s and then jumps by 1: rate() over less than some minutes
#            shows steps that are not there.
#
# Exits 0 while the behaviour is as described, 1 when it has changed. Needs cargo.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/src"
cat >"$work/Cargo.toml" <<'TOML'
[package]
name = "whole-seconds"
version = "0.0.0"
edition = "2024"

[dependencies]
prometheus = { version = "=0.14.0", default-features = false, features = ["process"] }
TOML
cat >"$work/src/main.rs" <<'RUST'
use prometheus::{Encoder, Registry, TextEncoder, process_collector::ProcessCollector};

/// User and system time in hundredths of a second, from fields 14 and 15 of /proc/self/stat.
fn hundredths() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit(')').next().unwrap();
    after_name.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
}

fn main() {
    let registry = Registry::new();
    registry.register(Box::new(ProcessCollector::for_self())).unwrap();
    while hundredths() < 150 {}
    let kernel = hundredths();
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let line = text.lines().find(|line| line.starts_with("process_cpu_seconds_total ")).unwrap();
    println!("the kernel: {}.{:02} s; {line}", kernel / 100, kernel % 100);
    let told: f64 = line.split(' ').nth(1).unwrap().parse().unwrap();
    std::process::exit(i32::from(told != 1.0));
}
RUST
cd "$work"
CARGO_TARGET_DIR="$work/target" cargo run --quiet
echo "as described"
