//! `webhooks plan`, `apply` and `import`: the configuration and what exists at Attio.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, IsTerminal};

use clap::Args;
use serde_json::{Value as Json, json};

use super::manage::finish;
use super::{Exit, Failure, SecretOutput, Session, confirm, create_webhook, last_segment, print, say};
use crate::attio::filter::{Resolver, keys};
use crate::attio::plan::{Action, Plan, Step, Wanted};
use crate::attio::types::normalized;
use crate::attio::{Subscription, Webhook, WebhookOptions};
use crate::cli::output::{no_color, say_styled};
use crate::printable::{Paint, is_invisible, line};

#[derive(Args)]
#[command(after_help = "\
Example: has anybody changed the webhooks by hand?
  attio-bridge webhooks plan --check --config bridge.toml \\
    || echo \"exit $?: 3 means yes\"")]
pub struct PlanArguments {
    /// Exit 3 if anything differs from the configuration
    #[arg(long)]
    check: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[command(after_help = "\
Example: in a pipeline, without a terminal
  attio-bridge webhooks apply --yes --config bridge.toml")]
pub struct ApplyArguments {
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Overwrite an existing secret_file of a webhook that is created
    #[arg(long)]
    overwrite_secret: bool,
    /// Print the secrets of webhooks without secret_file even if standard output is not a terminal
    #[arg(long)]
    show_secrets: bool,
    /// Print what was done as a JSON object without secrets; the plan goes to stderr
    #[arg(long, conflicts_with = "show_secrets")]
    json: bool,
}

/// A plan, and the slugs of the ids in its filters.
struct Made {
    plan: Plan,
    slugs: HashMap<String, String>,
}

impl Made {
    fn text(&self, terminal: bool) -> String {
        self.plan.to_text(&self.slugs, Paint(terminal && !no_color()))
    }
}

pub async fn plan(session: &Session, arguments: &PlanArguments) -> Result<Exit, Failure> {
    let made = make(session).await?;
    match arguments.json {
        true => print(format_args!("{:#}\n", made.plan.to_json())),
        false => print(made.text(io::stdout().is_terminal())),
    }
    Ok(if arguments.check && !made.plan.is_clean() { Exit::Unexpected } else { Exit::Done })
}

async fn make(session: &Session) -> Result<Made, Failure> {
    if session.config.webhooks.is_empty() {
        say("warning: the configuration has no [[webhooks]], so there is nothing to compare; \
             `attio-bridge webhooks import` prints the existing ones as such tables");
    }
    let mut resolver = Resolver::new(&session.client);
    let mut wanted = Vec::new();
    for options in &session.config.webhooks {
        wanted.push(Wanted::resolve(options, &mut resolver).await?);
    }
    let plan = Plan::between(wanted, session.client.webhooks().await?, &BTreeMap::new());
    for step in &plan.steps {
        let WebhookOptions { name, source, secret_file: Some(path), .. } = &step.wanted.options else {
            continue;
        };
        let file = path.display();
        if let Some(webhook) = step.webhook()
            && !path.exists()
        {
            say(format_args!(
                "warning: {name}: webhook {} exists, but its secret_file {file} does not: if its secret is lost, \
                 delete the webhook and apply",
                webhook.webhook_id(),
            ));
        }
        if !session.config.is_secret_of(source, path) {
            say(format_args!(
                "warning: {name}: its secret_file {file} is no secret of source {source}, so the bridge would answer \
                 401 to every delivery: add {{ label = \"{name}\", file = \"{file}\" }} to sources.{source}.secrets"
            ));
        }
    }
    Ok(Made { plan, slugs: resolver.slugs() })
}

pub async fn apply(session: &Session, arguments: &ApplyArguments) -> Result<Exit, Failure> {
    let made = make(session).await?;
    match arguments.json {
        true => say_styled(made.text(io::stderr().is_terminal()).trim_end()),
        false => print(made.text(io::stdout().is_terminal())),
    }
    let plan = made.plan;
    if plan.steps.iter().any(|step| step.action == Action::Ambiguous) {
        return Err("several webhooks share a target_url, see ! above; nothing was changed".into());
    }
    let is_rotating = |step: &&Step| step.action == Action::Create && plan.is_rotating(step);
    if let Some(Step { wanted, .. }) = plan.steps.iter().find(is_rotating) {
        let name = &wanted.options.name;
        return Err(format!(
            "{name} is being rotated: continue with `webhooks rotate {name}`; nothing was changed"
        )
        .into());
    }
    // Every output is checked before the first webhook is created.
    let mut steps = Vec::new();
    for step in &plan.steps {
        steps.push((step, output(step, arguments)?));
    }
    let (mut done, mut result) = (Vec::new(), Ok(()));
    if !plan.is_clean() {
        if !confirm("Apply these changes?", arguments.yes)? {
            return Ok(Exit::Failed);
        }
        result = perform_all(session, steps, arguments.json, &mut done).await;
    }
    finish(arguments.json, to_json(&plan, &done), result)
}

/// Where the secret goes, if the step creates a webhook.
fn output(step: &Step, arguments: &ApplyArguments) -> Result<Option<SecretOutput>, Failure> {
    let options = &step.wanted.options;
    let may_print = arguments.show_secrets || (!arguments.json && io::stdout().is_terminal());
    match (step.action, &options.secret_file) {
        (Action::Create, Some(path)) => SecretOutput::file(path, arguments.overwrite_secret).map(Some),
        (Action::Create, None) if may_print => {
            Ok(Some(SecretOutput::Text(format!("secret of {}: ", options.name))))
        }
        (Action::Create, None) => Err(Failure::usage(format_args!(
            "webhook {:?} has no secret_file, and standard output is not a terminal: set secret_file, or use \
             --show-secrets (without --json)",
            options.name
        ))),
        _ => Ok(None),
    }
}

async fn perform_all(
    session: &Session,
    steps: Vec<(&Step, Option<SecretOutput>)>,
    json: bool,
    done: &mut Vec<String>,
) -> Result<(), Failure> {
    let interrupted = session.delay_interrupt()?;
    for (step, output) in steps {
        if interrupted.is_cancelled() {
            return Err("interrupted; run `webhooks apply` again to continue".into());
        }
        done.push(perform(session, step, output, json).await?);
    }
    Ok(())
}

async fn perform(
    session: &Session,
    step: &Step,
    output: Option<SecretOutput>,
    json: bool,
) -> Result<String, Failure> {
    let (options, subscriptions) = (&step.wanted.options, &step.wanted.subscriptions);
    let (client, name) = (&session.client, &options.name);
    match (step.action, step.webhook(), output) {
        (Action::Create, _, Some(output)) => {
            let url = &options.target_url;
            let created = create_webhook(client, url, subscriptions, output, json).await?;
            let shown = created.webhook.shown_id();
            let output = options.secret_file.as_ref().map(|path| format!("in {}", path.display()));
            let output = output.unwrap_or_else(|| "on standard output".into());
            say(format_args!("{name}: created webhook {shown}, its secret is {output}"));
            Ok(created.webhook.id.webhook_id)
        }
        (Action::Update, Some(webhook), _) => {
            let id = webhook.webhook_id();
            // The list replaces what is there: nothing that the plan did not show may be lost.
            if keys(&client.webhook(id).await?.subscriptions) != keys(&webhook.subscriptions) {
                return Err(format!(
                    "{name}: somebody else has just changed webhook {id}: run `webhooks plan` again"
                )
                .into());
            }
            client.update_webhook(id, None, Some(subscriptions)).await?;
            say(format_args!("{name}: changed webhook {id}"));
            Ok(id.to_owned())
        }
        (Action::Keep, Some(webhook), _) => Ok(webhook.webhook_id().to_owned()),
        _ => Err(format!("{name}: this step cannot be performed").into()),
    }
}

/// Each step and whether it is done; one without a change is done from the start.
fn to_json(plan: &Plan, done: &[String]) -> Json {
    let change = |(at, step): (usize, &Step)| {
        let WebhookOptions { name, target_url, secret_file, .. } = &step.wanted.options;
        json!({
            "name": name, "target_url": target_url, "action": step.action, "secret_file": secret_file,
            "done": step.action == Action::Keep || at < done.len(),
            "webhook_id": step.webhook().map(Webhook::webhook_id).or(done.get(at).map(String::as_str)),
        })
    };
    json!({ "changes": plan.steps.iter().enumerate().map(change).collect::<Vec<_>>() })
}

#[derive(Args)]
#[command(after_help = "\
Example: manage existing webhooks by the configuration
  attio-bridge webhooks import --config bridge.toml >> bridge.toml")]
pub struct ImportArguments {
    /// The source of webhooks whose URL does not end in /webhooks/SOURCE of a configured source
    /// [default: the first configured source, else attio]
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
}

pub async fn import(session: &Session, arguments: &ImportArguments) -> Result<Exit, Failure> {
    let config = &session.config;
    let first = config.sources.first().map_or("attio", String::as_str);
    let fallback = arguments.source.as_deref().unwrap_or(first);
    let mut names: BTreeSet<String> = config.webhooks.iter().map(|webhook| webhook.name.clone()).collect();
    let mut urls: BTreeSet<String> =
        config.webhooks.iter().map(|webhook| normalized(&webhook.target_url)).collect();
    let existing = session.client.webhooks().await?;
    for webhook in &existing {
        let Webhook { id, target_url, .. } = webhook;
        if !urls.insert(normalized(target_url)) {
            let (id, known) = (line(&id.webhook_id), quoted(target_url));
            print(format_args!("# Webhook {id}: target_url {known} is configured already.\n\n"));
            continue;
        }
        // The source in the URL, if it is configured.
        let end = last_segment(target_url);
        let source = config.sources.iter().find(|source| *source == end).map_or(fallback, String::as_str);
        let name = name(source, &mut names);
        print(toml(webhook, &name, source));
    }
    Ok(Exit::Done)
}

fn name(source: &str, names: &mut BTreeSet<String>) -> String {
    let mut name = source.to_owned();
    for number in 2.. {
        if names.insert(name.clone()) {
            break;
        }
        name = format!("{source}-{number}");
    }
    name
}

fn toml(webhook: &Webhook, name: &str, source: &str) -> String {
    let Webhook { id, target_url, subscriptions, status, .. } = webhook;
    let subscription = |Subscription { event_type, filter }: &Subscription| {
        let event_type = quoted(event_type);
        match filter {
            Some(filter) => format!("    {{ event_type = {event_type}, filter = {} }},\n", inline(filter)),
            None => format!("    {{ event_type = {event_type} }},\n"),
        }
    };
    format!(
        "# Webhook {}, {}.\n[[webhooks]]\nname = {}\nsource = {}\ntarget_url = {}\nsubscriptions = [\n{}]\n\n",
        line(&id.webhook_id),
        line(status),
        quoted(name),
        quoted(source),
        quoted(target_url),
        subscriptions.iter().map(subscription).collect::<String>()
    )
}

/// JSON as a TOML value.
fn inline(json: &Json) -> String {
    match json {
        Json::Object(members) => {
            let members = members.iter().filter(|(_, value)| !value.is_null());
            let members: Vec<String> =
                members.map(|(name, value)| format!("{} = {}", quoted(name), inline(value))).collect();
            format!("{{ {} }}", members.join(", "))
        }
        Json::Array(items) => {
            let items: Vec<String> = items.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        Json::String(text) => quoted(text),
        other => other.to_string(),
    }
}

/// A basic string of TOML. What is unsafe to print is escaped.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() || is_invisible(c) => out += &format!("\\U{:08X}", u32::from(c)),
            c => out.push(c),
        }
    }
    out + "\""
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn generated_names_are_unique() {
        let mut names = BTreeSet::new();
        assert_eq!(
            ["attio", "attio", "attio"].map(|source| name(source, &mut names)),
            ["attio", "attio-2", "attio-3"]
        );
    }

    #[test]
    fn inline_tables_are_valid_toml() {
        let filter = json!({ "$and": [{ "a\"\n]\u{7f}": "c\\d\r\u{202e}\u{e0041}", "b": [1, true] }] });
        let text = format!("filter = {}", inline(&filter));
        let read: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(json!(read)["filter"], filter);
    }
}
