//! The NATS bucket: created, explained, and what `check --connect` says of it.

use std::process::Command;

use async_nats::jetstream::stream::Config;
use serde_json::Value;

use crate::support::nats::Server;
use crate::support::program::{printed, run, variables};
use crate::support::replicas::{Replicas, event};
use crate::support::shared_store::SharedStore;

fn with(server: &Server, more: &[(&str, &str)]) -> Vec<(String, String)> {
    let url = server.url();
    let mut all = vec![("BUS__TYPE", "stdout"), ("DEDUP__STORE", "nats-kv"), ("NATS__SERVERS", &*url)];
    all.extend_from_slice(more);
    variables(&all)
}

/// `check --connect`: its exit code, and its table.
fn check(variables: &Vec<(String, String)>) -> (i32, String) {
    let output = run(&["check", "--connect"], variables);
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text.into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_explained_like_the_stream() {
    let server = Server::start();
    let (code, text) = check(&with(&server, &[]));
    assert!(code == 3 && text.contains("bucket ATTIO_DEDUP does not exist"), "{text}");
    let (code, text) = check(&with(&server, &[("NATS__STREAM__ENSURE", "create")]));
    assert!(code == 0 && text.contains("does not exist yet: `serve` creates it"), "{text}");
    assert!(server.admin().await.get_stream("KV_ATTIO_DEDUP").await.is_err(), "a check creates nothing");
    let (code, text) = check(&with(&server, &[("NATS__STREAM__ENSURE", "off")]));
    assert!(code == 3 && text.contains("is not inspected") && text.contains("rights"), "{text}");
    // One that the KV clients create has no lives of messages.
    let usual = Config {
        name: "KV_ATTIO_DEDUP".into(),
        subjects: vec!["$KV.ATTIO_DEDUP.>".into()],
        max_messages_per_subject: 1,
        allow_direct: true,
        ..Config::default()
    };
    server.admin().await.create_stream(usual.clone()).await.unwrap();
    let (code, text) = check(&with(&server, &[]));
    assert!(code == 3 && text.contains("set allow_msg_ttl"), "{text}");
    server.admin().await.update_stream(Config { allow_message_ttl: true, ..usual }).await.unwrap();
    let (code, text) = check(&with(&server, &[]));
    assert!(code == 0 && text.contains("may claim, commit and release"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_topics_prints_is_a_bucket_that_serves() {
    let server = Server::start();
    let kafka = [("BUS__TYPE", "kafka"), ("KAFKA__BOOTSTRAP_SERVERS", "localhost:9092")];
    let setup: Value = serde_json::from_str(&printed(&["topics", "--json"], &with(&server, &kafka))).unwrap();
    let stream = &setup["dedup_bucket"]["stream"];
    let admin = server.admin().await;
    let created: Value = admin.request("STREAM.CREATE.KV_ATTIO_DEDUP", stream).await.unwrap();
    assert_eq!(created["config"]["allow_msg_ttl"], true, "{created}");
    let commands = printed(&["topics"], &with(&server, &kafka));
    assert!(commands.contains("nats stream add KV_ATTIO_DEDUP"), "{commands}");
    let syntax = Command::new("sh").args(["-nc", &commands]).status().unwrap();
    assert!(syntax.success(), "it is a script");
    let verify = ("ATTIO_BRIDGE__NATS__STREAM__ENSURE", "verify");
    let replicas = Replicas::start(SharedStore::Nats(server), 1, &[verify]).await;
    assert_eq!(replicas.bridges[0].answer(&event("one")).await, (200, "accepted"));
    assert_eq!(replicas.bridges[0].metric("dedup_store_up", &[]).await, 1.0);
}
