//! Unauthenticated and malformed requests: each is refused, none is published, none is remembered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use fastrand::Rng;
use tokio::task::JoinSet;

use crate::support::bridge::Bridge;
use crate::support::client::Client;
use crate::support::fixtures;
use crate::support::request::{Request, SECRET, sign};
use crate::support::stress;

const OTHER: &str = "another secret, unknown here, and long enough";

/// A bad request with the status that it must have.
struct Bad {
    request: Request,
    status: u16,
}

/// Makes bad requests out of good ones.
struct Forger {
    rng: Rng,
    bodies: Arc<[Vec<u8>]>,
}

impl Forger {
    fn next(&mut self) -> Bad {
        let good = self.good();
        match self.rng.u8(0..8) {
            0 => Bad { request: self.signature(good), status: 401 },
            1 => Bad { request: self.headers(good), status: 401 },
            2 => Bad { request: self.body(good), status: 401 },
            3 => Bad { request: self.timestamp(good), status: 401 },
            4 => Bad { request: self.scheme(&good), status: 401 },
            5 => Bad { request: self.path(good), status: 404 },
            6 => self.kind(good),
            _ => self.framing(good),
        }
    }

    /// A request that would be accepted: a real body or any JSON, with a key of its own.
    fn good(&mut self) -> Request {
        let body = if self.rng.bool() {
            self.rng.choice(&*self.bodies).unwrap().clone()
        } else {
            format!(r#"{{"event_type":"x.y","at":{}.{}}}"#, self.rng.u32(..), self.rng.u32(..)).into_bytes()
        };
        Request::keyed(&self.rng.u64(..).to_string(), body)
    }

    fn resigned(&self, request: Request, signature: impl AsRef<[u8]>) -> Request {
        request.without("Attio-Signature").header("Attio-Signature", signature)
    }

    /// A wrong signature: other digits, lengths, spellings.
    fn signature(&mut self, request: Request) -> Request {
        let good = sign(SECRET, &[&request.body]);
        let at = self.rng.usize(0..64);
        let mut bytes = good.clone().into_bytes();
        match self.rng.u8(0..10) {
            0 => bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' },
            1 => bytes[at] = self.rng.choice(*b"gG:/@`xX+- \t\"'%\xb1\xff").unwrap(),
            2 => bytes.truncate(at),
            3 => bytes.extend_from_slice(&good.as_bytes()[..=at]),
            4 => bytes = sign(OTHER, &[&request.body]).into_bytes(),
            5 => bytes = sign("", &[&request.body]).into_bytes(),
            6 => bytes = "0".repeat(64).into_bytes(),
            7 => bytes.reverse(),
            8 => bytes.insert(at.max(1), *self.rng.choice(b" ,;0a").unwrap()),
            _ => {
                let prefix = self.rng.choice(["0x", "sha256=", "v1=", "+", "\"", "sha256:"]).unwrap();
                bytes.splice(0..0, prefix.bytes());
            }
        }
        // White space around a header value is trimmed.
        assert_ne!(bytes.trim_ascii(), good.as_bytes());
        self.resigned(request, bytes)
    }

    /// The signature in the wrong headers.
    fn headers(&mut self, request: Request) -> Request {
        let good = sign(SECRET, &[&request.body]);
        let wrong = sign(OTHER, &[&request.body]);
        match self.rng.u8(0..7) {
            0 => request.without("Attio-Signature"),
            1 => request.header("Attio-Signature", good),
            2 => request.header("attio-signature", wrong),
            3 => request.header("X-Attio-Signature", wrong),
            4 => request.header("X-Attio-Signature", &good).header("X-ATTIO-SIGNATURE", good),
            5 => self.resigned(request, wrong).header("X-Attio-Signature", good),
            _ => {
                let name = ["Authorization", "Attio_Signature", "X-Hub-Signature-256", "Signature"];
                request.without("Attio-Signature").header(self.rng.choice(name).unwrap(), good)
            }
        }
    }

    /// A body other than the signed one.
    fn body(&mut self, mut request: Request) -> Request {
        let at = self.rng.usize(0..request.body.len());
        match self.rng.u8(0..6) {
            0 => request.body[at] ^= 1 << self.rng.u8(0..8),
            1 => request.body.truncate(at),
            2 => request.body.push(b' '),
            3 => request.body.insert(0, b'\n'),
            4 => drop(request.body.remove(at)),
            _ => request.body.splice(0..0, *b"\xef\xbb\xbf").for_each(drop),
        }
        if self.rng.bool() { request.chunked(self.rng.usize(1..100)) } else { request }
    }

    /// The timestamped scheme with an invalid timestamp.
    fn timestamp(&mut self, request: Request) -> Request {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let far = 400 + self.rng.u64(0..1_000_000_000);
        let good = Request::timestamped(&now.to_string(), &request.body);
        match self.rng.u8(0..7) {
            0 => Request::timestamped(&(now - far).to_string(), &request.body),
            1 => Request::timestamped(&(now + far).to_string(), &request.body),
            2 => Request::timestamped(&(now * 1000 - far * 1000).to_string(), &request.body),
            3 => {
                let text = ["", "-1", "1e9", "0x7f", " ", "17954352000", "now", "1795435200.0", "\u{661}"];
                Request::timestamped(self.rng.choice(text).unwrap(), &request.body)
            }
            4 => good.header("X-Attio-Timestamp", now.to_string()),
            5 => good.without("X-Attio-Timestamp").header("X-Attio-Timestamp", (now - 1).to_string()),
            // The signature is over the body alone.
            _ => request.header("X-Attio-Timestamp", now.to_string()),
        }
    }

    /// A request of one scheme, replayed as one of the other.
    fn scheme(&mut self, request: &Request) -> Request {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().to_string();
        if self.rng.bool() {
            let signature = sign(SECRET, &[now.as_bytes(), b".", &request.body]);
            let spliced = [now.as_bytes(), b".", &request.body].concat();
            return Request::unsigned(spliced).header("X-Attio-Signature", signature);
        }
        let dots: Vec<usize> =
            (0..request.body.len()).filter(|at| *at > 0 && request.body[*at] == b'.').collect();
        let Some(&at) = self.rng.choice(&dots) else { return self.headers(request.clone()) };
        let (timestamp, rest) = (&request.body[..at], &request.body[at + 1..]);
        // Control characters cannot be sent in a header.
        let timestamp: Vec<u8> = timestamp.iter().copied().filter(|byte| !byte.is_ascii_control()).collect();
        let signature = sign(SECRET, &[&request.body]);
        Request::unsigned(rest).header("X-Attio-Signature", signature).header("X-Attio-Timestamp", timestamp)
    }

    /// A path of no source.
    fn path(&mut self, request: Request) -> Request {
        let name: String = (0..self.rng.usize(1..40)).map(|_| self.rng.alphanumeric()).collect();
        let paths = [
            format!("/webhooks/{name}{}", self.rng.u32(..)),
            "/webhooks/attio/".to_owned(),
            "/webhooks//attio".to_owned(),
            "/webhooks/Attio".to_owned(),
            "/webhooks/../webhooks/attio".to_owned(),
            "/webhooks/%61ttio".to_owned(),
            "/webhooks".to_owned(),
            "/".to_owned(),
            format!("/{name}"),
            "/metrics".to_owned(),
        ];
        request.path(self.rng.choice(&paths).unwrap())
    }

    /// A method, media type, coding or size that is not accepted.
    fn kind(&mut self, mut request: Request) -> Bad {
        let methods = ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "post", "BREW"];
        let types = ["text/plain", "application/xml", "json", "application/x-www-form-urlencoded", "a/b"];
        match self.rng.u8(0..5) {
            0 => Bad { request: request.method(self.rng.choice(methods).unwrap()), status: 405 },
            1 => {
                let other = self.rng.choice(types).unwrap();
                Bad { request: request.without("Content-Type").header("Content-Type", other), status: 415 }
            }
            2 => {
                let coding =
                    self.rng.choice(["gzip", "br", "deflate", "zstd", "x", "identity, gzip"]).unwrap();
                Bad { request: request.header("Content-Encoding", coding), status: 415 }
            }
            3 => {
                request = request.header("Content-Length", (600_000 + self.rng.u64(..) / 2).to_string());
                Bad { request, status: 413 }
            }
            _ => Bad { request: request.header("X-Long", "x".repeat(20_000)), status: 431 },
        }
    }

    /// Ambiguous heads.
    fn framing(&mut self, request: Request) -> Bad {
        let length = request.body.len().to_string();
        let request = match self.rng.u8(0..6) {
            0 => request.header("Host", "other.test"),
            1 => request.without("Host"),
            2 => request.header("Content-Length", &length).header("Content-Length", length),
            3 => request.header("Content-Length", format!("+{length}")),
            4 => request.header("Content-Length", length).header("Transfer-Encoding", "chunked"),
            _ => request.header("Transfer-Encoding", "gzip, chunked"),
        };
        Bad { request, status: 400 }
    }
}

/// Sends so many requests, reusing the connection while the bridge keeps it. Counts reasons.
async fn attack(bridge: &Bridge, mut forger: Forger, count: usize) -> BTreeMap<String, usize> {
    let mut client = Client::connect(bridge.http).await;
    let mut reasons = BTreeMap::new();
    for _ in 0..count {
        let Bad { request, status } = forger.next();
        let answer = client.ask(&request).await;
        assert_eq!(answer.status, status, "{answer:?} to {}", String::from_utf8_lossy(&request.bytes()));
        if status == 401 {
            assert_eq!(answer.json()["error"], "Invalid signature", "the same text for every 401");
        }
        *reasons.entry(answer.reason()).or_default() += 1;
        if answer.closes() {
            client = Client::connect(bridge.http).await;
        }
    }
    reasons
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_requests_are_refused_and_publish_or_remember_nothing() {
    const CLIENTS: usize = 16;
    let each = stress(4_000, 100_000) / CLIENTS;
    let bridge = Arc::new(Bridge::start().await);
    let bodies: Arc<[Vec<u8>]> = fixtures::deliveries().into_iter().map(|(_, bytes)| bytes).collect();
    let mut clients = JoinSet::new();
    for seed in 0..CLIENTS {
        let (bridge, bodies) = (Arc::clone(&bridge), Arc::clone(&bodies));
        let forger = Forger { rng: Rng::with_seed(seed as u64), bodies };
        clients.spawn(async move { attack(&bridge, forger, each).await });
    }
    let mut reasons = BTreeMap::<String, usize>::new();
    while let Some(found) = clients.join_next().await {
        found.unwrap().into_iter().for_each(|(reason, count)| *reasons.entry(reason).or_default() += count);
    }
    println!("{} bad requests: {reasons:?}", CLIENTS * each);
    assert_eq!(bridge.bus.attempts(), 0, "nothing is published");
    let metrics = bridge.metrics().await;
    assert_eq!(metrics.sum("dedup_lookups_total", &[]), 0.0, "nothing is looked up");
    assert_eq!(metrics.get("dedup_entries", &[]), 0.0);
    assert_eq!(metrics.sum("events_received_total", &[]), 0.0);
    assert_eq!(metrics.sum("deliveries_total", &[]), (CLIENTS * each) as f64, "every one is counted");
    assert_eq!(metrics.sum("signature_verifications_total", &[("result", "ok")]), 0.0);
    let good = bridge.ask(&Request::keyed("k", r#"{"event_type":"x.y"}"#)).await;
    assert_eq!(good.status_and_reason(), (200, "accepted".into()), "a good one is accepted");
}
