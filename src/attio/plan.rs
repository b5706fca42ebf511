//! The difference between the configured webhooks and those that exist. A webhook is identified by its target
//! URL; those at other URLs are unmanaged and not touched.

use std::collections::BTreeSet;
use std::fmt::{self, Write};

use serde_json::{Value as Json, json};

use super::filter::{self, Canonical, Resolver};
use super::{Status, Subscription, Webhook, WebhookOptions};

/// A configured webhook with resolved filters.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Its configuration.
    pub options: WebhookOptions,
    /// Its subscriptions, in Attio's grammar.
    pub subscriptions: Vec<Subscription>,
}

/// What to do for one configured webhook.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It does not exist.
    Create,
    /// Its subscriptions differ.
    Update {
        /// The existing webhook.
        webhook: Webhook,
        /// Missing subscriptions.
        add: Vec<Subscription>,
        /// Superfluous subscriptions.
        remove: Vec<Subscription>,
    },
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
}

/// One configured webhook and what to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The configured webhook.
    pub wanted: Wanted,
    /// What to do.
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
    /// Compares, without network access.
    pub fn between(wanted: Vec<Wanted>, existing: Vec<Webhook>) -> Self {
        let is_wanted =
            |webhook: &Webhook| wanted.iter().any(|wanted| wanted.options.target_url == webhook.target_url);
        let (managed, unmanaged): (Vec<_>, Vec<_>) = existing.into_iter().partition(is_wanted);
        let step = |wanted: Wanted| {
            let at = |webhook: &&Webhook| webhook.target_url == wanted.options.target_url;
            let found: Vec<Webhook> = managed.iter().filter(at).cloned().collect();
            let change = change(&wanted, found);
            Step { wanted, change }
        };
        Self { steps: wanted.into_iter().map(step).collect(), unmanaged }
    }

    /// Whether there is nothing to do.
    pub fn is_clean(&self) -> bool {
        self.steps.iter().all(|step| matches!(step.change, Change::Keep(_)))
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

    fn count(&self, what: impl Fn(&Change) -> bool) -> usize {
        self.steps.iter().filter(|step| what(&step.change)).count()
    }
}

fn change(wanted: &Wanted, mut found: Vec<Webhook>) -> Change {
    if found.len() > 1 {
        return Change::Ambiguous(found);
    }
    let Some(webhook) = found.pop() else { return Change::Create };
    let missing_in = |from: &[Subscription], all: &[Subscription]| {
        let there: BTreeSet<_> = all.iter().map(key).collect();
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

/// What must be unique among the subscriptions of one URL.
pub(super) fn key(subscription: &Subscription) -> (String, Canonical) {
    (subscription.event_type.clone(), Canonical::of(subscription.filter.as_ref()))
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            write!(f, "{}", describe(step)?)?;
        }
        for webhook in &self.unmanaged {
            let Webhook { id, target_url, .. } = webhook;
            writeln!(f, "- {target_url} (webhook {}): not in the configuration, not touched", id.webhook_id)?;
        }
        let create = self.count(|change| matches!(change, Change::Create));
        let update = self.count(|change| matches!(change, Change::Update { .. }));
        let keep = self.count(|change| matches!(change, Change::Keep(_)));
        let unmanaged = self.unmanaged.len();
        writeln!(f, "{create} to create, {update} to change, {keep} unchanged, {unmanaged} unmanaged")
    }
}

fn describe(Step { wanted, change }: &Step) -> Result<String, fmt::Error> {
    let WebhookOptions { name, target_url, .. } = &wanted.options;
    let mut text = String::new();
    match change {
        Change::Create => {
            writeln!(text, "+ {name}: {target_url}: create")?;
            lines(&mut text, '+', &wanted.subscriptions)?;
        }
        Change::Update { webhook, add, remove } => {
            writeln!(text, "~ {name}: {target_url}: change webhook {}", webhook.id.webhook_id)?;
            lines(&mut text, '+', add)?;
            lines(&mut text, '-', remove)?;
        }
        Change::Keep(webhook) => {
            writeln!(text, "= {name}: {target_url}: webhook {} is as configured", webhook.id.webhook_id)?;
        }
        Change::Ambiguous(found) => {
            let ids: Vec<&str> = found.iter().map(|webhook| webhook.id.webhook_id.as_str()).collect();
            let ids = ids.join(", ");
            writeln!(text, "! {name}: {target_url}: several webhooks have this URL; keep one of {ids}")?;
        }
    }
    if let Change::Update { webhook, .. } | Change::Keep(webhook) = change
        && webhook.status != Status::Active
    {
        writeln!(text, "    ! its status is {}: find out why deliveries fail", webhook.status)?;
    }
    Ok(text)
}

fn lines(text: &mut String, sign: char, subscriptions: &[Subscription]) -> fmt::Result {
    for Subscription { event_type, filter } in subscriptions {
        match filter {
            Some(filter) => writeln!(text, "    {sign} {event_type} {filter}")?,
            None => writeln!(text, "    {sign} {event_type}")?,
        }
    }
    Ok(())
}
