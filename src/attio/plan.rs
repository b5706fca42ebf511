//! The difference between the configured webhooks and those that exist. A webhook is identified by its target
//! URL; those at other URLs are unmanaged and not touched.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Value as Json, json};

use super::filter::{self, Resolver, key, keys};
use super::rotate::is_successor;
use super::{Status, Subscription, Webhook, WebhookOptions};
use crate::paint::{BAD, GOOD, Paint, REFUSED};
use crate::printable::line;

/// A configured webhook with its subscriptions in Attio's grammar.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    pub options: WebhookOptions,
    pub subscriptions: Vec<Subscription>,
}

/// What to do for one configured webhook.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It does not exist.
    Create,
    /// Its subscriptions differ.
    Update { webhook: Webhook, add: Vec<Subscription>, remove: Vec<Subscription> },
    /// It is as configured.
    Keep(Webhook),
    /// Several webhooks have its URL.
    Ambiguous(Vec<Webhook>),
}

impl Change {
    /// Its name in JSON.
    pub const fn action(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update { .. } => "update",
            Self::Keep(_) => "none",
            Self::Ambiguous(_) => "ambiguous",
        }
    }

    /// The webhook that exists, if it is only one.
    pub const fn webhook(&self) -> Option<&Webhook> {
        match self {
            Self::Update { webhook, .. } | Self::Keep(webhook) => Some(webhook),
            Self::Create | Self::Ambiguous(_) => None,
        }
    }
}

/// One configured webhook and what to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub wanted: Wanted,
    pub change: Change,
}

/// The steps for all webhooks.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// One per configured webhook, in that order.
    pub steps: Vec<Step>,
    /// Webhooks at other URLs.
    pub unmanaged: Vec<Webhook>,
}

impl Wanted {
    /// Resolves the filters.
    pub async fn resolve(
        options: &WebhookOptions,
        resolver: &mut Resolver<'_>,
    ) -> Result<Self, filter::Error> {
        let (mut subscriptions, mut keys) = (Vec::new(), BTreeSet::new());
        for subscription in &options.subscriptions {
            let resolved = resolver.resolve(subscription).await?;
            if !keys.insert(key(&resolved)) {
                let reason = format!("duplicate subscription in webhook {:?}", options.name);
                return Err(filter::Error::Invalid { event_type: resolved.event_type, reason });
            }
            subscriptions.push(resolved);
        }
        Ok(Self { options: options.clone(), subscriptions })
    }
}

impl Plan {
    /// Compares, without network access. `known` are ids of configured webhooks by name: such a webhook is the
    /// configured one even if no webhook has the URL.
    pub fn between(wanted: Vec<Wanted>, existing: Vec<Webhook>, known: &BTreeMap<String, String>) -> Self {
        let mut unmanaged = existing;
        let mut step = |wanted: Wanted| {
            let WebhookOptions { name, target_url, .. } = &wanted.options;
            let mut found: Vec<Webhook> =
                unmanaged.extract_if(.., |webhook| webhook.is_at(target_url)).collect();
            if found.is_empty() {
                let id = known.get(name).map(String::as_str);
                found.extend(unmanaged.extract_if(.., |webhook| Some(webhook.webhook_id()) == id));
            }
            let change = change(&wanted, found);
            Step { wanted, change }
        };
        let steps = wanted.into_iter().map(&mut step).collect();
        Self { steps, unmanaged }
    }

    /// Whether there is nothing to do.
    pub fn is_clean(&self) -> bool {
        self.steps.iter().all(|step| matches!(step.change, Change::Keep(_)))
    }

    /// Whether a rotation of the webhook is in progress. Just before its last step no webhook has the URL itself.
    pub fn is_rotating(&self, step: &Step) -> bool {
        let target_url = &step.wanted.options.target_url;
        self.unmanaged.iter().any(|webhook| is_successor(&webhook.target_url, target_url))
    }

    /// An object with `changes` and `unmanaged`.
    pub fn to_json(&self) -> Json {
        let step = |Step { wanted, change }: &Step| {
            let (webhooks, add, remove) = match change {
                Change::Create => (vec![], wanted.subscriptions.clone(), vec![]),
                Change::Update { webhook, add, remove } => (vec![webhook], add.clone(), remove.clone()),
                Change::Keep(webhook) => (vec![webhook], vec![], vec![]),
                Change::Ambiguous(found) => (found.iter().collect(), vec![], vec![]),
            };
            json!({
                "name": wanted.options.name,
                "target_url": wanted.options.target_url,
                "action": change.action(),
                "webhooks": webhooks,
                "add": add,
                "remove": remove,
            })
        };
        let steps: Vec<Json> = self.steps.iter().map(step).collect();
        json!({ "clean": self.is_clean(), "changes": steps, "unmanaged": self.unmanaged })
    }

    /// The plan for people. `slugs` are the names of ids in filters.
    pub fn to_text(&self, slugs: &HashMap<String, String>, paint: Paint) -> String {
        let steps: String = self.steps.iter().map(|step| step_text(step, slugs, paint)).collect();
        let unmanaged = |webhook: &Webhook| {
            let (url, id) = (line(&webhook.target_url), line(webhook.webhook_id()));
            format!("  {url}: webhook {id} is not in the configuration, not touched\n")
        };
        let count = |what: fn(&Change) -> bool| self.steps.iter().filter(|step| what(&step.change)).count();
        format!(
            "{steps}{}{} to create, {} to change, {} unchanged, {} unmanaged\n",
            self.unmanaged.iter().map(unmanaged).collect::<String>(),
            count(|change| matches!(change, Change::Create)),
            count(|change| matches!(change, Change::Update { .. })),
            count(|change| matches!(change, Change::Keep(_))),
            self.unmanaged.len()
        )
    }
}

fn change(wanted: &Wanted, mut found: Vec<Webhook>) -> Change {
    if found.len() > 1 {
        return Change::Ambiguous(found);
    }
    let Some(webhook) = found.pop() else { return Change::Create };
    let missing_in = |from: &[Subscription], all: &[Subscription]| {
        let there = keys(all);
        from.iter().filter(|one| !there.contains(&key(one))).cloned().collect::<Vec<_>>()
    };
    let add = missing_in(&wanted.subscriptions, &webhook.subscriptions);
    let remove = missing_in(&webhook.subscriptions, &wanted.subscriptions);
    if add.is_empty() && remove.is_empty() {
        Change::Keep(webhook)
    } else {
        Change::Update { webhook, add, remove }
    }
}

fn step_text(Step { wanted, change }: &Step, slugs: &HashMap<String, String>, paint: Paint) -> String {
    let (add, change_sign, remove) = (paint.with(GOOD, "+"), paint.with(REFUSED, "~"), paint.with(BAD, "-"));
    let subscriptions = |sign: &str, all: &[Subscription]| {
        let text = |one: &Subscription| format!("    {sign} {}\n", line(&filter::describe(one, slugs)));
        all.iter().map(text).collect::<String>()
    };
    let WebhookOptions { name, target_url, .. } = &wanted.options;
    let mut text = match change {
        Change::Create => {
            let events = subscriptions(&add, &wanted.subscriptions);
            format!("{add} {name}: {target_url}: create\n{events}")
        }
        Change::Update { webhook, add: more, remove: less } => {
            let (more, less) = (subscriptions(&add, more), subscriptions(&remove, less));
            let id = line(webhook.webhook_id());
            format!("{change_sign} {name}: {target_url}: change webhook {id}\n{more}{less}")
        }
        Change::Keep(webhook) => {
            format!("= {name}: {target_url}: webhook {} is as configured\n", line(webhook.webhook_id()))
        }
        Change::Ambiguous(found) => {
            let ids: Vec<&str> = found.iter().map(Webhook::webhook_id).collect();
            let ids = line(&ids.join(", "));
            format!("! {name}: {target_url}: several webhooks have this URL; keep one of {ids}\n")
        }
    };
    if let Some(Webhook { status, .. }) = change.webhook()
        && *status != Status::Active
    {
        text += &format!("    ! its status is {}: find out why deliveries fail\n", line(&status.to_string()));
    }
    text
}
