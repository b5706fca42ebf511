//! What the fake's answers look like.

use serde_json::{Value as Json, json};

use super::store::{Named, Record, Store, Subscription, Webhook};

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

/// A webhook that was just made: the one time that its secret is told.
pub fn created(store: &Store, made: &Webhook) -> Json {
    let mut json = webhook(store, made);
    json["secret"] = made.secret.clone().into();
    json
}

/// A record that was just made; what is in it is nobody's concern here.
pub fn record(store: &Store, record: &Record) -> Json {
    let Record { object_id, record_id } = record;
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

/// An attribute of an object or a list, whose kind of id is `owner_id`.
pub fn attribute(store: &Store, owner_id: &str, owner: &Named, named: &Named) -> Json {
    json!({
        "id": { "workspace_id": store.workspace_id, owner_id: owner.id, "attribute_id": named.id },
        "api_slug": named.slug,
        "title": named.slug,
    })
}

/// What the key is; one that is not known is told so with a 200.
pub fn token(store: &Store, known: bool) -> Json {
    if !known {
        return json!({ "active": false });
    }
    let scope = store.scopes.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    json!({
        "active": true,
        "scope": scope,
        "token_type": "Bearer",
        "exp": null,
        "workspace_id": store.workspace_id,
        "workspace_name": "Example",
        "workspace_slug": "example",
    })
}
