#!/bin/sh
# A retry that honours Retry-After through backon's `adjust` never ends, whatever `with_max_times` says.
#
# Version    backon 1.6.0 (crate)
# Expected   `adjust(|error, delay| …)` changes the delay before a retry that the policy allows. After
#            `with_max_times(2)` there are three calls and then the error.
# Observed   `adjust` is also called when the policy is exhausted, with `None`. A closure that ignores its second
#            argument and returns the server's delay revives the retry: 50 calls here, and it would go on. Only
#            `delay.map(…)`, or returning `None` for `None`, keeps the limit.
#
# Exits 0 while the behaviour is as described, 1 when it has changed. Needs cargo.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/src"
cat >"$work/Cargo.toml" <<'TOML'
[package]
name = "adjust"
version = "0.0.0"
edition = "2024"

[dependencies]
backon = { version = "=1.6.0", features = ["tokio-sleep"] }
tokio = { version = "1", features = ["macros", "rt", "time"] }
TOML
cat >"$work/src/main.rs" <<'RUST'
use std::cell::Cell;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};

/// What a server answers: busy (come back after this time), or done at the 50th call so that this program ends.
async fn call(calls: &Cell<u32>) -> Result<(), Duration> {
    calls.set(calls.get() + 1);
    if calls.get() == 50 { Ok(()) } else { Err(Duration::from_millis(1)) }
}

fn policy() -> ExponentialBuilder {
    ExponentialBuilder::default().with_min_delay(Duration::from_millis(1)).with_max_delay(Duration::from_millis(1)).with_max_times(2)
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let calls = Cell::new(0);
    let plain = (|| call(&calls)).retry(policy()).await;
    println!("without adjust: {} calls, {}", calls.replace(0), if plain.is_ok() { "ok" } else { "error" });

    let adjusted = (|| call(&calls)).retry(policy()).adjust(|retry_after, _| Some(*retry_after)).await;
    println!("adjust returns the server's delay: {} calls, {}", calls.replace(0), if adjusted.is_ok() { "ok" } else { "error" });

    let mapped = (|| call(&calls)).retry(policy()).adjust(|retry_after, delay| delay.map(|_| *retry_after)).await;
    println!("adjust maps the policy's delay: {} calls, {}", calls.replace(0), if mapped.is_ok() { "ok" } else { "error" });
}
RUST
observed=$(cd "$work" && CARGO_TARGET_DIR="$work/target" cargo run --quiet)
printf '%s\n' "$observed"

expected="without adjust: 3 calls, error
adjust returns the server's delay: 50 calls, ok
adjust maps the policy's delay: 3 calls, error"
if [ "$observed" = "$expected" ]; then
    echo "as described"
else
    printf 'changed; expected\n%s\n' "$expected"
    exit 1
fi
