//! The JSON that the API answers.

use serde_json::{Value as Json, json};

use super::store::{Named, Record, Store};
use super::webhook::{Subscription, Webhook};

/// A webhook, without its secret.
pub fn webhook(store: &Store, webhook: &Webhook) -> Json {
    let one = |Subscription { event_type, filter }: &Subscription| json!({ "event_type": event_type, "filter": filter });
    json!({
        "id": { "workspace_id": store.workspace_id, "webhook_id": webhook.webhook_id },
        "target_url": webhook.target_url,
        "subscriptions": webhook.subscriptions.iter().map(one).collect::<Vec<_>>(),
        "status": webhook.status.as_str(),
        "created_at": webhook.created_at,
    })
}

/// A new webhook: the only answer that contains its secret.
pub fn created(store: &Store, created: &Webhook) -> Json {
    let mut json = webhook(store, created);
    json["secret"] = created.secret.clone().into();
    json
}

/// A new record, without values.
pub fn record(store: &Store, Record { object_id, record_id }: &Record) -> Json {
    json!({ "id": { "workspace_id": store.workspace_id, "object_id": object_id, "record_id": record_id }, "values": {} })
}

/// An object.
pub fn object(store: &Store, named: &Named) -> Json {
    json!({
        "id": { "workspace_id": store.workspace_id, "object_id": named.id },
        "api_slug": named.slug,
        "singular_noun": named.slug,
        "plural_noun": named.slug,
    })
}

/// A list.
pub fn list(store: &Store, named: &Named) -> Json {
    json!({
        "id": { "workspace_id": store.workspace_id, "list_id": named.id },
        "api_slug": named.slug,
        "name": named.slug,
    })
}

/// An attribute of an object or a list; `owner_id` is `object_id` or `list_id`.
pub fn attribute(store: &Store, owner_id: &str, owner: &Named, named: &Named) -> Json {
    json!({
        "id": { "workspace_id": store.workspace_id, owner_id: owner.id, "attribute_id": named.id },
        "api_slug": named.slug,
        "title": named.slug,
    })
}

/// What `/v2/self` answers, with 200 even to an unknown key.
pub fn token(store: &Store, known: bool) -> Json {
    if !known {
        return json!({ "active": false });
    }
    let scopes: Vec<&str> = store.scopes.iter().map(String::as_str).collect();
    json!({
        "active": true,
        "scope": scopes.join(" "),
        "token_type": "Bearer",
        "exp": null,
        "workspace_id": store.workspace_id,
        "workspace_name": "Example",
        "workspace_slug": "example",
    })
}
