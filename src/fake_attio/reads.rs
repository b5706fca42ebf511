//! The endpoints that read entities.

use axum::http::{StatusCode, Uri};
use serde_json::{Value as Json, json};
use time::OffsetDateTime;

use super::error::ApiError;
use super::query::Query;
use super::render;
use super::store::{Named, Store};
use super::world::{Condition, Item, Values};
use crate::catalog::Category;

/// The answer of an endpoint that reads entities, as they were at a time; none if the path is no such endpoint.
pub(super) fn answer(
    store: &Store,
    path: &[&str],
    uri: &Uri,
    body: &[u8],
    at: OffsetDateTime,
) -> Option<Result<Json, ApiError>> {
    Some(match path {
        ["objects", object, "records", "query"] => {
            let object = Named::find(&store.objects, object);
            object.and_then(|object| query(store, Category::Record, &object.id, body, at))
        }
        ["lists", list, "entries", "query"] => {
            let list = Named::find(&store.lists, list);
            list.and_then(|list| query(store, Category::ListEntry, &list.id, body, at))
        }
        ["objects", object, "records", id] => Named::find(&store.objects, object)
            .and_then(|object| one(store, Category::Record, &object.id, id, at)),
        ["lists", list, "entries", id] => {
            Named::find(&store.lists, list).and_then(|list| one(store, Category::ListEntry, &list.id, id, at))
        }
        ["notes", id] => one(store, Category::Note, "", id, at),
        ["tasks", id] => one(store, Category::Task, "", id, at),
        ["comments", id] => one(store, Category::Comment, "", id, at),
        ["notes"] => {
            let record = parameter(uri, "parent_record_id");
            page(store, Category::Note, uri, (10, 50), at, |item| {
                record.is_none_or(|id| item.parent.as_ref().is_some_and(|parent| parent.record_id == id))
            })
        }
        ["tasks"] => page(store, Category::Task, uri, (500, 500), at, |_| true),
        ["threads"] => threads(store, uri, at),
        ["threads", id] => return Some(thread(store, id, uri, at)),
        _ => return None,
    })
    .map(|answer| answer.map(|data| json!({ "data": data })))
}

/// The comments of one thread, oldest first; the cursor is an offset.
fn thread(store: &Store, id: &str, uri: &Uri, at: OffsetDateTime) -> Result<Json, ApiError> {
    let (limit, offset) = (number(uri, "limit", 250, 250)?, number(uri, "cursor", 0, usize::MAX)?);
    let all = store.world.all(Category::Comment, "", at);
    let of = |(own, item, _): &Row<'_>| *own == id || item.thread.as_deref() == Some(id);
    let comments: Vec<Json> = all.filter(of).map(|row| render::entity(store, row)).collect();
    if comments.is_empty() {
        return Err(ApiError::not_found(format!("{id:?} was not found.")));
    }
    let next = (offset + limit < comments.len()).then(|| (offset + limit).to_string());
    let created_at = comments[0]["created_at"].clone();
    let shown: Vec<Json> = comments.into_iter().skip(offset).take(limit).collect();
    let id = json!({ "workspace_id": store.workspace_id, "thread_id": id });
    Ok(json!({
        "data": { "id": id, "comments": shown, "created_at": created_at }, "pagination": { "next_cursor": next },
    }))
}

type Row<'a> = (&'a str, &'a Item, &'a Values);

fn query(
    store: &Store,
    category: Category,
    container: &str,
    body: &[u8],
    at: OffsetDateTime,
) -> Result<Json, ApiError> {
    let (id_member, most) =
        if category == Category::Record { ("record_id", 500) } else { ("entry_id", 1000) };
    let query = Query::read(body, id_member, most)?;
    let page = (query.offset, query.limit);
    let rows: Vec<Row<'_>> = if query.is_plain() {
        store.world.page(category, container, at, page)
    } else if let Some(ids) = &query.ids {
        let among = store.world.among(ids.iter().map(|id| &**id), at);
        let here = among.filter(|(_, item, _)| item.category == category && item.container == container);
        here.filter(|(_, item, _)| query.holds(item.created_at)).skip(page.0).take(page.1).collect()
    } else {
        let mut rows: Vec<Row<'_>> = store.world.all(category, container, at).collect();
        if query.newest_first {
            rows.reverse();
        }
        rows.into_iter()
            .filter(|(_, item, _)| query.holds(item.created_at))
            .skip(page.0)
            .take(page.1)
            .collect()
    };
    Ok(rows.into_iter().map(|row| render::entity(store, row)).collect())
}

fn one(
    store: &Store,
    category: Category,
    container: &str,
    id: &str,
    at: OffsetDateTime,
) -> Result<Json, ApiError> {
    let item = store.world.get(id).filter(|item| item.category == category && item.container == container);
    match item.and_then(|item| Some((item, item.at(at)?))) {
        Some((item, Condition::Live(values))) => Ok(render::entity(store, (id, item, values))),
        Some((_, Condition::Merging)) => {
            let message = format!("The merge into {id:?} is still in progress.");
            Err(ApiError::new(StatusCode::NOT_FOUND, "invalid_request_error", "merge_in_progress", &message))
        }
        Some((_, Condition::Gone)) | None => Err(ApiError::not_found(format!("{id:?} was not found."))),
    }
}

fn page(
    store: &Store,
    category: Category,
    uri: &Uri,
    (default, most): (usize, usize),
    at: OffsetDateTime,
    filter: impl Fn(&Item) -> bool,
) -> Result<Json, ApiError> {
    let (limit, offset) = (number(uri, "limit", default, most)?, number(uri, "offset", 0, usize::MAX)?);
    let all = store.world.all(category, "", at).filter(|(_, item, _)| filter(item));
    Ok(all.skip(offset).take(limit).map(|row| render::entity(store, row)).collect())
}

/// Threads of one record or one entry, each with its comments.
fn threads(store: &Store, uri: &Uri, at: OffsetDateTime) -> Result<Json, ApiError> {
    let (record, entry) = (parameter(uri, "record_id"), parameter(uri, "entry_id"));
    let container = parameter(uri, if entry.is_some() { "list" } else { "object" });
    if record.is_some() == entry.is_some() || container.is_none() {
        let error = json!({ "code": "custom", "path": ["record_id"], "message": "Expected record_id and object, or entry_id and list" });
        return Err(ApiError::validation(vec![error]));
    }
    let is_about = |item: &Item| match (record, entry) {
        (Some(record), _) => {
            item.entry.is_none() && item.parent.as_ref().is_some_and(|parent| parent.record_id == record)
        }
        (None, wanted) => item.entry.as_ref().map(|(_, entry)| &**entry) == wanted,
    };
    let mut threads: Vec<(&str, Vec<Json>)> = Vec::new();
    for row @ (id, item, _) in
        store.world.all(Category::Comment, "", at).filter(|(_, item, _)| is_about(item))
    {
        let thread = item.thread.as_deref().unwrap_or(id);
        let comment = render::entity(store, row);
        match threads.iter_mut().find(|(known, _)| *known == thread) {
            Some((_, comments)) => comments.push(comment),
            None => threads.push((thread, vec![comment])),
        }
    }
    let (limit, offset) = (number(uri, "limit", 10, 50)?, number(uri, "offset", 0, usize::MAX)?);
    let thread = |(id, mut comments): (&str, Vec<Json>)| {
        comments.truncate(80);
        let created_at = comments[0]["created_at"].clone();
        let id = json!({ "workspace_id": store.workspace_id, "thread_id": id });
        json!({ "id": id, "comments": comments, "created_at": created_at })
    };
    Ok(threads.into_iter().skip(offset).take(limit).map(thread).collect())
}

pub(super) fn parameter<'a>(uri: &'a Uri, name: &str) -> Option<&'a str> {
    let mut pairs = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(known, _)| *known == name).map(|(_, value)| value)
}

pub(super) fn number(uri: &Uri, name: &str, default: usize, most: usize) -> Result<usize, ApiError> {
    let number = parameter(uri, name).map_or(Ok(default), str::parse).ok().filter(|number| *number <= most);
    number.ok_or_else(|| ApiError::number(name))
}
