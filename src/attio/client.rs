//! The endpoints in use, one method each.

use std::collections::HashSet;

use bytes::Bytes;
use hyper::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};

use super::request::Requests;
use super::types::{Named, Resource, Token};
use super::{Created, Error, Failed, Options, Subscription, Webhook, shown};
use crate::catalog;

/// Webhooks a page: the API's maximum; its default is 10.
const WEBHOOKS: usize = 100;

/// Attributes a page: the API's maximum.
const ATTRIBUTES: usize = 500;

/// More pages than any collection has.
const MAX_PAGES: usize = 100;

const SELF: &str = "/v2/self";

/// A client of Attio's API. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    requests: Requests,
}

#[derive(Deserialize)]
struct Data<T> {
    data: T,
}

impl Client {
    pub fn new(options: &Options) -> Result<Self, Error> {
        Ok(Self { requests: Requests::new(options)? })
    }

    /// What the key is. An unknown key is not an error here: it is not `active`.
    pub async fn token(&self) -> Result<Token, Error> {
        parse("GET", SELF, &self.call(&Method::GET, SELF, None).await?)
    }

    pub async fn webhooks(&self) -> Result<Vec<Webhook>, Error> {
        self.pages("/v2/webhooks", WEBHOOKS).await
    }

    pub async fn webhook(&self, webhook_id: &str) -> Result<Webhook, Error> {
        self.get(&path(webhook_id)?).await
    }

    /// Creates a webhook. The answer has its secret, this once: see [`super::secret::create`].
    pub async fn create_webhook(&self, url: &str, subscriptions: &[Subscription]) -> Result<Created, Error> {
        let data = json!({ "target_url": url, "subscriptions": subscriptions });
        self.write(&Method::POST, "/v2/webhooks", data).await
    }

    /// Changes what is given. The list of subscriptions is replaced as a whole; id and secret stay.
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
        self.write(&Method::PATCH, &path(webhook_id)?, data).await
    }

    pub async fn delete_webhook(&self, webhook_id: &str) -> Result<(), Error> {
        self.call(&Method::DELETE, &path(webhook_id)?, None).await.map(drop)
    }

    /// Creates a record of an object, given by id or slug, and returns the record's id.
    pub async fn create_record(&self, object: &str, values: &Json) -> Result<String, Error> {
        let path = format!("/v2/objects/{}/records", checked(object)?);
        let record: Json = self.write(&Method::POST, &path, json!({ "values": values })).await?;
        let id = record["id"]["record_id"].as_str().map(String::from);
        id.ok_or_else(|| unreadable("POST", &path, "id.record_id"))
    }

    pub async fn delete_record(&self, object: &str, record_id: &str) -> Result<(), Error> {
        let path = format!("/v2/objects/{}/records/{}", checked(object)?, checked(record_id)?);
        self.call(&Method::DELETE, &path, None).await.map(drop)
    }

    /// All objects, or all lists, that the key may see and that have a slug.
    pub async fn owners(&self, owner: Resource) -> Result<Vec<Named>, Error> {
        Ok(named(&self.get::<Vec<Json>>(&format!("/v2/{}s", owner.name())).await?, owner))
    }

    /// All attributes of an object or list, given by id or slug.
    pub async fn attributes(&self, owner: Resource, name: &str) -> Result<Vec<Named>, Error> {
        let path = format!("/v2/{}s/{}/attributes", owner.name(), checked(name)?);
        Ok(named(&self.pages::<Json>(&path, ATTRIBUTES).await?, Resource::Attribute))
    }

    /// All items of a collection. Read until a page has nothing new, as the API may give fewer items than asked for, or
    /// ignore the offset; each item once, as one that is created or deleted between two pages shifts the others.
    async fn pages<T: DeserializeOwned>(&self, path: &str, limit: usize) -> Result<Vec<T>, Error> {
        let (mut all, mut ids, mut offset) = (Vec::new(), HashSet::new(), 0);
        for _ in 0..MAX_PAGES {
            let page: Vec<Json> = self.get(&format!("{path}?limit={limit}&offset={offset}")).await?;
            offset += page.len();
            let before = all.len();
            all.extend(page.into_iter().filter(|item| ids.insert(item["id"].to_string())));
            if all.len() == before {
                let items = serde_json::from_value(all.into());
                return items.map_err(|_| unreadable("GET", path, "one of its items"));
            }
        }
        let reason = format!("the list has no end after {MAX_PAGES} pages: is attio.api_url right?");
        Err(Failed { request: format!("GET {path}"), reason, ..Failed::default() }.into())
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let body = self.call(&Method::GET, path, None).await?;
        parse("GET", path, &body).map(|Data { data }| data)
    }

    async fn write<T: DeserializeOwned>(&self, method: &Method, path: &str, data: Json) -> Result<T, Error> {
        let body = self.call(method, path, Some(&json!({ "data": data }))).await?;
        parse(method.as_str(), path, &body).map(|Data { data }| data)
    }

    /// Makes one call; a refused key is described in the error.
    async fn call(&self, method: &Method, path: &str, body: Option<&Json>) -> Result<Bytes, Error> {
        let mut failed = match self.requests.call(method, path, body).await {
            Err(Error::Call(failed)) => failed,
            done => return done,
        };
        if matches!(failed.status, Some(401 | 403)) && failed.code != "billing_error" && path != SELF {
            let answer = self.requests.once(&Method::GET, SELF, Bytes::new()).await;
            let token = answer.ok().and_then(|answer| serde_json::from_slice(&answer.body).ok());
            failed.advice = token.map(|token| describe(&token)).or(failed.advice);
        }
        Err(Error::Call(failed))
    }
}

fn describe(token: &Token) -> String {
    if !token.active {
        return "Attio does not know this key (GET /v2/self: not active): check ATTIO_API_KEY, or create a new \
                key in Attio's developer settings"
            .into();
    }
    let workspace = shown(token.workspace_name.as_deref().or(token.workspace_id.as_deref()).unwrap_or("?"));
    let scopes = shown(token.scope.as_deref().unwrap_or("none"));
    format!(
        "the key is valid, of workspace \"{workspace}\", with the scopes {scopes}; webhooks need \
         webhook:read-write (or webhook:read to read), slugs in filters need object_configuration:read and \
         list_configuration:read: add what is missing in Attio's developer settings"
    )
}

fn parse<T: DeserializeOwned>(method: &str, path: &str, body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|error| {
        unreadable(method, path, &format!("line {}, column {}", error.line(), error.column()))
    })
}

/// The parser's own message is left out: it may quote a secret.
fn unreadable(method: &str, path: &str, at: &str) -> Error {
    let (request, reason) = (format!("{method} {path}"), format!("the answer is not as documented ({at})"));
    Failed { request, reason, outcome_unknown: method == "POST", ..Failed::default() }.into()
}

fn named(all: &[Json], resource: Resource) -> Vec<Named> {
    let id = format!("{}_id", resource.name());
    let text = |value: &Json| value.as_str().map(str::to_owned);
    let one = |item: &Json| Some(Named { id: text(&item["id"][&id])?, slug: text(&item["api_slug"])? });
    all.iter().filter_map(one).collect()
}

fn path(webhook_id: &str) -> Result<String, Error> {
    Ok(format!("/v2/webhooks/{}", checked(webhook_id)?))
}

/// An id or slug that may become a segment of a path.
fn checked(id: &str) -> Result<&str, Error> {
    let good = catalog::is_id(id) && id.bytes().any(|byte| byte != b'.');
    if good { Ok(id) } else { Err(Error::InvalidId(id.to_owned())) }
}
