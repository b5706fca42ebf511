//! Making a webhook so that its secret is never lost: kept before success is told, or the webhook is
//! gone again.

use std::collections::BTreeSet;
use std::io;

use secrecy::ExposeSecret;
use serde_json::json;

use super::plan::key;
use super::{Client, Created, Subscription, Webhook};

/// Why there is no webhook whose secret is kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Attio did not make it.
    #[error(transparent)]
    Attio(#[from] super::Error),
    /// Attio did not say that it made it, and did; as nobody has its secret, it was deleted again.
    #[error(
        "{why}; Attio has made webhook {webhook_id} all the same: it is deleted again, for nobody has its secret"
    )]
    Unheard {
        /// What was heard instead.
        why: super::Error,
        /// The webhook.
        webhook_id: String,
    },
    /// Its secret could not be kept, and so it was deleted again.
    #[error("the secret could not be kept: {0}; the webhook that was just made is deleted again")]
    Undone(#[source] io::Error),
    /// Its secret could not be kept, and it could not be deleted either. Whoever gets this is the last
    /// to have the secret.
    #[error(
        "the secret could not be kept ({kept}), and webhook {} could not be deleted again ({deleted}): \
         delete it, or keep the secret yourself", created.webhook.id.webhook_id
    )]
    Stranded {
        /// The webhook, with its secret.
        created: Box<Created>,
        /// What keeping said.
        kept: io::Error,
        /// What deleting said.
        deleted: super::Error,
    },
}

impl Error {
    /// Whether there may be a webhook now whose secret nobody has.
    pub fn leaves_one_behind(&self) -> bool {
        match self {
            Self::Attio(error) => error.is_outcome_unknown(),
            Self::Stranded { .. } => true,
            Self::Unheard { .. } | Self::Undone(_) => false,
        }
    }
}

/// Makes a webhook and keeps its secret by `keep`, which has been found able to do so beforehand.
pub async fn kept(
    client: &Client,
    url: &str,
    subscriptions: &[Subscription],
    keep: impl FnOnce(&Created) -> io::Result<()>,
) -> Result<Created, Error> {
    let before: Vec<Webhook> = client.webhooks().await?;
    let created = match client.create_webhook(url, subscriptions).await {
        Err(error) if error.is_outcome_unknown() => {
            return Err(unheard(client, url, subscriptions, &before, error).await);
        }
        created => created?,
    };
    let Err(kept) = keep(&created) else { return Ok(created) };
    match client.delete_webhook(&created.webhook.id.webhook_id).await {
        Ok(()) => Err(Error::Undone(kept)),
        Err(deleted) => Err(Error::Stranded { created: Box::new(created), kept, deleted }),
    }
}

/// Looks for a webhook that was not there before and is what was asked for, and deletes it. One that was
/// there may be what kept this one from being made, and its secret is somebody's.
async fn unheard(
    client: &Client,
    url: &str,
    subscriptions: &[Subscription],
    before: &[Webhook],
    error: super::Error,
) -> Error {
    let keys = |all: &[Subscription]| all.iter().map(key).collect::<BTreeSet<_>>();
    let is_made = |webhook: &Webhook| {
        webhook.target_url == url
            && keys(&webhook.subscriptions) == keys(subscriptions)
            && before.iter().all(|known| known.id != webhook.id)
    };
    let Ok(now) = client.webhooks().await else { return error.into() };
    let Some(Webhook { id, .. }) = now.into_iter().find(is_made) else { return error.into() };
    match client.delete_webhook(&id.webhook_id).await {
        Ok(()) => Error::Unheard { why: error.with_known_outcome(), webhook_id: id.webhook_id },
        Err(_) => error.into(),
    }
}

/// The key of the Secret, which is the name of the file in the container.
const MANIFEST_KEY: &str = "attio-webhook";

/// The secret of a webhook as the manifest of a Kubernetes Secret.
pub fn manifest(name: &str, created: &Created) -> String {
    // Attio's secrets are hex digits; JSON strings are YAML strings whatever they hold.
    let secret = json!(created.secret.expose_secret());
    let (id, url) = (&created.webhook.id.webhook_id, json!(created.webhook.target_url));
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}\n  annotations:\n    \
         attio-bridge.dev/webhook-id: {id}\n    attio-bridge.dev/target-url: {url}\n\
         type: Opaque\nstringData:\n  {MANIFEST_KEY}: {secret}\n"
    )
}
