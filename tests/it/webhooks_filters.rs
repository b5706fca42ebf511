//! Filters by slug, as they are sent to Attio.

use serde_json::{Value, json};

use crate::support::attio::Attio;

const URL: &str = "https://hooks.example.com/webhooks/attio";

fn create(attio: &Attio, event_type: &str, filter: &Value) -> crate::support::attio::Ran {
    attio.webhooks(&["create", "--target-url", URL, "--event", event_type, "--filter", &filter.to_string()])
}

#[test]
fn slugs_become_ids_in_attios_grammar() {
    let attio = Attio::start();
    let (deals, stage, pipeline, entry_stage) = {
        let store = attio.store();
        let deals = store.objects.iter().find(|one| one.slug == "deals").unwrap().clone();
        let stage = deals.attributes.iter().find(|one| one.slug == "stage").unwrap().id.clone();
        let pipeline = store.lists[0].clone();
        (deals.id, stage, pipeline.id, pipeline.attributes[0].id.clone())
    };
    let is = |field: &str, value: &str| json!({ "field": field, "operator": "equals", "value": value });
    let is_not =
        |field: &str, value: &str| json!({ "field": field, "operator": "not_equals", "value": value });
    let table = [
        // The guide's two examples.
        (
            "list-entry.created",
            json!({ "list": { "$eq": "sales_pipeline" } }),
            json!({ "$and": [is("id.list_id", &pipeline)] }),
        ),
        (
            "record.updated",
            json!({ "$and": [{ "object": { "$eq": "deals" } }, { "attribute": { "$eq": "stage" } }] }),
            json!({ "$and": [is("id.object_id", &deals), is("id.attribute_id", &stage)] }),
        ),
        (
            "list-entry.updated",
            json!({ "list": "sales_pipeline", "attribute": "stage" }),
            json!({ "$and": [is("id.attribute_id", &entry_stage), is("id.list_id", &pipeline)] }),
        ),
        ("note.created", json!({ "object": "deals" }), json!({ "$and": [is("parent_object_id", &deals)] })),
        (
            "record.updated",
            json!({ "object": { "$ne": "deals" } }),
            json!({ "$and": [is_not("id.object_id", &deals)] }),
        ),
        ("record.created", json!({ "object": deals }), json!({ "$and": [is("id.object_id", &deals)] })),
        (
            "record.updated",
            json!({ "$or": [is("actor.type", "system")] }),
            json!({ "$or": [is("actor.type", "system")] }),
        ),
    ];
    for (event_type, filter, expected) in table {
        create(&attio, event_type, &filter).expect(0);
        let made = attio.only();
        assert_eq!(made.subscriptions[0].filter, expected, "{filter}");
        attio.store().webhooks.clear();
    }
}

#[test]
fn invalid_filters_are_refused_before_anything_is_created() {
    let attio = Attio::start();
    let table = [
        (
            "record.updated",
            json!({ "object": "zebra" }),
            1,
            "there is no object \"zebra\"; there are: people, companies, deals",
        ),
        ("record.updated", json!({ "object": "deals", "attribute": "zebra" }), 1, "of object \"deals\""),
        ("record.updated", json!({ "attribute": "stage" }), 1, "needs exactly one object beside it"),
        ("record.created", json!({ "object": "deals", "attribute": "stage" }), 1, "has no attribute id"),
        ("task.created", json!({ "object": "deals" }), 1, "has no object id"),
        ("record.updated", json!({ "$and": [{ "$or": [] }] }), 2, "nested"),
        ("record.updated", json!({ "object": { "$in": "a" } }), 2, "$in"),
        ("record.updated", json!({ "$and": [], "$or": [] }), 2, "both $and and $or"),
    ];
    for (event_type, filter, code, reason) in table {
        create(&attio, event_type, &filter).expect(code).mentions(&[reason]);
    }
    assert_eq!(attio.asked("POST"), 0);
}
