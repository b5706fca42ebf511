//! The requests: one method each.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use hyper::header::DATE;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::{Value as Json, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::answer::{self, Row, Unreadable};
use super::limiter::Limiter;
use super::{
    Answer, Container, Entity, EntityRef, Kind, Listed, ReadError, ReadResult, Single, UnreadableRow,
};
use crate::attio::request::Requests;
use crate::attio::types::Resource;
use crate::attio::{Error, Failed, Options};
use crate::catalog;
use crate::http_client::Response;

/// Room for a page of large records.
const MAX_BODY_BYTES: usize = 64 << 20;

/// The longest wait after one of many 429 in a row, unless Attio asks for more.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// How old an answer without `x-accurate-at` may be: those with it were seen to be up to 2.2 s old.
const OLDEST: Duration = Duration::from_secs(3);

/// Threads a page: the API's maximum.
const THREADS: usize = 50;

/// Comments of a thread that a page of threads shows at most, and that one request for the thread gives.
const COMMENTS: (usize, usize) = (80, 250);

type Observe = dyn Fn(Kind, ReadResult) + Send + Sync;

/// Reads entities within its own limit. Cheap to clone; the clones share the limit. A dropped read has no effect.
#[derive(Clone)]
pub struct EntityReader {
    requests: Requests,
    limiter: Arc<Limiter>,
    observe: Arc<Observe>,
}

/// An answer that tells something about the entities.
enum Reply {
    Body(Bytes),
    /// 404 in Attio's format, with its `code`.
    NotFound(String),
    /// 400 in Attio's format.
    Invalid(Failed),
}

impl EntityReader {
    /// The most ids of one [`EntityReader::many`].
    pub const MAX_IDS: usize = 100;

    /// `reads_per_second`: the most requests that begin within any one second. `observe` is told the result of each.
    pub fn new(
        options: &Options,
        reads_per_second: u32,
        observe: impl Fn(Kind, ReadResult) + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let requests = Requests::with_limit(options, MAX_BODY_BYTES)?;
        Ok(Self { requests, limiter: Arc::new(Limiter::new(reads_per_second)), observe: Arc::new(observe) })
    }

    /// The most requests that begin within any one second.
    pub(super) fn reads_per_second(&self) -> usize {
        self.limiter.per_second()
    }

    /// Reads records of one object, or entries of one list, by their ids, at most [`Self::MAX_IDS`]. One that the
    /// query does not find, or whose row cannot be read, is absent: [`EntityReader::one`] says why. What was not asked
    /// for is left out.
    pub async fn many(
        &self,
        kind: Kind,
        container: &str,
        ids: &[impl AsRef<str> + Serialize],
    ) -> Result<Answer<Vec<Entity>>, ReadError> {
        let filter = json!({ answer::id_member(kind): { "$in": ids } });
        let body = json!({ "filter": filter, "limit": ids.len() });
        let path = query_path(kind, container)?;
        self.call(kind, &Method::POST, &path, Some(&body)).await?.try_map(|reply| {
            let found = match reply {
                Reply::Body(body) => self.read(kind, &path, answer::many(kind, &body))?,
                // Without the object or the list, none of them exists.
                Reply::NotFound(_) => Vec::new(),
                // Something that was asked for is to blame, or entries cannot be asked for in this way, which is
                // documented for records only.
                Reply::Invalid(failed) => {
                    tracing::debug!("{failed}: reading one by one");
                    Vec::new()
                }
            };
            let readable = found.into_iter().filter_map(|row| row.entity.ok());
            Ok(readable.filter(|entity| ids.iter().any(|id| id.as_ref() == entity.id)).collect())
        })
    }

    /// Reads one entity.
    pub async fn one(&self, entity: &EntityRef) -> Result<Answer<Single>, ReadError> {
        let path = path(entity)?;
        self.call(entity.kind, &Method::GET, &path, None).await?.try_map(|reply| match reply {
            Reply::Body(body) => {
                let row = self.read(entity.kind, &path, answer::one(entity.kind, &body))?;
                self.read(entity.kind, &path, row.entity)
                    .map(Single::Found)
                    .map_err(|error| ReadError::OfOne(error.to_string()))
            }
            Reply::NotFound(code) if code == "merge_in_progress" => Ok(Single::MergeInProgress),
            Reply::NotFound(_) => Ok(Single::Gone),
            Reply::Invalid(failed) => Err(ReadError::OfOne(failed.to_string())),
        })
    }

    /// Reads at most `limit` entities from an offset on, in the order of their creation: records of an object, entries
    /// of a list, notes or tasks. A 404 is an error: it says nothing about them.
    pub(super) async fn rows(
        &self,
        kind: Kind,
        container: Option<&str>,
        offset: usize,
        limit: usize,
    ) -> Result<Answer<Vec<Row>>, ReadError> {
        let (method, path, body) = match container {
            Some(container) => {
                let sorts = [json!({ "attribute": "created_at", "direction": "asc" })];
                let body = json!({ "sorts": sorts, "limit": limit, "offset": offset });
                (Method::POST, query_path(kind, container)?, Some(body))
            }
            None => (Method::GET, format!("/v2/{}s?limit={limit}&offset={offset}", kind.as_str()), None),
        };
        self.call(kind, &method, &path, body.as_ref()).await?.try_map(|reply| match reply {
            Reply::Body(body) => self.read(kind, &path, answer::many(kind, &body)),
            Reply::NotFound(code) => Err(missing(&path, &code)),
            Reply::Invalid(failed) => Err(failed.into()),
        })
    }

    /// Reads the comments on a record or an entry; none if Attio answers 404, which says nothing while the key may not
    /// see its object or list.
    pub async fn comments(&self, parent: &EntityRef) -> Result<Option<Answer<Listed>>, ReadError> {
        let names =
            if parent.kind == Kind::ListEntry { ["entry_id", "list"] } else { ["record_id", "object"] };
        let container = segment(parent.container.as_deref().unwrap_or_default())?;
        let of = format!("{}={}&{}={container}", names[0], segment(&parent.id)?, names[1]);
        let now = OffsetDateTime::now_utc();
        let mut comments =
            Answer { accurate_at: now, complete_to: now, sent_at: None, value: Listed::default() };
        for page in 0.. {
            let path = format!("/v2/threads?{of}&limit={THREADS}&offset={}", page * THREADS);
            let answer = self.call(Kind::Comment, &Method::GET, &path, None).await?;
            comments.limit_to(&answer);
            let threads = match answer.value {
                Reply::Body(body) => self.read(Kind::Comment, &path, answer::threads(&body))?,
                Reply::NotFound(_) => return Ok(None),
                Reply::Invalid(failed) => return Err(ReadError::OfOne(failed.to_string())),
            };
            let count = threads.len();
            for (id, found) in threads {
                if found.len() < COMMENTS.0 {
                    found.into_iter().for_each(|row| comments.value.add(Kind::Comment, row));
                } else {
                    self.whole_thread(&id, &mut comments).await?;
                }
            }
            if count < THREADS {
                break;
            }
        }
        Ok(Some(comments))
    }

    /// The id of the workspace that the key belongs to.
    pub async fn workspace(&self) -> Result<String, ReadError> {
        let (kind, path) = (Kind::Record, "/v2/self");
        match self.call(kind, &Method::GET, path, None).await?.value {
            Reply::Body(body) => self.read(kind, path, answer::workspace(&body))?.ok_or_else(|| {
                let reason =
                    format!("GET {path}: not active: Attio does not know this key: check ATTIO_API_KEY");
                ReadError::Denied { scopes: scopes(kind), reason }
            }),
            Reply::NotFound(code) => {
                Err(ReadError::Retryable(format!("GET {path}: Attio answered 404 {code}")))
            }
            Reply::Invalid(failed) => Err(failed.into()),
        }
    }

    /// Reads all comments of a long thread.
    async fn whole_thread(&self, id: &str, comments: &mut Answer<Listed>) -> Result<(), ReadError> {
        let mut cursor = String::new();
        loop {
            let path = format!("/v2/threads/{}?limit={}{cursor}", segment(id)?, COMMENTS.1);
            let answer = self.call(Kind::Comment, &Method::GET, &path, None).await?;
            comments.limit_to(&answer);
            let (found, next) = match answer.value {
                Reply::Body(body) => self.read(Kind::Comment, &path, answer::thread(&body))?,
                Reply::NotFound(code) => return Err(missing(&path, &code)),
                Reply::Invalid(failed) => return Err(failed.into()),
            };
            found.into_iter().for_each(|row| comments.value.add(Kind::Comment, row));
            let Some(next) = next else { return Ok(()) };
            cursor = format!("&cursor={}", utf8_percent_encode(&next, NON_ALPHANUMERIC));
        }
    }

    /// The objects, or the lists, that the key may see.
    pub async fn containers(&self, owner: Resource) -> Result<Answer<Vec<Container>>, ReadError> {
        let kind = if owner == Resource::List { Kind::ListEntry } else { Kind::Record };
        let path = format!("/v2/{}s", owner.name());
        self.call(kind, &Method::GET, &path, None).await?.try_map(|reply| match reply {
            Reply::Body(body) => self.read(kind, &path, answer::containers(owner, &body)),
            Reply::NotFound(code) => {
                Err(ReadError::Retryable(format!("GET {path}: Attio answered 404 {code}")))
            }
            Reply::Invalid(failed) => Err(failed.into()),
        })
    }

    /// Makes one request; again, as long as Attio answers 429.
    async fn call(
        &self,
        kind: Kind,
        method: &Method,
        path: &str,
        body: Option<&Json>,
    ) -> Result<Answer<Reply>, ReadError> {
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let mut limited = 0;
        loop {
            let request = self.limiter.turn().await;
            let begun = OffsetDateTime::now_utc();
            let response = self.requests.exactly(method, path, body.clone()).await.map_err(|error| {
                (self.observe)(kind, ReadResult::Failed);
                self.requests.silence(method, path, error)
            })?;
            request.answered();
            let (stated, sent_at) = (accurate_at(&response), sent_at(&response));
            let (accurate_at, complete_to) = (stated.unwrap_or(begun), stated.unwrap_or(begun - OLDEST));
            let status = response.status;
            if (200..300).contains(&status) {
                (self.observe)(kind, ReadResult::Ok);
                let value = Reply::Body(response.body);
                return Ok(Answer { accurate_at, complete_to, sent_at, value });
            }
            let (failed, retry_after) = self.requests.refusal(method, path, response);
            let (result, answer) = match (status, failed.code.is_empty()) {
                (429, _) => {
                    (self.observe)(kind, ReadResult::RateLimited);
                    let wait = wait(limited, retry_after);
                    tracing::info!("{failed}: no reads for {:.1} s", wait.as_secs_f64());
                    self.limiter.pause(wait);
                    limited += 1;
                    continue;
                }
                (401 | 403, _) => {
                    let scopes = scopes(kind);
                    let reason = format!("{failed}; a {} is read with the scopes {scopes}", kind.as_str());
                    (ReadResult::Denied, Err(ReadError::Denied { scopes, reason }))
                }
                (404, false) => (ReadResult::Gone, Ok(Reply::NotFound(failed.code))),
                (400, false) => (ReadResult::Failed, Ok(Reply::Invalid(failed))),
                _ => (ReadResult::Failed, Err(failed.into())),
            };
            (self.observe)(kind, result);
            return answer.map(|value| Answer { accurate_at, complete_to, sent_at, value });
        }
    }

    fn read<T>(&self, kind: Kind, path: &str, answer: Result<T, Unreadable>) -> Result<T, ReadError> {
        answer.map_err(|Unreadable(at)| {
            (self.observe)(kind, ReadResult::Failed);
            ReadError::Retryable(format!("{path}: the answer is not as documented ({at})"))
        })
    }
}

impl Listed {
    /// Adds a row, or names it in the log.
    pub(super) fn add(&mut self, kind: Kind, row: Row) {
        match row.entity {
            Ok(entity) => self.entities.push(entity),
            Err(Unreadable(at)) => {
                tracing::error!(
                    kind = kind.as_str(),
                    id = row.id,
                    "cannot be read: it is not as documented ({at})"
                );
                self.unreadable.push(UnreadableRow { id: row.id, has_id: row.has_id });
            }
        }
    }
}

impl From<Failed> for ReadError {
    fn from(failed: Failed) -> Self {
        Self::Retryable(failed.to_string())
    }
}

fn missing(path: &str, code: &str) -> ReadError {
    ReadError::Missing(format!("{path}: Attio answered 404 {code}"))
}

/// How long nothing is read after that many 429 in a row: as Attio asks, and longer each time, as the score limit is
/// shared with every other app of the workspace.
fn wait(limited: u32, asked: Option<Duration>) -> Duration {
    let longer = Duration::from_millis(250) * 2_u32.pow(limited.min(7));
    let jitter = Duration::from_millis(fastrand::u64(0..250));
    asked.unwrap_or_default().max(longer.min(MAX_WAIT)) + jitter
}

fn accurate_at(response: &Response) -> Option<OffsetDateTime> {
    let text = response.headers.get("x-accurate-at")?.to_str().ok()?;
    OffsetDateTime::parse(text, &Rfc3339).ok()?.checked_to_offset(time::UtcOffset::UTC)
}

fn sent_at(response: &Response) -> Option<OffsetDateTime> {
    let text = response.headers.get(DATE)?.to_str().ok()?;
    httpdate::parse_http_date(text).ok().map(OffsetDateTime::from)
}

/// Source: Attio's reference, at each endpoint.
fn scopes(kind: Kind) -> &'static str {
    match kind {
        Kind::Record => "record_permission:read object_configuration:read",
        Kind::ListEntry => "list_entry:read list_configuration:read",
        Kind::Note => "note:read object_configuration:read record_permission:read",
        Kind::Task => "task:read object_configuration:read record_permission:read user_management:read",
        Kind::Comment => {
            "comment:read object_configuration:read record_permission:read list_configuration:read list_entry:read"
        }
    }
}

fn query_path(kind: Kind, container: &str) -> Result<String, ReadError> {
    let container = segment(container)?;
    Ok(match kind {
        Kind::ListEntry => format!("/v2/lists/{container}/entries/query"),
        _ => format!("/v2/objects/{container}/records/query"),
    })
}

fn path(EntityRef { kind, container, id, .. }: &EntityRef) -> Result<String, ReadError> {
    let id = segment(id)?;
    let container = || segment(container.as_deref().unwrap_or_default());
    Ok(match kind {
        Kind::Record => format!("/v2/objects/{}/records/{id}", container()?),
        Kind::ListEntry => format!("/v2/lists/{}/entries/{id}", container()?),
        Kind::Note | Kind::Task | Kind::Comment => format!("/v2/{}s/{id}", kind.as_str()),
    })
}

/// An id or slug as a segment of a path.
fn segment(id: &str) -> Result<&str, ReadError> {
    let good = catalog::is_id(id) && id.bytes().any(|byte| byte != b'.');
    if good { Ok(id) } else { Err(ReadError::Retryable(format!("{id:?} is not an id"))) }
}
