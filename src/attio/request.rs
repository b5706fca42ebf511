//! One request to Attio with its retries.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use data_encoding::BASE64;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request};
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value as Json;
use tokio::time::Instant;

use super::{Error, Failed, Options};
use crate::http_client::{self, HttpClient, Response};
use crate::version::VERSION;

const RETRIES: usize = 5;

/// One call with all its attempts and waits.
const OVERALL: Duration = Duration::from_secs(60);

const MIN_DELAY: Duration = Duration::from_millis(200);
const MAX_DELAY: Duration = Duration::from_secs(5);

const MAX_BODY_BYTES: usize = 16 << 20;

const REDACTED: &str = "[API key]";

/// A shorter key is no key of Attio's, and may be a word of an answer.
const MIN_KEY: usize = 8;

/// A `Retry-After` is at most this many seconds; no call waits as long.
const A_DAY: u64 = 24 * 3600;

/// Sends requests to one API URL with one key. Cheap to clone.
#[derive(Clone)]
pub(super) struct Requests {
    client: HttpClient,
    api_url: String,
    key: SecretString,
    authorization: HeaderValue,
}

struct Call<'a> {
    method: &'a Method,
    path: &'a str,
    attempt: u32,
}

struct Attempt {
    error: Failed,
    retry: bool,
    retry_after: Option<Duration>,
    /// Attio may have done it all the same.
    maybe_done: bool,
}

impl Requests {
    pub(super) fn new(options: &Options) -> Result<Self, Error> {
        Self::with_limit(options, MAX_BODY_BYTES)
    }

    /// The same, for answers of at most this many bytes.
    pub(super) fn with_limit(options: &Options, max_body_bytes: usize) -> Result<Self, Error> {
        let key = options.api_key.as_ref().ok_or(Error::NoKey)?;
        if !options.api_url.starts_with("https://") && !http_client::is_loopback(&options.api_url) {
            let message = "attio.api_url: the key would be sent unencrypted; use https:// (http:// is for loopback \
                           addresses only)";
            return Err(Error::Setup(message.into()));
        }
        let limits = http_client::Options { timeout: options.timeout, max_body_bytes, keep_alive: true };
        let client = HttpClient::new(limits).map_err(|error| Error::Setup(error.to_string()))?;
        Ok(Self { client, api_url: options.api_url.clone(), key: key.clone(), authorization: bearer(key)? })
    }

    /// Sends a request until it succeeds, cannot be retried, or has failed too often. The body of the answer.
    ///
    /// 429 is always retried: Attio has not processed the request. 408, 5xx, timeouts and broken connections
    /// are retried only if repeating does no harm, so never a POST.
    pub(super) async fn call(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Json>,
    ) -> Result<Bytes, Error> {
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let deadline = Instant::now() + OVERALL;
        let backoff = ExponentialBuilder::new().with_jitter().with_max_times(RETRIES);
        let mut waits = backoff.with_min_delay(MIN_DELAY).with_max_delay(MAX_DELAY).build();
        let mut call = Call { method, path, attempt: 0 };
        let mut maybe_done = false;
        loop {
            call.attempt += 1;
            let failed = match self.once(method, path, body.clone()).await {
                Ok(response) if (200..300).contains(&response.status) => return Ok(response.body),
                // Deleted by an earlier attempt.
                Ok(response) if response.status == 404 && method == Method::DELETE && maybe_done => {
                    return Ok(Bytes::new());
                }
                Ok(response) => call.refused(&response, self.key.expose_secret()),
                Err(error) => self.no_answer(&call, error),
            };
            maybe_done |= failed.maybe_done;
            let jitter = MIN_DELAY.mul_f64(fastrand::f64());
            let wait = waits.next().map(|wait| failed.retry_after.map_or(wait, |asked| asked + jitter));
            match wait.filter(|wait| failed.retry && Instant::now() + *wait <= deadline) {
                None => return Err(failed.error.into()),
                Some(wait) => {
                    tracing::warn!("{}; retrying in {:.1} s", failed.error, wait.as_secs_f64());
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// One attempt. The whole answer without the key, whatever its status.
    pub(super) async fn once(
        &self,
        method: &Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response, http_client::Error> {
        let mut response = self.exactly(method, path, body).await?;
        self.redact(&mut response);
        Ok(response)
    }

    /// One attempt. The answer as it was received: it must not be printed before [`Requests::redact`].
    pub(super) async fn exactly(
        &self,
        method: &Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response, http_client::Error> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.api_url))
            .header(AUTHORIZATION, self.authorization.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, format!("attio-bridge/{VERSION}"));
        self.client.send(request, body).await
    }

    /// Removes the key from an answer that is printed or logged.
    pub(super) fn redact(&self, response: &mut Response) {
        if let Ok(mut json) = serde_json::from_slice::<Json>(&response.body)
            && redact(&mut json, self.key.expose_secret())
        {
            response.body = json.to_string().into();
        }
    }

    /// The error of an answer that is no success, and how long Attio asks to wait.
    pub(super) fn refusal(
        &self,
        method: &Method,
        path: &str,
        mut response: Response,
    ) -> (Failed, Option<Duration>) {
        self.redact(&mut response);
        let Attempt { error, retry_after, .. } =
            Call { method, path, attempt: 1 }.refused(&response, self.key.expose_secret());
        (error, retry_after)
    }

    /// The error of a request without an answer.
    pub(super) fn silence(&self, method: &Method, path: &str, error: http_client::Error) -> Failed {
        self.no_answer(&Call { method, path, attempt: 1 }, error).error
    }

    fn no_answer(&self, call: &Call<'_>, error: http_client::Error) -> Attempt {
        use http_client::Error::{Certificate, Connect, Interrupted, Invalid, Timeout, TooLarge};
        let (retry, maybe_done) = match &error {
            Invalid(_) | Certificate(_) => (false, false),
            Connect(_) => (true, false),
            Interrupted(_) | Timeout(_) => (call.is_repeatable(), true),
            TooLarge(_) => (false, true),
        };
        let url = &self.api_url;
        let reason = match error {
            Connect(reason) => format!(
                "{url} cannot be reached: {reason}; check the network, the proxy in HTTPS_PROXY, and attio.api_url"
            ),
            Certificate(reason) => format!(
                "{url} cannot be reached: {reason}; if a proxy of yours intercepts TLS, name its authority in \
                 SSL_CERT_FILE"
            ),
            timeout @ Timeout(_) => format!("{timeout} (attio.timeout)"),
            other => other.to_string(),
        };
        Attempt { error: call.error(&reason, maybe_done), retry, retry_after: None, maybe_done }
    }
}

impl Call<'_> {
    /// GET changes nothing; PATCH and DELETE have the same effect however often they are done.
    fn is_repeatable(&self) -> bool {
        self.method != Method::POST
    }

    fn refused(&self, Response { status, headers, body }: &Response, key: &str) -> Attempt {
        let status = *status;
        // It may come from a proxy that did not wait for Attio.
        let maybe_done = status == 408 || status >= 500;
        let retry = status == 429 || (maybe_done && self.is_repeatable());
        let retry_after = text(headers, RETRY_AFTER.as_str())
            .and_then(|after| retry_after(after, text(headers, DATE.as_str())));
        let execution_id = text(headers, "x-attio-execution-id").filter(|id| redacted(id, key).is_none());
        let request = format!("{} {}", self.method, self.path);
        let error = match Failed::read(request.clone(), status, body, execution_id) {
            Some(mut error) => {
                error.outcome_unknown = maybe_done && !self.is_repeatable();
                if let (429, Some(asked)) = (status, retry_after) {
                    error.advice = Some(format!("Attio asks to wait {} s", asked.as_secs()));
                }
                error
            }
            None if maybe_done => self.error(&format!("answered {status}, not in Attio's format"), true),
            None => {
                let what = if (300..400).contains(&status) { "a redirect" } else { "not in Attio's format" };
                let reason = format!("answered {status}, {what}: is attio.api_url right?");
                Failed { request, reason, ..Failed::default() }
            }
        };
        Attempt { error, retry, retry_after, maybe_done }
    }

    fn error(&self, reason: &str, maybe_done: bool) -> Failed {
        let attempt = if self.attempt > 1 { format!(" (attempt {})", self.attempt) } else { String::new() };
        let (request, reason) = (format!("{} {}", self.method, self.path), format!("{reason}{attempt}"));
        let outcome_unknown = maybe_done && !self.is_repeatable();
        Failed { request, reason, outcome_unknown, ..Failed::default() }
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Replaces the key in every text: as it is, percent-encoded, or as Basic authentication sends it. Whether there was one.
fn redact(json: &mut Json, key: &str) -> bool {
    match json {
        Json::String(text) => {
            let Some(found) = redacted(text, key) else { return false };
            *text = found;
            true
        }
        Json::Array(items) => items.iter_mut().fold(false, |found, item| redact(item, key) | found),
        Json::Object(members) => {
            let names: Vec<String> =
                members.keys().filter(|name| redacted(name, key).is_some()).cloned().collect();
            names.iter().for_each(|name| drop(members.remove(name)));
            members.values_mut().fold(!names.is_empty(), |found, value| redact(value, key) | found)
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => false,
    }
}

fn redacted(text: &str, key: &str) -> Option<String> {
    if key.len() < MIN_KEY {
        return None;
    }
    let decoded = percent_decode_str(text).decode_utf8_lossy();
    if let Some(spelling) = [text, &*decoded].into_iter().find(|spelling| spelling.contains(key)) {
        return Some(spelling.replace(key, REDACTED));
    }
    // The last digits depend on what follows the key.
    let basic = BASE64.encode(&key.as_bytes()[..key.len() / 3 * 3]);
    text.contains(&basic).then(|| REDACTED.to_owned())
}

fn bearer(key: &SecretString) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", key.expose_secret()))
        .map_err(|_| Error::Setup("attio.api_key: contains characters that no key has".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Reads `Retry-After`: seconds, or an HTTP date, which is compared with the answer's own `Date`, so that the
/// local clock does not matter. A date in the past is 0 s; without a `Date` it is 1 s, as Attio's limits are
/// per second (<https://docs.attio.com/rest-api/guides/rate-limiting>).
fn retry_after(text: &str, date: Option<&str>) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds.min(A_DAY)));
    }
    let then = httpdate::parse_http_date(text.trim()).ok()?;
    match date.and_then(|date| httpdate::parse_http_date(date).ok()) {
        Some(now) => Some(then.duration_since(now).unwrap_or(Duration::ZERO)),
        None => Some(Duration::from_secs(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_an_http_date() {
        let date = Some("Tue, 24 Nov 2026 10:00:00 GMT");
        let table = [
            ("3", None, Some(3)),
            ("Tue, 24 Nov 2026 10:00:02 GMT", date, Some(2)),
            ("Tue, 24 Nov 2026 09:59:00 GMT", date, Some(0)),
            ("Tue, 24 Nov 2026 10:00:02 GMT", None, Some(1)),
            ("Tuesday, 24-Nov-26 10:00:02 GMT", date, Some(2)),
            ("18446744073709551615", None, Some(A_DAY)),
            ("soon", date, None),
        ];
        for (text, date, seconds) in table {
            assert_eq!(retry_after(text, date), seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn key_is_redacted_however_it_is_spelled() {
        let key = "0123456789abcdef0123456789abcdef";
        let basic = BASE64.encode(format!("{key}:").as_bytes());
        let percent: String = key.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let mut json = serde_json::json!({
            "message": format!("Bearer {key} is unknown, {key}"), "path": ["data", percent, 1], key: 1,
            "basic": format!("Basic {basic}"), "more": "a %2F b",
        });
        assert!(redact(&mut json, key));
        let expected = serde_json::json!({
            "message": "Bearer [API key] is unknown, [API key]", "path": ["data", "[API key]", 1],
            "basic": "[API key]", "more": "a %2F b",
        });
        assert_eq!(json, expected);
        assert!(!redact(&mut json, key) && !redact(&mut json, "key"));
    }

    #[test]
    fn a_post_is_retried_only_after_429_or_a_failed_connection() {
        let requests = Requests::new(&Options {
            api_key: Some("key".to_owned().into()),
            api_url: "http://127.0.0.1:1".into(),
            timeout: OVERALL,
        })
        .unwrap();
        let response = |status| Response { status, headers: HeaderMap::new(), body: Bytes::new() };
        let (broken, refused) = (
            || http_client::Error::Interrupted(String::new()),
            || http_client::Error::Connect(String::new()),
        );
        for method in [Method::GET, Method::PATCH, Method::DELETE, Method::POST] {
            let call = Call { method: &method, path: "/", attempt: 1 };
            let repeatable = method != Method::POST;
            assert!(call.refused(&response(429), "key").retry && requests.no_answer(&call, refused()).retry);
            assert!(!call.refused(&response(409), "key").retry);
            for failed in [call.refused(&response(503), "key"), requests.no_answer(&call, broken())] {
                assert_eq!(failed.retry, repeatable, "{method}");
                assert_eq!(failed.error.outcome_unknown, !repeatable, "{method}");
            }
        }
    }
}
