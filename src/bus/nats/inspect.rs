//! `check --connect` for NATS: goes the way of a message step by step, publishes and makes nothing,
//! and says at which step it ends and why.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::stream::Config;
use async_nats::{Client, Event, ServerError};
use humantime::format_duration;

use super::connect;
use super::health;
use super::look::Look;
use super::options::{Ensure, Options};
use super::permission::{self, Heard};
use super::refusals::{self, Refusals};
use crate::bus::error::StartError;
use crate::bus::inspect::{Level, Report, Requirements};

/// For a connection, whatever the number of servers.
const CONNECT: Duration = Duration::from_secs(6);

/// How long the sender goes on trying.
const RETRIES: Duration = Duration::from_secs(3 * 24 * 3600);

/// Asks a server everything that serving depends on.
pub async fn inspect(options: Options, requirements: Requirements) -> Result<Report, StartError> {
    let mut report = Report::new("nats", connect::names(&options)?);
    let (refusals, heard): (Arc<Refusals>, Arc<Heard>) = Default::default();
    match reach(&options, &refusals, &heard).await? {
        Err(cause) => {
            report.add("reachable", Level::Failed, format!("{cause}{}", health::advice(&cause)));
        }
        Ok(client) => {
            let server = client.server_info();
            let detail = format!("server {} of version {}", server.server_name, server.version);
            report.add("reachable", Level::Ok, detail);
            tell_door(&options, server.tls_required, server.auth_required, &mut report);
            look(client, options, requirements, (refusals, heard), &mut report).await;
        }
    }
    Ok(report)
}

/// How the way in was: TLS, login. What kept the client out was told as not reachable.
fn tell_door(options: &Options, tls: bool, login: bool, report: &mut Report) {
    let encrypted = tls || options.servers.iter().any(|server| server.starts_with("tls://"));
    let detail = if encrypted {
        "encrypted; the server's certificate and name were checked"
    } else {
        "the server asks for none: what is published can be read on the way"
    };
    report.add("tls", Level::Ok, detail);
    let detail = if login { "accepted" } else { "the server asks for none" };
    report.add("login", Level::Ok, detail);
}

/// A client, or why there is none.
async fn reach(
    options: &Options,
    refusals: &Arc<Refusals>,
    heard: &Arc<Heard>,
) -> Result<Result<Client, String>, StartError> {
    let (refusals, heard) = (Arc::clone(refusals), Arc::clone(heard));
    let settings = connect::settings(options)?.event_callback(move |event| {
        if let Event::ServerError(ServerError::Other(text)) = &event {
            heard.send_modify(|texts| texts.push(text.clone()));
            if let Some(refusal) = refusals::parse(text).filter(|_| !permission::is_answer(text)) {
                refusals.add(&refusal, text);
            }
        }
        std::future::ready(())
    });
    let connecting = settings.connect(connect::addresses(&options.servers)?);
    Ok(match tokio::time::timeout(CONNECT, connecting).await {
        Ok(connected) => connected.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {}", format_duration(CONNECT))),
    })
}

async fn look(
    client: Client,
    options: Options,
    requirements: Requirements,
    (refusals, heard): (Arc<Refusals>, Arc<Heard>),
    report: &mut Report,
) {
    let check = format!("stream {}", options.stream.name);
    let ensure = options.stream.ensure;
    let largest = requirements.largest(&requirements.quarantine);
    let max_payload = client.max_payload();
    let mut subjects: Vec<_> = requirements.destinations.iter().map(|to| Arc::clone(&to.subject)).collect();
    subjects.sort();
    subjects.dedup();
    tell_permission(permission::denied(&client, &heard, &subjects).await, report);
    let look = Look::new(client, options.stream, requirements.destinations, refusals);
    let found = match look.look().await {
        Ok(found) => found,
        Err(error) => return report.add(check, Level::Failed, format!("JetStream does not answer: {error}")),
    };
    if found.missing && ensure == Ensure::Create {
        return report.add(check, Level::Warning, "does not exist yet: `serve` makes it");
    }
    for reason in &found.unfit {
        report.add(&check, Level::Failed, reason);
    }
    for difference in &found.different {
        report.add(&check, Level::Warning, difference);
    }
    if found.unfit.is_empty() && found.different.is_empty() {
        report.add(&check, Level::Ok, "takes every subject, and is as configured");
    }
    if let Some(there) = found.there {
        tell(&there, largest, max_payload, report);
    }
}

/// Which subjects the user may not publish to.
fn tell_permission(denied: Option<Vec<Arc<str>>>, report: &mut Report) {
    let (level, detail) = match denied {
        None => (
            Level::Warning,
            "not known: the server said nothing of messages that it had to refuse; where the right is missing \
             `serve` answers 503 broker_refused and the log names the subject"
                .to_owned(),
        ),
        Some(denied) if denied.is_empty() => {
            (Level::Ok, "allowed on every subject; nothing was published".to_owned())
        }
        Some(denied) => {
            let named = denied.iter().take(3).map(|subject| &**subject).collect::<Vec<_>>().join(", ");
            let more = denied.len().saturating_sub(3);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            (Level::Failed, format!("not allowed on {named}{more}: allow this client's user to publish there"))
        }
    };
    report.add("permission", level, detail);
}

/// What a stream that takes the events is worth.
fn tell(there: &Config, largest: usize, max_payload: usize, report: &mut Report) {
    let replicas = there.num_replicas;
    match replicas {
        0 | 1 => {
            let detail = "one copy: use 3 replicas where there are 3 servers; until then a loss of power can \
                          lose acknowledged events unless the server's sync_interval is always (no client \
                          can see it)";
            report.add("durability", Level::Warning, detail);
        }
        _ => {
            let detail = format!(
                "{replicas} replicas; no client can see the servers' sync_interval: set it to always where \
                 all of them can lose power at once"
            );
            report.add("durability", Level::Ok, detail);
        }
    }
    let window = format_duration(there.duplicate_window);
    if there.duplicate_window < RETRIES {
        let detail = format!(
            "the server drops repeats for {window}, and the sender tries for about 3 days: a later repeat is \
             dropped only by the replica of the bridge that has seen the event; a longer window costs the \
             server about 257 bytes of memory an event"
        );
        report.add("duplicates", Level::Warning, detail);
    } else {
        report.add("duplicates", Level::Ok, format!("the server drops repeats for {window}"));
    }
    let of_stream = usize::try_from(there.max_message_size).ok().filter(|size| *size > 0);
    let limit = of_stream.unwrap_or(usize::MAX).min(max_payload);
    let detail = format!("the server takes {limit} bytes, the largest quarantined delivery has {largest}");
    match limit < largest {
        true => {
            let advice = "raise max_payload and the stream's max_msg_size, or lower http.max_body_bytes";
            report.add("sizes", Level::Warning, format!("{detail}: {advice}"));
        }
        false => report.add("sizes", Level::Ok, detail),
    }
}
