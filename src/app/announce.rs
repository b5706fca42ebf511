//! The first lines of the log: the configuration that is about to run.

use std::path::Path;
use std::time::Duration;

use humantime::format_duration;

use crate::config::Config;
use crate::pipeline::SourceOptions;
use crate::pipeline::dedup::{BYTES_PER_ID, Options};
use crate::version::{REVISION, VERSION};

/// Logs what the bridge is about to do, and how long dedup remembers at the rate at which Attio sends at most.
pub(super) fn announce(config: &Config) {
    let source = |source: &SourceOptions| match source.verify.secrets.len() {
        1 => format!("{} (1 secret)", source.name),
        secrets => format!("{} ({secrets} secrets)", source.name),
    };
    tracing::info!(
        version = VERSION,
        revision = REVISION,
        config = %config.file().map_or("none".into(), Path::to_string_lossy),
        sources = config.sources.iter().map(source).collect::<Vec<_>>().join(", "),
        bus = config.bus.kind.name(),
        prefix = config.route.prefix,
        http = config.http.listen,
        admin = config.admin.listen,
        "starting"
    );
    const EVENTS_PER_SECOND: u64 = 25;
    let Options { capacity, window } = config.dedup;
    let mib = |ids: u64| ids.saturating_mul(BYTES_PER_ID) / (1 << 20);
    let needed = window.as_secs().saturating_mul(EVENTS_PER_SECOND);
    let holds = Duration::from_secs(capacity / EVENTS_PER_SECOND);
    let hours = capacity / (EVENTS_PER_SECOND * 3600);
    let per_hour = u128::from(capacity) * 3600 / u128::from(window.as_secs().max(1));
    let (window, memory_mib) = (format_duration(window), mib(capacity));
    if capacity >= needed {
        tracing::info!(
            ids = capacity, %window, memory_mib, hours_at_25_events_per_second = hours,
            "dedup remembers every event of dedup.window, also at 25 events/s"
        );
    } else {
        tracing::warn!(
            ids = capacity, %window, memory_mib, hours_at_25_events_per_second = hours,
            "dedup remembers {capacity} events: {} at 25 events/s, less than dedup.window ({window}), which it \
             covers up to {per_hour} events per hour. A retry that comes later is published again. To cover the \
             window at 25 events/s, set dedup.capacity to {needed} ({} MiB)",
            format_duration(holds),
            mib(needed)
        );
    }
}
