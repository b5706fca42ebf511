//! Where a new secret goes: a file, a manifest, or the eyes of whoever asked.

use std::io::{self, Write};
use std::path::Path;

use secrecy::ExposeSecret;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Failure, Log, say};
use crate::attio::create::Error;
use crate::attio::secret_file::Reserved;
use crate::attio::{Client, Created, Subscription, create};
use crate::shutdown;

/// Where a secret goes.
pub enum Keep {
    /// Into a file.
    File(Reserved),
    /// To standard output, as the manifest of a Kubernetes Secret of this name.
    Manifest(String),
    /// To standard output, with the webhook, as JSON.
    Json,
    /// To standard output, once, with this before it.
    Show(String),
}

impl Keep {
    /// A file; checked now, written later.
    pub fn file(path: &Path, overwrite: bool) -> Result<Self, Failure> {
        Ok(Self::File(Reserved::at(path, overwrite)?))
    }

    fn keep(self, created: &Created) -> io::Result<()> {
        let secret = created.secret.expose_secret();
        match self {
            Self::File(reserved) => reserved.write(&created.secret),
            Self::Manifest(name) => out(&create::manifest(&name, created)),
            Self::Json => {
                let mut json = json!(created.webhook);
                json["secret"] = secret.into();
                out(&format!("{json:#}\n"))
            }
            Self::Show(before) => out(&format!("{before}{secret}\n")),
        }
    }
}

/// Whether a secret that nobody else has may go to standard output.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It may.
    Aloud,
    /// A program reads there what has no secrets: it is lost rather.
    Never,
}

impl Told {
    /// For a verb that prints a document without secrets, or lines for people.
    pub fn beside(document: bool) -> Self {
        if document { Self::Never } else { Self::Aloud }
    }
}

/// From now on the first Ctrl-C waits until a secret that is being made is kept; whoever has more to do
/// looks at the token. The second ends the process at once.
pub fn undisturbed(log: &Log) -> Result<CancellationToken, Failure> {
    let stop = shutdown::stop_signal(log.last_words())
        .map_err(|error| Failure::Refused(format!("cannot listen for signals: {error}")))?;
    let told = CancellationToken::new();
    let tell = told.clone();
    tokio::spawn(async move {
        stop.await;
        say("finishing what was begun, so that no secret is lost; once more to end at once");
        tell.cancel();
    });
    Ok(told)
}

/// Makes a webhook whose secret is kept. A secret that is about to be lost is told to whoever is there,
/// but not in the place of a document that has no secrets.
pub async fn create(
    client: &Client,
    url: &str,
    subscriptions: &[Subscription],
    keep: Keep,
    told: Told,
) -> Result<Created, Failure> {
    let made = create::kept(client, url, subscriptions, |created| keep.keep(created)).await;
    if let Err(Error::Stranded { created, .. }) = &made {
        let shown = told == Told::Aloud && out(&format!("{}\n", created.secret.expose_secret())).is_ok();
        let where_to = if shown { "is on standard output, this one time" } else { "is lost" };
        say(format_args!("warning: the secret of webhook {} {where_to}", created.webhook.id.webhook_id));
    }
    Ok(made?)
}

/// Unlike other data, a secret must arrive.
fn out(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}
