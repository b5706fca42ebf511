//! `check --connect`: follows the way of a message step by step, without publishing or creating anything, and
//! reports where it fails and why.

use async_nats::jetstream::stream::Config;
use humantime::format_duration;

use super::permissions::Violation;
use super::stream::{Probe, every_subject, some_of};
use super::{Ensure, Options, connect};
use crate::bus::error::StartError;
use crate::bus::inspect::{Level, Report, Requirements};

/// Checks on a server everything that serving depends on.
pub async fn inspect(options: Options, requirements: Requirements) -> Result<Report, StartError> {
    let mut report = Report::new("nats", connect::server_names(&options)?);
    let probe = match Probe::connect(&options, requirements.destinations.clone()).await? {
        Ok(probe) => probe,
        Err(reason) => {
            report.add("reachable", Level::Failed, reason);
            return Ok(report);
        }
    };
    let server = probe.client.server_info();
    let detail = format!("server {} of version {}", server.server_name, server.version);
    report.add("reachable", Level::Ok, detail);
    let encrypted = server.tls_required || options.servers.iter().any(|server| server.starts_with("tls://"));
    let detail = match encrypted {
        true => "encrypted; the server's certificate and name were verified",
        false => "the server asks for none: events travel unencrypted",
    };
    report.add("tls", Level::Ok, detail);
    let detail = if server.auth_required { "accepted" } else { "the server asks for none" };
    report.add("login", Level::Ok, detail);
    let found = probe.probe().await;
    let (level, detail) = permission(&probe).await;
    report.add("permission", level, detail);
    let check = format!("stream {}", options.stream.name);
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            report.add(check, Level::Failed, format!("JetStream does not reply: {error}"));
            return Ok(report);
        }
    };
    if found.missing && !found.taken && options.stream.ensure == Ensure::Create {
        report.add(check, Level::Warning, "does not exist yet: `serve` creates it");
        return Ok(report);
    }
    for reason in &found.invalid {
        report.add(&check, Level::Failed, reason);
    }
    for warning in found.warnings.iter().chain(&found.differences) {
        report.add(&check, Level::Warning, warning);
    }
    if found.invalid.is_empty() && found.warnings.is_empty() && found.differences.is_empty() {
        report.add(&check, Level::Ok, "accepts every subject and matches the configuration");
    }
    if let Some(info) = found.info {
        stream(&info.config, &probe, requirements.largest(&requirements.quarantine), &mut report);
    }
    Ok(report)
}

async fn permission(probe: &Probe) -> (Level, String) {
    if probe.violations.no_acks() {
        return (Level::Failed, Violation::Acks.advice());
    }
    match probe.violations.denied(&probe.client, &every_subject(&probe.destinations)).await {
        None => (
            Level::Warning,
            "unknown: the server did not report on messages that it must refuse; if the permission is missing, \
             `serve` answers 503 broker_refused and logs the subject"
                .to_owned(),
        ),
        Some(denied) if denied.is_empty() => {
            (Level::Ok, "allowed on every subject; nothing was published".to_owned())
        }
        Some(denied) => (
            Level::Failed,
            format!("not allowed on {}: allow this client's user to publish there", some_of(&denied)),
        ),
    }
}

/// Durability, duplicate window and size limit of the stream.
fn stream(config: &Config, probe: &Probe, largest: usize, report: &mut Report) {
    match config.num_replicas {
        // The stream's warnings say so.
        0 | 1 if probe.is_clustered() => {}
        0 | 1 => {
            let detail = "one replica: use 3 where there are 3 servers; until then a power failure can lose \
                          acknowledged events unless the server's sync_interval is always (no client can read it)";
            report.add("durability", Level::Warning, detail);
        }
        replicas => {
            let detail = format!(
                "{replicas} replicas; no client can read the servers' sync_interval: set it to always where all \
                 of them can lose power at once"
            );
            report.add("durability", Level::Ok, detail);
        }
    }
    if config.duplicate_window.is_zero() {
        let detail = "the server drops no repeats: set the stream's duplicate_window, which a stream with sources has \
                      only when it is asked for";
        report.add("duplicates", Level::Warning, detail);
    } else {
        let window = format_duration(config.duplicate_window);
        let detail = format!(
            "the server drops repeats for {window}; later ones are dropped only by a replica of the bridge that has \
             seen the event (dedup.window), and by consumers; a longer window costs the server about 257 bytes of \
             memory an event"
        );
        report.add("duplicates", Level::Ok, detail);
    }
    let max_message = usize::try_from(config.max_message_size).ok().filter(|size| *size > 0);
    let limit = max_message.unwrap_or(usize::MAX).min(probe.client.max_payload());
    let detail = format!("the server accepts {limit} bytes, the largest quarantined delivery has {largest}");
    if limit < largest {
        let advice = "raise max_payload and the stream's max_msg_size, or lower http.max_body_bytes";
        report.add("sizes", Level::Warning, format!("{detail}: {advice}"));
    } else {
        report.add("sizes", Level::Ok, detail);
    }
}
