//! What only an administrator's request tells of a topic.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;

use super::topic::{Settings, Topic};
use crate::bus::kafka::client_config::without_publishing;
use crate::bus::kafka::topics::{Found, block_on};

/// How long the broker may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks for the settings of every topic that is there. A user without the right stays without them.
pub(super) fn read(topics: &mut [Topic], config: &ClientConfig, left: Duration) {
    let mut there: Vec<_> = topics.iter_mut().filter(|topic| topic.found == Found::There).collect();
    let patience = left.min(PATIENCE);
    if there.is_empty() || patience.is_zero() {
        return;
    }
    let names: Vec<_> = there.iter().map(|topic| topic.name.clone()).collect();
    let Ok(described) = describe(&names, config, patience) else { return };
    for (topic, settings) in there.iter_mut().zip(described) {
        topic.settings = settings;
    }
}

fn describe(
    names: &[std::sync::Arc<str>],
    config: &ClientConfig,
    patience: Duration,
) -> Result<Vec<Option<Settings>>, KafkaError> {
    let admin: AdminClient<DefaultClientContext> = without_publishing(config).create()?;
    let resources: Vec<_> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
    let limits = AdminOptions::new().operation_timeout(Some(patience)).request_timeout(Some(patience));
    let described = block_on(admin.describe_configs(&resources, &limits))?;
    Ok(described
        .into_iter()
        .map(|resource| {
            let resource = resource.ok()?;
            let number = |name: &str| resource.get(name)?.value.as_ref()?.parse().ok();
            Some(Settings {
                min_insync_replicas: number("min.insync.replicas")?,
                max_message_bytes: number("max.message.bytes")?,
            })
        })
        .collect())
}
