//! `topics`: the bucket to create, and what its user may do.

use std::time::Duration;

use async_nats::jetstream::stream::Config;
use serde::Serialize;
use serde_json::{Value as Json, json};

use super::bucket;
use crate::store::options::NatsKvOptions;

/// The bucket and the rights.
#[derive(Clone, Debug, Serialize)]
pub struct Setup {
    /// The stream of the bucket, as in JetStream's API.
    stream: Json,
    /// The subjects that the bridge's user must be allowed to publish to.
    publish: Vec<String>,
}

pub fn setup(options: &NatsKvOptions, window: Duration) -> Setup {
    let config = bucket::config(options, window);
    let Config { name, description, subjects, num_replicas, duplicate_window, max_age, .. } = config;
    let nanoseconds = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
    let publish = vec![
        format!("$KV.{}.>", options.bucket),
        format!("$JS.API.DIRECT.GET.{name}.>"),
        format!("$JS.API.STREAM.INFO.{name}"),
    ];
    let stream = json!({
        "name": name,
        "description": description,
        "subjects": subjects,
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "num_replicas": num_replicas,
        "max_age": nanoseconds(max_age),
        "duplicate_window": nanoseconds(duplicate_window),
        "max_consumers": -1,
        "max_msgs": -1,
        "max_msgs_per_subject": 1,
        "max_bytes": -1,
        "max_msg_size": -1,
        "allow_msg_ttl": true,
        "allow_direct": true,
        "allow_rollup_hdrs": true,
        "deny_delete": true,
    });
    Setup { stream, publish }
}

impl Setup {
    /// Commands of the `nats` tool.
    pub fn commands(&self) -> String {
        let Self { stream, publish } = self;
        let name = stream["name"].as_str().unwrap_or_default();
        format!(
            "\n# The bucket of dedup.store \"nats-kv\". Allow the bridge's user to publish to: {}\nnats stream add {name} \
             --config /dev/stdin <<'JSON'\n{stream:#}\nJSON\n",
            publish.join(", ")
        )
    }
}
