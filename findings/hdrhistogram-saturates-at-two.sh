#!/bin/sh
# A histogram that resizes itself loses every latency when values are recorded with `saturating_record`.
#
# Version    hdrhistogram 7.6.0 (crate)
# Expected   `Histogram::new(3)` "will auto-resize"; `saturating_record` clamps only what no resize can hold.
#            Recording 1 to 100 ms in microseconds gives a median of about 50,000.
# Observed   `saturating_record` never resizes. What the first 2,048 counters cannot hold is recorded as the
#            declared highest value, which is 2 for a new histogram: of 1 to 100 ms only the first two values
#            survive, the median is 2 microseconds and the maximum 2,000. No call fails and the count is right.
#            Once one `record` has grown the histogram, the same calls keep their values, so what a run reports
#            depends on which method came first. Use `record`, or give the range with `new_with_bounds`.
#
# Exits 0 while the behaviour is as described, 1 when it has changed. Needs cargo.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/src"
cat >"$work/Cargo.toml" <<'TOML'
[package]
name = "saturates"
version = "0.0.0"
edition = "2024"

[dependencies]
hdrhistogram = { version = "=7.6.0", default-features = false }
TOML
cat >"$work/src/main.rs" <<'RUST'
use hdrhistogram::Histogram;

fn main() {
    let micros = || (1..=100u64).map(|ms| ms * 1000);
    let show = |name: &str, h: &Histogram<u64>| {
        println!("{name}: count {}, median {}, max {}, auto-resize {}", h.len(), h.value_at_quantile(0.5), h.max(), h.is_auto_resize());
    };

    let mut saturating = Histogram::<u64>::new(3).expect("3 digits");
    micros().for_each(|value| saturating.saturating_record(value));
    show("saturating_record", &saturating);

    let mut plain = Histogram::<u64>::new(3).expect("3 digits");
    micros().for_each(|value| plain.record(value).expect("it resizes"));
    show("record", &plain);

    let mut mixed = Histogram::<u64>::new(3).expect("3 digits");
    mixed.record(100_000).expect("it resizes");
    micros().for_each(|value| mixed.saturating_record(value));
    show("record, then saturating_record", &mixed);

    let mut bounded = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).expect("good bounds");
    micros().for_each(|value| bounded.saturating_record(value));
    show("new_with_bounds, saturating_record", &bounded);
}
RUST
observed=$(cd "$work" && CARGO_TARGET_DIR="$work/target" cargo run --quiet)
printf '%s\n' "$observed"

expected='saturating_record: count 100, median 2, max 2000, auto-resize true
record: count 100, median 50015, max 100031, auto-resize true
record, then saturating_record: count 101, median 51007, max 100031, auto-resize true
new_with_bounds, saturating_record: count 100, median 50015, max 100031, auto-resize false'
if [ "$observed" = "$expected" ]; then
    echo "as described"
else
    printf 'changed; expected\n%s\n' "$expected"
    exit 1
fi
