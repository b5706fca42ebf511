//! The integration tests: one binary, real brokers, everything in this process but the brokers.
//!
//! `tests/run` installs what they need and runs them all.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::type_complexity, reason = "tables of cases are read once, where they stand")]

mod support;

mod answers;
mod attio_end_to_end;
mod balance;
mod blocked;
mod catalog;
mod check_connect;
mod cli;
mod config;
mod config_kafka;
mod content_modes;
mod cuts;
mod dedup;
mod deploy;
mod dev;
mod docs;
mod end_to_end;
mod events;
mod example;
mod examples;
mod explain;
mod filter;
mod framing;
mod help;
mod hostile;
mod identity;
mod injection;
mod kafka;
mod kafka_cluster;
mod kafka_security;
mod layers;
mod leaks;
mod liars;
mod life;
mod logs;
mod loss;
mod nats;
mod nats_check;
mod nats_cluster;
mod nats_end_to_end;
mod nats_events;
mod nats_logs;
mod nats_security;
mod nats_stream;
mod network;
mod outage;
mod parser_limits;
mod poison;
mod port;
mod problems;
mod process;
mod quarantine_verbs;
mod rebuilds;
mod reload;
mod secrets;
mod security;
mod send;
mod series;
mod setup;
mod sign;
mod slow;
mod slugs;
mod stalled;
mod storm;
mod strangers;
mod systemd;
mod tail;
mod topics;
mod trust;
mod verify;
mod watch;
mod webhooks_errors;
mod webhooks_fake;
mod webhooks_filters;
mod webhooks_plan;
mod webhooks_rotate;
mod webhooks_secrets;
mod webhooks_tls;
mod webhooks_try;
mod webhooks_verbs;
