//! The endpoints in use, one method each.

use bytes::Bytes;
use hyper::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use super::error::Refusal;
use super::named::{Named, Owner, Token};
use super::retry::{self, OVERALL, TRIES};
use super::transport::{Answer, Lost, Transport};
use super::{Created, Error, Options, Subscription, Webhook};
use crate::catalog;

/// The most that a page of webhooks holds; Attio's default is 10.
const PAGE: usize = 100;

/// The most that a page of attributes holds.
const ATTRIBUTES: usize = 500;

/// Speaks to Attio. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Transport,
}

/// Everything that Attio answers with is inside this.
#[derive(Deserialize)]
struct Data<T> {
    data: T,
}

impl Client {
    /// Makes a client; nothing is sent.
    pub fn new(options: &Options) -> Result<Self, Error> {
        Ok(Self { transport: Transport::new(options)? })
    }

    /// What the key is. One that Attio does not know is not an error here: it is not `active`.
    pub async fn token(&self) -> Result<Token, Error> {
        let answer = self.call(&Method::GET, "/v2/self", None).await?;
        read("GET /v2/self", answer)
    }

    /// All webhooks, however many pages they take.
    pub async fn webhooks(&self) -> Result<Vec<Webhook>, Error> {
        let mut all: Vec<Webhook> = Vec::new();
        let mut offset = 0;
        loop {
            let page: Vec<Webhook> = self.get(&format!("/v2/webhooks?limit={PAGE}&offset={offset}")).await?;
            let (read, before) = (page.len(), all.len());
            // One that is deleted while pages are read moves the others: none may be there twice.
            for webhook in page {
                if !all.iter().any(|known| known.id == webhook.id) {
                    all.push(webhook);
                }
            }
            // A page that only repeats what was read ends it as well: there may be no pages at all.
            if read < PAGE || all.len() == before {
                return Ok(all);
            }
            offset += read;
        }
    }

    /// One webhook.
    pub async fn webhook(&self, webhook_id: &str) -> Result<Webhook, Error> {
        self.get(&path(webhook_id)?).await
    }

    /// Makes a webhook. The secret in the answer is told this one time: see [`super::create::kept`].
    pub async fn create_webhook(&self, url: &str, subscriptions: &[Subscription]) -> Result<Created, Error> {
        let body = json!({ "data": { "target_url": url, "subscriptions": subscriptions } });
        let answer = self.call(&Method::POST, "/v2/webhooks", Some(&body)).await?;
        read("POST /v2/webhooks", answer).map(|Data { data }| data)
    }

    /// Changes a webhook; what is absent stays. The list of subscriptions is replaced as a whole; id and
    /// secret stay.
    pub async fn update_webhook(
        &self,
        webhook_id: &str,
        url: Option<&str>,
        subscriptions: Option<&[Subscription]>,
    ) -> Result<Webhook, Error> {
        let mut data = json!({});
        if let Some(url) = url {
            data["target_url"] = url.into();
        }
        if let Some(subscriptions) = subscriptions {
            data["subscriptions"] = json!(subscriptions);
        }
        let path = path(webhook_id)?;
        let answer = self.call(&Method::PATCH, &path, Some(&json!({ "data": data }))).await?;
        read(&format!("PATCH {path}"), answer).map(|Data { data }| data)
    }

    /// Deletes a webhook.
    pub async fn delete_webhook(&self, webhook_id: &str) -> Result<(), Error> {
        self.call(&Method::DELETE, &path(webhook_id)?, None).await.map(drop)
    }

    /// Makes a record of an object, which is named by its id or its slug; then its id.
    pub async fn create_record(&self, object: &str, values: &Json) -> Result<String, Error> {
        /// What is read of it.
        #[derive(Deserialize)]
        struct Record {
            id: Id,
        }
        #[derive(Deserialize)]
        struct Id {
            record_id: String,
        }
        let path = format!("/v2/objects/{}/records", checked(object)?);
        let body = json!({ "data": { "values": values } });
        let answer = self.call(&Method::POST, &path, Some(&body)).await?;
        read(&format!("POST {path}"), answer).map(|Data { data: Record { id } }| id.record_id)
    }

    /// Deletes a record.
    pub async fn delete_record(&self, object: &str, record_id: &str) -> Result<(), Error> {
        let path = format!("/v2/objects/{}/records/{}", checked(object)?, checked(record_id)?);
        self.call(&Method::DELETE, &path, None).await.map(drop)
    }

    /// All objects.
    pub async fn objects(&self) -> Result<Vec<Named>, Error> {
        let all: Vec<Json> = self.get("/v2/objects").await?;
        Ok(all.iter().filter_map(|item| named(item, "object_id")).collect())
    }

    /// All lists that the key may see.
    pub async fn lists(&self) -> Result<Vec<Named>, Error> {
        let all: Vec<Json> = self.get("/v2/lists").await?;
        Ok(all.iter().filter_map(|item| named(item, "list_id")).collect())
    }

    /// All attributes of an object or a list, which is named by its id or its slug.
    pub async fn attributes(&self, owner: Owner, name: &str) -> Result<Vec<Named>, Error> {
        let (mut all, owner) = (Vec::<Json>::new(), owner.path());
        let name = checked(name)?;
        loop {
            let offset = all.len();
            let path = format!("/v2/{owner}/{name}/attributes?limit={ATTRIBUTES}&offset={offset}");
            let page: Vec<Json> = self.get(&path).await?;
            let over = page.len() < ATTRIBUTES || page.first().is_some_and(|one| all.contains(one));
            all.extend(page);
            if over {
                return Ok(all.iter().filter_map(|item| named(item, "attribute_id")).collect());
            }
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let answer = self.call(&Method::GET, path, None).await?;
        read(&format!("GET {path}"), answer).map(|Data { data }| data)
    }

    /// One request with all its tries.
    async fn call(&self, method: &Method, path: &str, body: Option<&Json>) -> Result<Bytes, Error> {
        let request = format!("{method} {path}");
        let body = body.map(|body| Bytes::from(body.to_string()));
        let deadline = Instant::now() + OVERALL;
        let (mut maybe_done, mut tries) = (false, 0);
        loop {
            tries += 1;
            let (error, again, asked) = match self.transport.send(method, path, body.clone()).await {
                Ok(answer) if (200..300).contains(&answer.status) => return Ok(answer.body),
                // Gone is what was asked for, and an earlier try may have done it.
                Ok(answer) if answer.status == 404 && method == Method::DELETE && maybe_done => {
                    return Ok(Bytes::new());
                }
                Ok(answer) => {
                    maybe_done |= is_unknown(answer.status);
                    let (again, asked) = (retry::after_answer(method, answer.status), answer.retry_after);
                    (refused(method, &request, answer, tries), again, asked)
                }
                Err(lost) => {
                    let again = match &lost {
                        Lost::Untrusted(_) => false,
                        Lost::NotSent(_) => retry::after_loss(method, true),
                        Lost::Maybe(_) => retry::after_loss(method, false),
                    };
                    let seen = matches!(lost, Lost::Maybe(_));
                    maybe_done |= seen;
                    let (Lost::Untrusted(why) | Lost::NotSent(why) | Lost::Maybe(why)) = lost;
                    let error = Error::NoAnswer {
                        request: request.clone(),
                        why: tried(&why, tries),
                        maybe_done: seen && !retry::is_repeatable(method),
                    };
                    (error, again, None)
                }
            };
            let wait = retry::wait(tries, asked);
            if !again || tries >= TRIES || Instant::now() + wait > deadline {
                return Err(self.explained(path, error).await);
            }
            tracing::warn!("{error}; trying again in {:.1} s", wait.as_secs_f64());
            tokio::time::sleep(wait).await;
        }
    }

    /// Says what the key is where Attio does not let it in.
    async fn explained(&self, path: &str, error: Error) -> Error {
        let Error::Refused(mut refusal) = error else { return error };
        if matches!(refusal.status, 401 | 403) && refusal.code != "billing_error" && path != "/v2/self" {
            let answer = self.transport.send(&Method::GET, "/v2/self", None).await;
            let token = answer.ok().and_then(|answer| serde_json::from_slice(&answer.body).ok());
            refusal.advice = token.map(|token| about(&token)).or(refusal.advice);
        }
        Error::Refused(refusal)
    }
}

fn about(token: &Token) -> String {
    if !token.active {
        return "Attio does not know this key (GET /v2/self: not active): check ATTIO_API_KEY, or make a new \
                one in Attio's developer settings"
            .into();
    }
    let workspace = token.workspace_name.as_deref().or(token.workspace_id.as_deref()).unwrap_or("?");
    let scopes = token.scope.as_deref().unwrap_or("none");
    format!(
        "the key is good, of workspace {workspace:?}, with the scopes {scopes}; webhooks need \
         webhook:read-write (reading: webhook:read), slugs in filters object_configuration:read and \
         list_configuration:read: add what is missing in Attio's developer settings"
    )
}

/// Whether an answer leaves open what was done: it may come from a proxy that has not waited for Attio.
fn is_unknown(status: u16) -> bool {
    status == 408 || status >= 500
}

/// An answer that is no success.
fn refused(method: &Method, request: &str, answer: Answer, tries: u32) -> Error {
    let Answer { status, body, execution_id, retry_after } = answer;
    let maybe_done = is_unknown(status) && !retry::is_repeatable(method);
    match Refusal::read(request, status, &body, execution_id) {
        Some(mut refusal) => {
            refusal.maybe_done = maybe_done;
            if let (429, Some(asked)) = (status, retry_after) {
                refusal.advice = Some(format!("Attio asks to wait {} s", asked.as_secs()));
            }
            Error::Refused(Box::new(refusal))
        }
        None => {
            let why = format!("answered {status}, and not in Attio's form");
            let why = match is_unknown(status) {
                true => tried(&why, tries),
                false => format!("{why}: is attio.api_url right?"),
            };
            Error::NoAnswer { request: request.to_owned(), why, maybe_done }
        }
    }
}

fn tried(why: &str, tries: u32) -> String {
    if tries == 1 { why.to_owned() } else { format!("{why} (try {tries})") }
}

/// The message of a parser is about places, never about what stands there: it may be a secret.
fn read<T: DeserializeOwned>(request: &str, body: Bytes) -> Result<T, Error> {
    serde_json::from_slice(&body).map_err(|error| Error::NoAnswer {
        request: request.to_owned(),
        why: format!("the answer is not as documented (line {}, column {})", error.line(), error.column()),
        maybe_done: request.starts_with("POST"),
    })
}

fn named(item: &Json, id: &str) -> Option<Named> {
    let id = item["id"][id].as_str()?.to_owned();
    Some(Named { id, slug: item["api_slug"].as_str().map(String::from) })
}

fn path(webhook_id: &str) -> Result<String, Error> {
    Ok(format!("/v2/webhooks/{}", checked(webhook_id)?))
}

/// What becomes a part of a path.
fn checked(id: &str) -> Result<&str, Error> {
    let good = catalog::is_id(id) && id.bytes().any(|byte| byte != b'.');
    if good { Ok(id) } else { Err(Error::NoId(id.to_owned())) }
}
