//! `check --connect`: what a Redis or Valkey server is, and whether it can keep what is to be remembered.

use std::time::Duration;

use humantime::format_duration;
use redis::Value;

use super::link::{Link, RELEASE};
use crate::bus::inspect::{Level, Row};

/// Memory of one remembered id in bytes: 181 in Redis 7.0, 115 in Valkey 9.1, measured with 200,000.
const BYTES_PER_ID: u64 = 181;
/// As fast as Attio sends to one URL.
const EVENTS_PER_SECOND: u64 = 25;
/// The keys of the check end by themselves.
const KEY_LIFE: Duration = Duration::from_secs(10);

/// What serving does with a server.
pub(super) struct Use<'a> {
    pub(super) prefix: &'a str,
    pub(super) lease: Duration,
    pub(super) window: Duration,
}

fn row(check: &str, result: Level, detail: impl Into<String>) -> Row {
    Row { check: format!("dedup store {check}"), result, detail: detail.into() }
}

/// The checks of a connected server.
pub(super) async fn inspect(serving: &Use<'_>, link: &Link) -> Vec<Row> {
    let mut rows = vec![rights(serving, link).await];
    let info = match link.command(&["INFO"]).await {
        Ok(Value::BulkString(text)) => String::from_utf8_lossy(&text).into_owned(),
        Ok(Value::VerbatimString { text, .. }) => text,
        other => {
            let detail = match other {
                Ok(Value::ServerError(error)) => error.to_string(),
                Ok(_) => "no text".into(),
                Err(error) => error.to_string(),
            };
            let detail =
                format!("eviction and memory are unknown, the server does not answer INFO: {detail}");
            rows.push(row("memory", Level::Warning, detail));
            return rows;
        }
    };
    let field = |name: &str| {
        let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map(str::trim).unwrap_or_default().to_owned()
    };
    let number = |name: &str| field(name).parse::<u64>().unwrap_or_default();
    let program = if field("valkey_version").is_empty() { "redis" } else { "valkey" };
    let version = Some(field("valkey_version")).filter(|version| !version.is_empty());
    let version = version.unwrap_or_else(|| field("redis_version"));
    rows.insert(0, row("server", Level::Ok, format!("{program} {version}")));
    if matches!(link, Link::One(_)) && field("cluster_enabled") == "1" {
        let advice =
            "the server is part of a cluster: write dedup.redis.url as redis-cluster://host:port,host:port";
        rows.push(row("cluster", Level::Failed, advice));
    }
    rows.push(eviction(&field("maxmemory_policy")));
    rows.push(memory(serving.window, number("maxmemory")));
    let persistent = field("aof_enabled") == "1";
    rows.push(match (number("connected_slaves"), persistent) {
        (0, false) => row(
            "durability",
            Level::Warning,
            "no replica and no append-only file: a restart of the server forgets every id, and repeats are published again",
        ),
        (replicas, _) => {
            let file = if persistent { "on" } else { "off" };
            row("durability", Level::Ok, format!("{replicas} replicas, append-only file {file}"))
        }
    });
    rows
}

/// Every command that serving uses, on a key of the check's own.
async fn rights(serving: &Use<'_>, link: &Link) -> Row {
    let (key, life) = (format!("{}:check", serving.prefix), KEY_LIFE.as_millis().to_string());
    let needed = [
        vec!["SET", &key, "L:check", "NX", "PX", &life],
        vec!["GET", &key],
        vec!["SET", &key, "D", "PX", &life],
    ];
    for words in &needed {
        match link.command(words).await {
            Ok(Value::ServerError(error)) => {
                let detail = format!(
                    "{} is refused: {error}; allow GET, SET and EVAL on {}:*",
                    words[0], serving.prefix
                );
                return row("rights", Level::Failed, detail);
            }
            Ok(_) => {}
            Err(error) => return row("rights", Level::Failed, error.to_string()),
        }
    }
    match link.command(&["EVAL", RELEASE, "1", &key, "L:check"]).await {
        Ok(Value::ServerError(error)) => row(
            "rights",
            Level::Warning,
            format!(
                "EVAL is refused: {error}; allow it, or an id whose publish failed waits for the end of its lease ({}), \
                 and the store cannot be used after the brokers were replaced",
                format_duration(serving.lease)
            ),
        ),
        Ok(_) => row("rights", Level::Ok, "may claim, commit and release; nothing was published"),
        Err(error) => row("rights", Level::Failed, error.to_string()),
    }
}

fn eviction(policy: &str) -> Row {
    match policy {
        "noeviction" => row(
            "eviction",
            Level::Ok,
            "noeviction: a full server refuses claims, and is then treated as away",
        ),
        "" => row("eviction", Level::Warning, "unknown: the server does not tell its maxmemory-policy"),
        policy => row(
            "eviction",
            Level::Warning,
            format!(
                "{policy}: a full server drops ids before dedup.window ends, and repeats are published again; set \
                 maxmemory-policy to noeviction, on a server of its own"
            ),
        ),
    }
}

fn memory(window: Duration, limit: u64) -> Row {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let needed = window.as_secs().saturating_mul(EVENTS_PER_SECOND).saturating_mul(BYTES_PER_ID);
    let detail = format!(
        "dedup.window ({}) needs {} MiB at {EVENTS_PER_SECOND} events/s",
        format_duration(window),
        mib(needed)
    );
    match limit {
        0 => row("memory", Level::Ok, format!("{detail}; maxmemory is not set: the machine must have it")),
        limit if limit < needed => {
            row("memory", Level::Warning, format!("{detail}, and maxmemory is {} MiB: raise it", mib(limit)))
        }
        limit => row("memory", Level::Ok, format!("{detail}; maxmemory is {} MiB", mib(limit))),
    }
}
