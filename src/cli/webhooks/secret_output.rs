//! Where the secret of a new webhook goes: a file, or standard output in one of several forms.

use std::io::{self, Write};
use std::path::Path;

use secrecy::ExposeSecret;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Failure, Log, say};
use crate::attio::secret::{self, Error, SecretFile};
use crate::attio::{Client, Created, Subscription};
use crate::cli::stop_token;
use crate::printable::{line, lines};

pub enum SecretOutput {
    /// A file.
    File(SecretFile),
    /// Standard output, as the manifest of a Kubernetes Secret of this name.
    Manifest(String),
    /// Standard output, with the webhook, as JSON.
    Json,
    /// Standard output, after this prefix.
    Text(String),
}

impl SecretOutput {
    /// A file; checked now, written later.
    pub fn file(path: &Path, overwrite: bool) -> Result<Self, Failure> {
        Ok(Self::File(SecretFile::reserve(path, overwrite)?))
    }

    fn write(self, created: &Created) -> io::Result<()> {
        let secret = created.secret.expose_secret();
        match self {
            Self::File(file) => file.write(&created.secret),
            Self::Manifest(name) => print(&secret::manifest(&name, created)),
            Self::Json => {
                let mut json = json!(created.webhook);
                json["secret"] = secret.into();
                print(&lines(&format!("{json:#}\n")))
            }
            Self::Text(prefix) => print(&format!("{prefix}{secret}\n")),
        }
    }
}

/// From now on the first Ctrl-C only cancels the token, so that a secret in progress is stored. The second
/// ends the process at once.
pub fn delay_interrupt(log: &Log) -> Result<CancellationToken, Failure> {
    stop_token(log, Some("Finishing, to keep the secrets. Press Ctrl-C again to abort."))
}

/// Creates a webhook and stores its secret. If it can be neither stored nor its webhook deleted, it is printed, unless
/// standard output is a document without secrets.
pub async fn create(
    client: &Client,
    url: &str,
    subscriptions: &[Subscription],
    output: SecretOutput,
    is_document: bool,
) -> Result<Created, Failure> {
    let created = secret::create(client, url, subscriptions, |created| output.write(created)).await;
    if let Err(Error::Orphaned { created, .. }) = &created {
        // It may be lost because it is no usable secret: then it has characters that no secret has.
        let secret = line(created.secret.expose_secret());
        let printed = !is_document && print(&format!("{secret}\n")).is_ok();
        let result = if printed { "is on standard output, only this once" } else { "is lost" };
        say(format_args!("warning: the secret of webhook {} {result}", created.webhook.shown_id()));
    }
    let created = created?;
    if !created.webhook.is_at(url) {
        say(format_args!(
            "warning: Attio shows the URL as {}: configure it so, or the webhook will not be recognised",
            line(&created.webhook.target_url)
        ));
    }
    Ok(created)
}

/// Unlike other output, a failure to print a secret is an error.
fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}
