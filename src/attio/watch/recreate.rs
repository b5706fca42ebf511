//! Recreates a lost webhook and stores its secret, in its file or by a command.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::Watch;
use crate::attio::plan::{Action, Plan, Step};
use crate::attio::secret::{self, SecretFile};
use crate::attio::types::INACTIVE;
use crate::attio::{Created, Webhook, WebhookOptions};

/// A command that reads the manifest of a Kubernetes Secret on its standard input.
#[derive(Clone, Debug)]
pub(crate) struct Hook {
    pub command: String,
    pub secret_name: String,
    pub timeout: Duration,
}

const CHECK_EVERY: Duration = Duration::from_millis(20);

impl Hook {
    fn run(&self, created: &Created) -> io::Result<()> {
        // In its own process group: Ctrl-C does not interrupt it, and its children end with it.
        let mut command = Command::new("sh");
        command.args(["-c", &self.command]).stdin(Stdio::piped()).process_group(0);
        let mut child = command.spawn()?;
        let manifest = secret::manifest(&self.secret_name, created);
        let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(manifest.as_bytes()));
        let status = self.wait(&mut child)?;
        written?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("the command ended with {status}")))
        }
    }

    fn wait(&self, child: &mut Child) -> io::Result<ExitStatus> {
        let started = Instant::now();
        while started.elapsed() < self.timeout {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(CHECK_EVERY);
        }
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            kill_process_group(group, Signal::KILL)?;
        }
        child.wait()?;
        let message = format!("the command did not end within {}", humantime::format_duration(self.timeout));
        Err(io::Error::new(io::ErrorKind::TimedOut, message))
    }
}

/// A creation whose webhook was not found since.
pub struct Creation {
    is_confirmed: bool,
    /// The webhooks at other URLs before it.
    unmanaged: BTreeSet<String>,
    is_logged: bool,
}

impl Watch {
    /// Recreates a webhook that does not exist, that is inactive, or whose secret was lost.
    pub(super) async fn recreate(&mut self, plan: &Plan, step: &Step) {
        let options = &step.wanted.options;
        let webhook = options.name.as_str();
        let old = match step.webhook() {
            None if step.action == Action::Create => None,
            Some(old) if old.status == INACTIVE || self.state.orphans.contains(webhook) => {
                Some(old.webhook_id())
            }
            _ => return,
        };
        if !options.recreate {
            return;
        }
        if let (None, Some(creation)) = (old, self.state.unproven.get_mut(webhook))
            && (creation.is_confirmed || !ids(plan).is_subset(&creation.unmanaged))
        {
            if !std::mem::replace(&mut creation.is_logged, true) {
                let (webhook_id, target_url) = (self.state.known.get(webhook), &options.target_url);
                tracing::error!(
                    webhook,
                    webhook_id,
                    target_url,
                    "the webhook that was created is not in Attio's list, neither by its id nor by its URL: none is \
                     created any more; see `webhooks list`, then restart `watch`"
                );
                self.metrics.recreations.with_label_values(&[webhook, "failed"]).inc();
            }
            return;
        }
        let replaced = match self.state.unresolved.get(webhook) {
            Some(reason) => Err(secret::Error::Unprepared(reason.clone())),
            None => self.replace(step, old).await,
        };
        let result = match replaced {
            Ok(created) => {
                self.state.orphans.remove(webhook);
                let (webhook_id, target_url) = (created.webhook_id(), &created.target_url);
                tracing::info!(webhook, webhook_id, "recreated the webhook and stored its secret");
                if !created.is_at(&options.target_url) {
                    tracing::warn!(
                        webhook,
                        webhook_id,
                        target_url,
                        "Attio shows another URL than configured"
                    );
                }
                self.state.known.insert(webhook.to_owned(), webhook_id.to_owned());
                self.created(plan, webhook, true);
                "ok"
            }
            Err(secret::Error::Attio(error)) if error.status() == Some(409) => {
                tracing::info!(webhook, "another process has recreated the webhook: nothing is changed");
                "conflict"
            }
            Err(error) => {
                let next = if error.may_leave_orphan() {
                    self.state.orphans.insert(webhook.to_owned());
                    self.created(plan, webhook, false);
                    "the webhook's secret may be lost; it is recreated at the next poll"
                } else {
                    "cannot recreate the webhook; retrying at the next poll"
                };
                tracing::error!(webhook, %error, "{next}");
                "failed"
            }
        };
        self.metrics.recreations.with_label_values(&[webhook, result]).inc();
    }

    fn created(&mut self, plan: &Plan, webhook: &str, is_confirmed: bool) {
        let creation = Creation { is_confirmed, unmanaged: ids(plan), is_logged: false };
        self.state.unproven.insert(webhook.to_owned(), creation);
    }

    async fn replace(&self, step: &Step, old: Option<&str>) -> Result<Webhook, secret::Error> {
        const NOWHERE: &str = "there is neither secret_file nor --secret-hook";
        let WebhookOptions { target_url, secret_file, .. } = &step.wanted.options;
        let hook = self.options.hook.as_ref();
        // The secret file must be writable before anything is changed at Attio.
        let file = match secret_file {
            Some(path) if hook.is_none() => {
                Some(SecretFile::reserve(path, true).map_err(secret::Error::Unprepared)?)
            }
            None if hook.is_none() => return Err(secret::Error::Unprepared(NOWHERE.into())),
            _ => None,
        };
        if let Some(webhook_id) = old
            && let Err(error) = self.client.delete_webhook(webhook_id).await
            && !error.is_not_found()
        {
            return Err(secret::Error::Unprepared(format!(
                "webhook {webhook_id} cannot be deleted: {error}"
            )));
        }
        let store = |created: &Created| match (file, hook) {
            (Some(file), _) => file.write(&created.secret),
            // The command may take long: this thread's other tasks move to another one.
            (None, Some(hook)) => tokio::task::block_in_place(|| hook.run(created)),
            (None, None) => Err(io::Error::other(NOWHERE)),
        };
        Ok(secret::create(&self.client, target_url, &step.wanted.subscriptions, store).await?.webhook)
    }
}

fn ids(plan: &Plan) -> BTreeSet<String> {
    plan.unmanaged.iter().map(|webhook| webhook.id.webhook_id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hook_is_killed_after_its_timeout() {
        let created: Created = serde_json::from_value(json!({
            "id": { "workspace_id": "w", "webhook_id": "h" }, "target_url": "https://a", "subscriptions": [],
            "status": "active", "created_at": "", "secret": "s",
        }))
        .unwrap();
        let timeout = Duration::from_millis(100);
        let hook = |command: &str| Hook { command: command.into(), secret_name: "n".into(), timeout };
        let error = hook("cat > /dev/null; sleep 600 | cat").run(&created).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().contains("within 100ms"), "{error}");
    }
}
