//! The difference between the configured webhooks and those that exist. A webhook is identified by its target
//! URL; those at other URLs are unmanaged and not touched.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;
use serde_json::{Value as Json, json};

use super::filter::{self, Resolver, key, keys};
use super::rotate::is_successor;
use super::types::ACTIVE;
use super::{Subscription, Webhook, WebhookOptions};
use crate::printable::{BAD, GOOD, Paint, REFUSED, line};

/// A configured webhook with its subscriptions in Attio's grammar.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    pub options: WebhookOptions,
    pub subscriptions: Vec<Subscription>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Create,
    /// Its subscriptions differ.
    Update,
    /// It is as configured.
    #[serde(rename = "none")]
    Keep,
    Ambiguous,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub wanted: Wanted,
    pub action: Action,
    /// Those that exist.
    pub webhooks: Vec<Webhook>,
    pub add: Vec<Subscription>,
    pub remove: Vec<Subscription>,
}

impl Step {
    fn new(wanted: Wanted, webhooks: Vec<Webhook>) -> Self {
        let missing_in = |from: &[Subscription], all: &[Subscription]| {
            let there = keys(all);
            from.iter().filter(|one| !there.contains(&key(one))).cloned().collect::<Vec<_>>()
        };
        let (add, remove) = match &webhooks[..] {
            [] => (wanted.subscriptions.clone(), Vec::new()),
            [one] => (
                missing_in(&wanted.subscriptions, &one.subscriptions),
                missing_in(&one.subscriptions, &wanted.subscriptions),
            ),
            _ => (Vec::new(), Vec::new()),
        };
        let action = match webhooks.len() {
            0 => Action::Create,
            1 if add.is_empty() && remove.is_empty() => Action::Keep,
            1 => Action::Update,
            _ => Action::Ambiguous,
        };
        Self { wanted, action, webhooks, add, remove }
    }

    pub fn webhook(&self) -> Option<&Webhook> {
        if let [one] = &self.webhooks[..] { Some(one) } else { None }
    }

    fn to_text(&self, slugs: &HashMap<String, String>, paint: Paint) -> String {
        let (add, change, remove) = (paint.with(GOOD, "+"), paint.with(REFUSED, "~"), paint.with(BAD, "-"));
        let ids: Vec<&str> = self.webhooks.iter().map(Webhook::webhook_id).collect();
        let ids = line(&ids.join(", "));
        let (sign, what) = match self.action {
            Action::Create => (&*add, "create".to_owned()),
            Action::Update => (&*change, format!("change webhook {ids}")),
            Action::Keep => ("=", format!("webhook {ids} is as configured")),
            Action::Ambiguous => ("!", format!("several webhooks have this URL; keep one of {ids}")),
        };
        let WebhookOptions { name, target_url, .. } = &self.wanted.options;
        let mut text = format!("{sign} {name}: {target_url}: {what}\n");
        for (sign, all) in [(&add, &self.add), (&remove, &self.remove)] {
            for one in all {
                text += &format!("    {sign} {}\n", line(&filter::describe(one, slugs)));
            }
        }
        if let Some(Webhook { status, .. }) = self.webhook()
            && status != ACTIVE
        {
            text += &format!("    ! its status is {}: find out why deliveries fail\n", line(status));
        }
        text
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// One per configured webhook, in that order.
    pub steps: Vec<Step>,
    /// Webhooks at other URLs.
    pub unmanaged: Vec<Webhook>,
}

impl Wanted {
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
            Step::new(wanted, found)
        };
        let steps = wanted.into_iter().map(&mut step).collect();
        Self { steps, unmanaged }
    }

    fn count(&self, action: Action) -> usize {
        self.steps.iter().filter(|step| step.action == action).count()
    }

    pub fn is_clean(&self) -> bool {
        self.count(Action::Keep) == self.steps.len()
    }

    /// Whether a rotation of the webhook is in progress. Just before its last step no webhook has the URL itself.
    pub fn is_rotating(&self, step: &Step) -> bool {
        let target_url = &step.wanted.options.target_url;
        self.unmanaged.iter().any(|webhook| is_successor(&webhook.target_url, target_url))
    }

    pub fn to_json(&self) -> Json {
        let step = |Step { wanted, action, webhooks, add, remove }: &Step| {
            let WebhookOptions { name, target_url, .. } = &wanted.options;
            json!({
                "name": name, "target_url": target_url, "action": action,
                "webhooks": webhooks, "add": add, "remove": remove,
            })
        };
        let steps: Vec<Json> = self.steps.iter().map(step).collect();
        json!({ "clean": self.is_clean(), "changes": steps, "unmanaged": self.unmanaged })
    }

    /// The plan for people. `slugs` are the names of ids in filters.
    pub fn to_text(&self, slugs: &HashMap<String, String>, paint: Paint) -> String {
        let mut text: String = self.steps.iter().map(|step| step.to_text(slugs, paint)).collect();
        for webhook in &self.unmanaged {
            let (url, id) = (line(&webhook.target_url), webhook.shown_id());
            text += &format!("  {url}: webhook {id} is not in the configuration, not touched\n");
        }
        let [create, change, keep] =
            [Action::Create, Action::Update, Action::Keep].map(|one| self.count(one));
        let unmanaged = self.unmanaged.len();
        text + &format!("{create} to create, {change} to change, {keep} unchanged, {unmanaged} unmanaged\n")
    }
}
