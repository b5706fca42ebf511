//! A new secret for a webhook, step by step, each of which can be the last one for now.
//!
//! Attio has no call for it, and (URL, type, filter) must be unique. So a successor is made at the same
//! URL with a query, *asleep*: its filter fits no event. Its secret goes into the webhook's secret file
//! and the old one into the file of a second secret of the source, so that the bridge takes both. Once the
//! bridge takes the new one, the successor gets the subscriptions; from then until the old webhook is
//! deleted both send, and a consumer sees the events of that time twice, under two webhook ids. At the
//! end the successor gets the URL without the query, and the second file the new secret too.
//!
//! Where a rotation stands is read from Attio and the two files; a [`Journal`] beside the secret file says
//! that one is under way, and for which webhook.

mod journal;

use std::fs::File;
use std::io;
use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value as Json, json};

use super::secret_file::{self, Reserved};
use super::{Client, Subscription, Webhook, create};
pub use journal::{Journal, is_successor};

/// Fits no workspace.
const NOBODY: &str = "00000000-0000-0000-0000-000000000000";

/// The two files of a source's secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Of the webhook's secret.
    pub current: PathBuf,
    /// Of the one before it.
    pub previous: PathBuf,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Make the successor.
    Create,
    /// Delete a successor whose secret was lost on its way.
    Discard(Webhook),
    /// Once the bridge takes the new secret: give the successor its subscriptions.
    Awaken(Webhook),
    /// Once traffic of the successor is verified: delete the old webhook.
    Delete(Webhook),
    /// Give the successor the URL.
    Rename(Webhook),
    /// Once nothing signed with the old secret is on its way: forget that secret. This is the webhook
    /// that is there from now on.
    Forget(Webhook),
}

impl Step {
    /// The word for it.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Discard(_) => "discard",
            Self::Awaken(_) => "awaken",
            Self::Delete(_) => "delete",
            Self::Rename(_) => "rename",
            Self::Forget(_) => "forget",
        }
    }

    /// What is there of the webhook that it is about.
    pub const fn webhook(&self) -> Option<&Webhook> {
        match self {
            Self::Create => None,
            Self::Discard(webhook)
            | Self::Awaken(webhook)
            | Self::Delete(webhook)
            | Self::Rename(webhook)
            | Self::Forget(webhook) => Some(webhook),
        }
    }
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Attio said no, or nothing.
    #[error(transparent)]
    Attio(#[from] super::Error),
    /// The successor could not be made.
    #[error(transparent)]
    Create(#[from] create::Error),
    /// A file cannot be written.
    #[error(transparent)]
    Place(#[from] secret_file::Error),
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What stands at Attio is none of the states of a rotation.
    #[error("{0}")]
    Lost(String),
}

/// A rotation that is under way.
pub struct Rotation<'a> {
    client: &'a Client,
    places: Places,
    journal: Journal,
    /// Nobody else works on it meanwhile.
    _held: File,
}

impl<'a> Rotation<'a> {
    /// Takes up the one that is under way for these places, if there is one.
    pub fn resume(client: &'a Client, places: &Places) -> Result<Option<Self>, Error> {
        let Some(journal) = Journal::read(&places.current)? else { return Ok(None) };
        let held = Journal::hold(&places.current)?;
        Ok(Some(Self { client, places: places.clone(), journal, _held: held }))
    }

    /// Begins: from now on both files hold the webhook's secret.
    pub fn begin(client: &'a Client, places: &Places, webhook: &Webhook) -> Result<Self, Error> {
        copy(places)?;
        let journal = Journal::of(webhook);
        journal.write(&places.current)?;
        let held = Journal::hold(&places.current)?;
        Ok(Self { client, places: places.clone(), journal, _held: held })
    }

    /// What it is about.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The secret that is in force at the end.
    pub fn secret(&self) -> Result<SecretString, Error> {
        read(&self.places.current)
    }

    /// Looks where it stands.
    pub async fn next(&self) -> Result<Step, Error> {
        let new = read(&self.places.current)?.expose_secret() != read(&self.places.previous)?.expose_secret();
        next(&self.journal, self.client.webhooks().await?, new)
    }

    /// Does a step. Whatever has to be waited for before it was waited for.
    pub async fn perform(&self, step: &Step) -> Result<(), Error> {
        let Journal { target_url, subscriptions, .. } = &self.journal;
        match step {
            Step::Create => {
                let reserved = Reserved::at(&self.places.current, true)?;
                let keep = |created: &super::Created| reserved.write(&created.secret);
                let asleep = [asleep(subscriptions)];
                create::kept(self.client, &self.journal.successor_url(), &asleep, keep).await?;
            }
            Step::Discard(webhook) | Step::Delete(webhook) => {
                match self.client.delete_webhook(&webhook.id.webhook_id).await {
                    Err(error) if error.is_not_found() => {}
                    done => done?,
                }
            }
            Step::Awaken(webhook) => {
                self.client.update_webhook(&webhook.id.webhook_id, None, Some(subscriptions)).await?;
            }
            Step::Rename(webhook) => {
                self.client.update_webhook(&webhook.id.webhook_id, Some(target_url), None).await?;
            }
            Step::Forget(_) => {
                copy(&self.places)?;
                Journal::remove(&self.places.current)?;
            }
        }
        Ok(())
    }
}

/// Writes what is in the current file into the previous one.
fn copy(Places { current, previous }: &Places) -> Result<(), Error> {
    let secret = read(current)?;
    let written = Reserved::at(previous, true)?.write(&secret);
    written.map_err(|source| Error::File { path: previous.clone(), source })
}

/// Where it stands. `new` is whether the files differ, which they do as soon as the new secret is kept.
fn next(journal: &Journal, webhooks: Vec<Webhook>, new: bool) -> Result<Step, Error> {
    let (mut old, mut successors, mut renamed) = (None, Vec::new(), None);
    for webhook in webhooks {
        match &*webhook.target_url {
            _ if webhook.id.webhook_id == journal.webhook_id => old = Some(webhook),
            url if url == journal.successor_url() => successors.push(webhook),
            url if url == journal.target_url => renamed = Some(webhook),
            _ => {}
        }
    }
    if successors.len() > 1 || (!successors.is_empty() && !new) {
        return Ok(Step::Discard(successors.swap_remove(0)));
    }
    match (old, successors.pop(), renamed) {
        (_, Some(successor), _) if is_asleep(&successor) => Ok(Step::Awaken(successor)),
        (Some(old), Some(_), _) => Ok(Step::Delete(old)),
        (Some(_), None, _) if !new => Ok(Step::Create),
        (None, Some(successor), None) => Ok(Step::Rename(successor)),
        // Files that are equal already have been made so by a Forget that was cut short.
        (None, None, Some(webhook)) => Ok(Step::Forget(webhook)),
        (old, successor, _) => Err(Error::Lost(format!(
            "the rotation of webhook {} cannot go on: at Attio the old webhook is {}, its successor {}; look \
             with `webhooks list`, put the files right, and remove the .rotation file to begin anew",
            journal.webhook_id,
            if old.is_some() { "there" } else { "gone" },
            if successor.is_some() { "there" } else { "gone" },
        ))),
    }
}

/// A subscription that no event fits.
fn asleep(subscriptions: &[Subscription]) -> Subscription {
    let event_type = subscriptions.first().map_or("record.created", |first| &first.event_type).to_owned();
    Subscription { event_type, filter: Some(nobody()) }
}

fn nobody() -> Json {
    json!({ "$and": [{ "field": "id.workspace_id", "operator": "equals", "value": NOBODY }] })
}

fn is_asleep(webhook: &Webhook) -> bool {
    webhook.subscriptions.iter().all(|subscription| subscription.filter == Some(nobody()))
}

fn read(path: &std::path::Path) -> Result<SecretString, Error> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|source| Error::File { path: path.to_owned(), source })?;
    Ok(SecretString::from(text.trim_end_matches(['\r', '\n']).to_owned()))
}
