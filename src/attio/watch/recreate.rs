//! Makes a lost webhook again and hands its secret over: to its file, or to a command.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use super::Watch;
use crate::attio::plan::{Change, Step};
use crate::attio::secret_file::Reserved;
use crate::attio::{Created, Status, create};

/// A command that takes the manifest of a Kubernetes Secret on its standard input.
#[derive(Clone, Debug)]
pub struct Hook {
    /// For `sh -c`.
    pub command: String,
    /// Name of the Secret.
    pub secret_name: String,
}

impl Hook {
    fn give(&self, created: &Created) -> io::Result<()> {
        let mut child = Command::new("sh").args(["-c", &self.command]).stdin(Stdio::piped()).spawn()?;
        let manifest = create::manifest(&self.secret_name, created);
        let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(manifest.as_bytes()));
        let status = child.wait()?;
        written?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("the command ended with {status}")))
        }
    }
}

/// Why there is still none.
enum Failed {
    /// Somebody else was first.
    Conflict,
    Other(String),
}

impl Watch {
    /// Makes a webhook again that is gone, or that Attio has given up.
    pub(super) async fn recreate(&mut self, step: &Step) {
        let options = &step.wanted.options;
        let inactive = match &step.change {
            Change::Create => None,
            Change::Keep(webhook) | Change::Update { webhook, .. } if webhook.status == Status::Inactive => {
                Some(webhook.id.webhook_id.clone())
            }
            _ => return,
        };
        if !options.recreate {
            return;
        }
        let webhook = options.name.as_str();
        let result = match self.make(step, inactive).await {
            Ok(webhook_id) => {
                tracing::info!(webhook, webhook_id, "made again, and its secret is handed over");
                "ok"
            }
            Err(Failed::Conflict) => {
                tracing::info!(webhook, "somebody else has made it again: nothing is changed");
                "conflict"
            }
            Err(Failed::Other(error)) => {
                tracing::error!(webhook, error, "cannot be made again; it is tried anew next time");
                "failed"
            }
        };
        self.metrics.recreated(webhook, result);
    }

    async fn make(&self, step: &Step, inactive: Option<String>) -> Result<String, Failed> {
        let options = &step.wanted.options;
        let other = |error: &dyn std::fmt::Display| Failed::Other(error.to_string());
        // The place for the secret is found good before anything is changed at Attio.
        let file = match (&self.options.hook, &options.secret_file) {
            (Some(_), _) => None,
            (None, Some(path)) => Some(Reserved::at(path, true).map_err(|error| other(&error))?),
            (None, None) => {
                return Err(Failed::Other("it has no secret_file, and there is no --secret-hook".into()));
            }
        };
        if let Some(webhook_id) = inactive
            && let Err(error) = self.client.delete_webhook(&webhook_id).await
            && !error.is_not_found()
        {
            return Err(other(&error));
        }
        let keep = |created: &Created| match (&self.options.hook, file) {
            (_, Some(file)) => file.write(&created.secret),
            (Some(hook), None) => hook.give(created),
            (None, None) => Err(io::Error::other("there is no place for the secret")),
        };
        match create::kept(&self.client, &options.target_url, &step.wanted.subscriptions, keep).await {
            Ok(created) => Ok(created.webhook.id.webhook_id),
            Err(create::Error::Attio(error)) if error.status() == Some(409) => Err(Failed::Conflict),
            Err(error) => Err(other(&error)),
        }
    }
}
