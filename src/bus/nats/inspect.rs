//! `check --connect`: follows the way of a message step by step, without publishing or creating anything, and
//! reports where it fails and why.

use std::sync::Arc;
use std::time::Duration;

use async_nats::header::NATS_EXPECTED_STREAM;
use async_nats::jetstream::stream::Config;
use async_nats::{Client, Event, HeaderMap, ServerError};
use bytes::Bytes;
use humantime::format_duration;
use tokio::sync::watch;
use tokio::time::timeout;

use super::connect;
use super::errors::{Violation, Violations};
use super::options::{Ensure, Options};
use super::stream::{Probe, some_of};
use crate::bus::error::StartError;
use crate::bus::inspect::{Level, Report, Requirements};

/// How long the sender retries a delivery.
const RETRIES: Duration = Duration::from_secs(3 * 24 * 3600);

/// Checks on a server everything that serving depends on.
pub async fn inspect(options: Options, requirements: Requirements) -> Result<Report, StartError> {
    let mut report = Report::new("nats", connect::server_names(&options)?);
    let (violations, server_errors): (Arc<Violations>, Arc<ServerErrors>) = Default::default();
    let (heard, texts) = (Arc::clone(&violations), Arc::clone(&server_errors));
    let on_event = move |event| {
        if let Event::ServerError(ServerError::Other(text)) = event {
            if let Some(violation) = Violation::parse(&text).filter(|_| !is_probe_reply(&text)) {
                heard.add(&violation, &text);
            }
            texts.send_modify(|texts| texts.push(text));
        }
    };
    let client = match connect::connect_once(&options, on_event).await? {
        Ok(client) => client,
        Err(reason) => {
            report.add("reachable", Level::Failed, reason);
            return Ok(report);
        }
    };
    connection(&client, &options, &mut report);
    permission(denied_subjects(&client, &server_errors, &subjects(&requirements)).await, &mut report);
    let (max_payload, ensure) = (client.max_payload(), options.stream.ensure);
    let largest = requirements.largest(&requirements.quarantine);
    let check = format!("stream {}", options.stream.name);
    let probe = Probe::new(client, options.stream, requirements.destinations, violations);
    let found = match probe.probe().await {
        Ok(found) => found,
        Err(error) => {
            report.add(check, Level::Failed, format!("JetStream does not reply: {error}"));
            return Ok(report);
        }
    };
    if found.missing && ensure == Ensure::Create {
        report.add(check, Level::Warning, "does not exist yet: `serve` creates it");
        return Ok(report);
    }
    for reason in &found.invalid {
        report.add(&check, Level::Failed, reason);
    }
    for difference in &found.differences {
        report.add(&check, Level::Warning, difference);
    }
    if found.invalid.is_empty() && found.differences.is_empty() {
        report.add(&check, Level::Ok, "accepts every subject and matches the configuration");
    }
    if let Some(config) = found.config {
        stream(&config, largest, max_payload, &mut report);
    }
    Ok(report)
}

fn subjects(requirements: &Requirements) -> Vec<Arc<str>> {
    let mut subjects: Vec<_> = requirements.destinations.iter().map(|to| Arc::clone(&to.subject)).collect();
    subjects.sort();
    subjects.dedup();
    subjects
}

/// Server, TLS and login of a client that is connected.
fn connection(client: &Client, options: &Options, report: &mut Report) {
    let server = client.server_info();
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
}

fn permission(denied: Option<Vec<Arc<str>>>, report: &mut Report) {
    let (level, detail) = match denied {
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
    };
    report.add("permission", level, detail);
}

/// Durability, duplicate window and size limit of the stream.
fn stream(config: &Config, largest: usize, max_payload: usize, report: &mut Report) {
    match config.num_replicas {
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
    let window = format_duration(config.duplicate_window);
    if config.duplicate_window < RETRIES {
        let detail = format!(
            "the server drops repeats for {window}, and the sender retries for about 3 days: a later repeat is \
             dropped only by the replica of the bridge that has seen the event; a longer window costs the \
             server about 257 bytes of memory an event"
        );
        report.add("duplicates", Level::Warning, detail);
    } else {
        report.add("duplicates", Level::Ok, format!("the server drops repeats for {window}"));
    }
    let max_message = usize::try_from(config.max_message_size).ok().filter(|size| *size > 0);
    let limit = max_message.unwrap_or(usize::MAX).min(max_payload);
    let detail = format!("the server accepts {limit} bytes, the largest quarantined delivery has {largest}");
    if limit < largest {
        let advice = "raise max_payload and the stream's max_msg_size, or lower http.max_body_bytes";
        report.add("sizes", Level::Warning, format!("{detail}: {advice}"));
    } else {
        report.add("sizes", Level::Ok, detail);
    }
}

/// The prefix of subjects that the server reserves.
const RESERVED: &str = "_R_.attio-bridge.";

/// Messages sent before their replies are awaited: the client drops events that overflow its channel.
const BATCH: usize = 32;

/// How long the server may take for all.
const DENIALS_TIMEOUT: Duration = Duration::from_secs(2);

/// Every error text of the server.
type ServerErrors = watch::Sender<Vec<String>>;

/// Whether an error of the server is about a message of [`denied_subjects`].
fn is_probe_reply(text: &str) -> bool {
    text.contains(RESERVED)
}

/// The subjects that the user may not publish to, without publishing; none if the server does not reply.
///
/// Each subject is sent one message whose reply subject the server reserves. The server checks the permission
/// first and the reply subject second, and drops the message either way: its error names the subject if the
/// permission is missing, else the reply. A server that accepted the reply would still refuse the message: it
/// expects a stream whose name no stream can have.
async fn denied_subjects(
    client: &Client,
    server_errors: &ServerErrors,
    subjects: &[Arc<str>],
) -> Option<Vec<Arc<str>>> {
    let probes = probe_permissions(client, server_errors, subjects);
    let allowed = timeout(DENIALS_TIMEOUT, probes).await.ok()?;
    let denied = subjects.iter().zip(allowed).filter(|(_, allowed)| *allowed == Some(false));
    Some(denied.map(|(subject, _)| Arc::clone(subject)).collect())
}

async fn probe_permissions(
    client: &Client,
    server_errors: &ServerErrors,
    subjects: &[Arc<str>],
) -> Vec<Option<bool>> {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_EXPECTED_STREAM, "no.such.stream");
    let mut texts = server_errors.subscribe();
    let probes: Vec<(&Arc<str>, String)> =
        subjects.iter().enumerate().map(|(n, subject)| (subject, format!("{RESERVED}{n}"))).collect();
    for batch in probes.chunks(BATCH) {
        for (subject, reply) in batch {
            let (subject, reply) = (subject.to_string(), reply.clone());
            // A client that has ended gets no reply either.
            let _ =
                client.publish_with_reply_and_headers(subject, reply, headers.clone(), Bytes::new()).await;
        }
        let all = |texts: &Vec<String>| {
            batch.iter().all(|(subject, reply)| publish_allowed(texts, subject, reply).is_some())
        };
        // The sender lives as long as this check.
        let _ = texts.wait_for(all).await;
    }
    let texts = texts.borrow();
    probes.iter().map(|(subject, reply)| publish_allowed(&texts, subject, reply)).collect()
}

/// Whether the message may be published, once the server has reported on it.
fn publish_allowed(texts: &[String], subject: &str, reply: &str) -> Option<bool> {
    texts.iter().find_map(|text| {
        let named = text.split('"').nth(1)?;
        match text.to_ascii_lowercase().contains("publish with reply") {
            true => (named == reply).then_some(true),
            false => (named == subject).then_some(false),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denied_publish_and_denied_reply_are_told_apart() {
        let texts = [
            "Permissions Violation for Publish with Reply of \"_R_.attio-bridge.0\"",
            "Permissions Violation for Publish to \"a.created\"",
        ]
        .map(String::from);
        assert_eq!(publish_allowed(&texts, "b", "_R_.attio-bridge.0"), Some(true));
        assert_eq!(publish_allowed(&texts, "a.created", "_R_.attio-bridge.1"), Some(false));
        assert_eq!(publish_allowed(&texts, "a", "_R_.attio-bridge.2"), None);
        assert_eq!([&texts[0], &texts[1]].map(|text| is_probe_reply(text)), [true, false]);
    }
}
