//! Makes a lost webhook again and hands its secret over: to its file, or to a command.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

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
    /// How long the command may take: nothing else is watched meanwhile.
    pub timeout: Duration,
}

/// How often a command is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl Hook {
    fn give(&self, created: &Created) -> io::Result<()> {
        // In a process group of its own: Ctrl-C does not end it half way, and none of it outlives its time.
        let mut command = Command::new("sh");
        command.args(["-c", &self.command]).stdin(Stdio::piped()).process_group(0);
        let mut child = command.spawn()?;
        let manifest = create::manifest(&self.secret_name, created);
        let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(manifest.as_bytes()));
        let status = self.ended(&mut child)?;
        written?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("the command ended with {status}")))
        }
    }

    fn ended(&self, child: &mut Child) -> io::Result<ExitStatus> {
        let begun = Instant::now();
        while begun.elapsed() < self.timeout {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            kill_process_group(group, Signal::KILL)?;
        }
        child.wait()?;
        let message = format!("the command did not end within {}", humantime::format_duration(self.timeout));
        Err(io::Error::new(io::ErrorKind::TimedOut, message))
    }
}

/// Why there is still none.
enum Failed {
    /// Somebody else was first.
    Conflict,
    /// There may be one whose secret nobody has.
    Behind(String),
    Other(String),
}

impl Watch {
    /// Makes a webhook again that is gone, that Attio has given up, or whose secret was lost on its way.
    pub(super) async fn recreate(&mut self, step: &Step) {
        let options = &step.wanted.options;
        let webhook = options.name.as_str();
        let useless = |status: &Status| *status == Status::Inactive || self.behind.contains(webhook);
        let old = match &step.change {
            Change::Create => None,
            Change::Keep(webhook) | Change::Update { webhook, .. } if useless(&webhook.status) => {
                Some(webhook.id.webhook_id.clone())
            }
            _ => return,
        };
        if !options.recreate {
            return;
        }
        let made = match self.unresolved.get(webhook) {
            Some(reason) => Err(Failed::Other(reason.clone())),
            None => self.make(step, old).await,
        };
        let result = match made {
            Ok(webhook_id) => {
                self.behind.remove(webhook);
                tracing::info!(webhook, webhook_id, "made again, and its secret is handed over");
                "ok"
            }
            Err(Failed::Conflict) => {
                tracing::info!(webhook, "somebody else has made it again: nothing is changed");
                "conflict"
            }
            Err(Failed::Behind(error)) => {
                self.behind.insert(webhook.to_owned());
                tracing::error!(webhook, error, "nobody may have its secret; it is made anew next time");
                "failed"
            }
            Err(Failed::Other(error)) => {
                tracing::error!(webhook, error, "cannot be made again; it is tried anew next time");
                "failed"
            }
        };
        self.metrics.recreated(webhook, result);
    }

    async fn make(&self, step: &Step, old: Option<String>) -> Result<String, Failed> {
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
        if let Some(webhook_id) = old
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
            Err(error) if error.leaves_one_behind() => Err(Failed::Behind(error.to_string())),
            Err(error) => Err(other(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_command_that_does_not_end_is_ended() {
        let created: Created = serde_json::from_value(json!({
            "id": { "workspace_id": "w", "webhook_id": "h" }, "target_url": "https://a", "subscriptions": [],
            "status": "active", "created_at": "", "secret": "s",
        }))
        .unwrap();
        let timeout = Duration::from_millis(100);
        let hook = |command: &str| Hook { command: command.into(), secret_name: "n".into(), timeout };
        let error = hook("cat > /dev/null; sleep 600 | cat").give(&created).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().contains("within 100ms"), "{error}");
    }
}
