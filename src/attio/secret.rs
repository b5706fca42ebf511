//! Creating webhooks without losing their secrets: the secret is stored before success is reported, or the
//! webhook is deleted.

use std::io;
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::filter::keys;
use super::{Client, Created, Subscription, Webhook};
use crate::files::PendingFile;
use crate::pipeline::verify::MIN_SECRET_BYTES;
use crate::printable;

const MODE: u32 = 0o600;

/// More than a secret with its line end: Attio's are 64 hex digits.
const RESERVED_BYTES: usize = 256;

/// The key in a Kubernetes Secret, which is the name of the file in the container.
const MANIFEST_KEY: &str = "attio-webhook";

/// A file that will hold a secret, known to be writable before the secret exists.
#[derive(Debug)]
pub struct SecretFile {
    file: PendingFile,
    overwrite: bool,
}

impl SecretFile {
    /// Reserves disk space next to the path. An existing file is unchanged until [`SecretFile::write`].
    pub fn reserve(path: &Path, overwrite: bool) -> Result<Self, String> {
        if !overwrite && path.symlink_metadata().is_ok() {
            let path = path.display();
            return Err(format!(
                "{path} already exists and is not overwritten: move it away, or use --overwrite-secret"
            ));
        }
        let reserved = PendingFile::create(path, MODE)
            .and_then(|mut file| file.reserve(RESERVED_BYTES).map(|()| Self { file, overwrite }));
        reserved.map_err(|error| format!("cannot write {}: {error}", path.display()))
    }

    pub fn write(self, secret: &SecretString) -> io::Result<()> {
        self.file.commit(format!("{}\n", secret.expose_secret()).as_bytes(), self.overwrite)
    }
}

/// The contents of a secret file without its line end; as in the configuration, only one is removed.
pub fn without_line_end(text: &str) -> &str {
    text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line))
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Attio(#[from] super::Error),
    /// Nothing was created.
    #[error("{0}")]
    Unprepared(String),
    /// Attio created it but its answer was lost, and with it the secret. The webhook was deleted.
    #[error(
        "{reason}; Attio created webhook {webhook_id} anyway; it was deleted, because its secret is lost"
    )]
    Unconfirmed { reason: super::Error, webhook_id: String },
    #[error("the secret could not be stored: {0}; the new webhook was deleted")]
    NotStored(#[source] io::Error),
    /// The secret could not be stored, and the webhook could not be deleted. This error holds the only copy of
    /// the secret.
    #[error(
        "the secret could not be stored ({store}), and webhook {} could not be deleted ({delete}): \
         delete it, or store the secret yourself", created.webhook.shown_id()
    )]
    Orphaned { created: Box<Created>, store: io::Error, delete: super::Error },
}

impl Error {
    /// Whether there may be a webhook whose secret is lost.
    pub fn may_leave_orphan(&self) -> bool {
        match self {
            Self::Attio(error) => error.is_outcome_unknown(),
            Self::Orphaned { .. } => true,
            Self::Unprepared(_) | Self::Unconfirmed { .. } | Self::NotStored(_) => false,
        }
    }
}

/// Creates a webhook and stores its secret with `store`, which has been checked beforehand.
pub async fn create(
    client: &Client,
    url: &str,
    subscriptions: &[Subscription],
    store: impl FnOnce(&Created) -> io::Result<()>,
) -> Result<Created, Error> {
    let before = client.webhooks().await?;
    let created = match client.create_webhook(url, subscriptions).await {
        Err(error) if error.is_outcome_unknown() => {
            return Err(delete_unconfirmed(client, url, subscriptions, &before, error).await);
        }
        created => created?,
    };
    // Whatever is printed or stored as a secret has the characters and the length of one that verifies.
    let secret = created.secret.expose_secret();
    let is_usable = secret.bytes().all(|byte| byte.is_ascii_graphic())
        && (MIN_SECRET_BYTES..RESERVED_BYTES).contains(&secret.len());
    let unusable = || Err(io::Error::other("Attio's answer has no usable secret"));
    let stored = if is_usable { store(&created) } else { unusable() };
    let Err(store) = stored else { return Ok(created) };
    match client.delete_webhook(&created.webhook.id.webhook_id).await {
        Ok(()) => Err(Error::NotStored(store)),
        Err(delete) => Err(Error::Orphaned { created: Box::new(created), store, delete }),
    }
}

/// Finds a webhook like the requested one that did not exist before, and deletes it. An older one may be the
/// reason why none was created, and its secret is in use.
async fn delete_unconfirmed(
    client: &Client,
    url: &str,
    subscriptions: &[Subscription],
    before: &[Webhook],
    error: super::Error,
) -> Error {
    let is_new = |webhook: &Webhook| {
        webhook.is_at(url)
            && keys(&webhook.subscriptions) == keys(subscriptions)
            && before.iter().all(|known| known.id != webhook.id)
    };
    let Ok(now) = client.webhooks().await else { return error.into() };
    let Some(Webhook { id, .. }) = now.into_iter().find(is_new) else { return error.into() };
    match client.delete_webhook(&id.webhook_id).await {
        Ok(()) => Error::Unconfirmed { reason: error.with_known_outcome(), webhook_id: id.webhook_id },
        Err(_) => error.into(),
    }
}

pub fn manifest(name: &str, created: &Created) -> String {
    // Every JSON string is a YAML string.
    let quoted = |text: &str| printable::lines(&json!(text).to_string());
    let secret = quoted(created.secret.expose_secret());
    let (id, url) = (quoted(created.webhook.webhook_id()), quoted(&created.webhook.target_url));
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}\n  annotations:\n    \
         attio-bridge.dev/webhook-id: {id}\n    attio-bridge.dev/target-url: {url}\n\
         type: Opaque\nstringData:\n  {MANIFEST_KEY}: {secret}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifest_has_only_its_own_keys() {
        let text = "a\"\n  b: 1\n\u{85}\u{202e}";
        let created: Created = serde_json::from_value(json!({
            "id": { "workspace_id": "w", "webhook_id": text }, "target_url": text, "subscriptions": [],
            "status": "active", "created_at": "", "secret": "s",
        }))
        .unwrap();
        let manifest = manifest("name", &created);
        assert_eq!(manifest.lines().count(), 10, "{manifest}");
        assert!(manifest.contains("webhook-id: \"a\\\"\\n  b: 1\\n\\u0085\\u202e\"\n"), "{manifest}");
    }

    #[test]
    fn one_line_end_is_removed() {
        for (text, secret) in [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("", "")] {
            assert_eq!(without_line_end(text), secret, "{text:?}");
        }
    }
}
