//! The bodies of queries: filter, sorts and paging.
//!
//! Known: the ids with `$eq` and `$in`, `created_at` with its comparisons, `$and`, and an order by `created_at`. The
//! rest of Attio's filters is a `filter_error`. As at Attio, members that are not known are ignored.

use axum::http::StatusCode;
use serde_json::{Map, Value as Json, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::error::ApiError;

#[derive(Debug, Default, PartialEq)]
pub(super) struct Query {
    /// Those to show; all, if there are none.
    pub ids: Option<Vec<String>>,
    created: Vec<(&'static str, OffsetDateTime)>,
    pub newest_first: bool,
    pub limit: usize,
    pub offset: usize,
}

impl Query {
    /// Reads a body. `id_member` is the filter's name of an id: `record_id` or `entry_id`.
    pub(super) fn read(body: &[u8], id_member: &str, most: usize) -> Result<Self, ApiError> {
        let body: Json =
            if body.is_empty() { json!({}) } else { serde_json::from_slice(body).unwrap_or_default() };
        let Some(members) = body.as_object() else {
            return Err(ApiError::validation(vec![
                json!({ "code": "invalid_type", "path": [], "message": "Expected object" }),
            ]));
        };
        let mut query = Self {
            limit: number(members, "limit", 500.min(most))?,
            offset: number(members, "offset", 0)?,
            ..Self::default()
        };
        if query.limit > most {
            return Err(ApiError::number("limit"));
        }
        match members.get("filter") {
            None | Some(Json::Null) => {}
            Some(Json::Object(filter)) => query.filter(filter, id_member)?,
            Some(_) => return Err(refused("filter")),
        }
        let sorts = members.get("sorts").and_then(Json::as_array).map_or(&[][..], |sorts| sorts);
        for sort in sorts {
            match (sort["attribute"].as_str(), sort["direction"].as_str()) {
                (Some("created_at"), Some(direction @ ("asc" | "desc"))) => {
                    query.newest_first = direction == "desc"
                }
                (name, _) => return Err(refused(name.unwrap_or("sorts"))),
            }
        }
        Ok(query)
    }

    fn filter(&mut self, filter: &Map<String, Json>, id_member: &str) -> Result<(), ApiError> {
        for (name, condition) in filter {
            match (&**name, condition) {
                ("$and", Json::Array(all)) => {
                    for one in all {
                        self.filter(one.as_object().ok_or_else(|| refused("$and"))?, id_member)?;
                    }
                }
                (name, Json::String(id)) if name == id_member => self.ids = Some(vec![id.clone()]),
                (name, Json::Object(condition)) if name == id_member => {
                    let ids = match (condition.get("$in"), condition.get("$eq")) {
                        (Some(Json::Array(ids)), None) => ids.clone(),
                        (None, Some(id)) => vec![id.clone()],
                        _ => return Err(refused(name)),
                    };
                    self.ids = Some(ids.iter().filter_map(Json::as_str).map(str::to_owned).collect());
                }
                ("created_at", Json::Object(conditions)) => {
                    for (operator, value) in conditions {
                        let known =
                            ["$eq", "$gt", "$gte", "$lt", "$lte"].into_iter().find(|known| known == operator);
                        let time = value.as_str().and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
                        self.created.push(known.zip(time).ok_or_else(|| refused(name))?);
                    }
                }
                (name, _) => return Err(refused(name)),
            }
        }
        Ok(())
    }

    /// Whether all rows are asked for, oldest first.
    pub(super) fn is_plain(&self) -> bool {
        self.ids.is_none() && self.created.is_empty() && !self.newest_first
    }

    pub(super) fn holds(&self, created_at: OffsetDateTime) -> bool {
        self.created.iter().all(|(operator, time)| match *operator {
            "$eq" => created_at == *time,
            "$gt" => created_at > *time,
            "$gte" => created_at >= *time,
            "$lt" => created_at < *time,
            _ => created_at <= *time,
        })
    }
}

fn number(members: &Map<String, Json>, name: &str, default: usize) -> Result<usize, ApiError> {
    let given = members.get(name).map_or(Some(default as u64), Json::as_u64);
    given.and_then(|number| number.try_into().ok()).ok_or_else(|| ApiError::number(name))
}

fn refused(name: &str) -> ApiError {
    let message = format!("Cannot filter or sort by {name:?}.");
    ApiError::new(StatusCode::BAD_REQUEST, "invalid_request_error", "filter_error", &message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: Json) -> Result<Query, String> {
        let query = Query::read(body.to_string().as_bytes(), "record_id", 500);
        query.map_err(|error| error.body["code"].as_str().unwrap_or_default().to_owned())
    }

    #[test]
    fn ids_times_and_pages_are_read() {
        let query = read(json!({ "filter": { "record_id": { "$in": ["a", "b"] } }, "limit": 2 })).unwrap();
        assert_eq!((query.ids, query.limit), (Some(vec!["a".into(), "b".into()]), 2));
        let time = "2026-01-01T00:00:00Z";
        let query =
            read(json!({ "filter": { "$and": [{ "created_at": { "$gt": time } }] }, "offset": 3 })).unwrap();
        let at = OffsetDateTime::parse(time, &Rfc3339).unwrap();
        assert!(!query.holds(at) && query.holds(at + time::Duration::SECOND) && query.offset == 3);
        assert!(
            read(json!({ "filters": { "record_id": "a" } })).unwrap().is_plain(),
            "a misspelt name is ignored"
        );
        for (body, code) in [
            (json!({ "filter": { "name": "a" } }), "filter_error"),
            (json!({ "filter": { "record_id": { "$gt": "a" } } }), "filter_error"),
            (json!({ "filter": { "created_at": { "$gt": "then" } } }), "filter_error"),
            (json!({ "sorts": [{ "attribute": "name", "direction": "asc" }] }), "filter_error"),
            (json!({ "limit": 501 }), "validation_type"),
            (json!({ "offset": -1 }), "validation_type"),
            (json!([]), "validation_type"),
        ] {
            assert_eq!(read(body.clone()).unwrap_err(), code, "{body}");
        }
    }
}
