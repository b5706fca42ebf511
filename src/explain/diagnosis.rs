//! The common mistakes between a sender and a bridge. Each is undone and the request is given to the
//! verify stage again; the fewest changes that make it verify are the diagnosis.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::{BASE64, BASE64_NOPAD, BASE64URL, BASE64URL_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};
use secrecy::ExposeSecret;
use secrecy::zeroize::Zeroizing;
use time::OffsetDateTime;

use super::captured::Captured;
use super::reformat::{Escapes, Json, Order, Style};
use crate::delivery::{Delivery, Header, Headers, Verified, is_identity};
use crate::pipeline::SourceOptions;
use crate::pipeline::verify::{Scheme, SignatureError, Verifier};
use crate::printable::is_invisible;

const BOM: &str = "\u{feff}";

pub struct Fixed {
    pub mistakes: Vec<String>,
    pub delivery: Delivery<Verified>,
}

/// A part of the request with a mistake undone; without a mistake, as it was received.
type Variant<T> = (Option<String>, T);

/// The bytes of a key, cleared from memory when dropped.
type Key = Zeroizing<Vec<u8>>;

/// Finds the fewest mistakes that explain why a request does not verify.
pub fn diagnose(
    request: &Captured,
    source: &SourceOptions,
    all: &[SourceOptions],
    received_at: OffsetDateTime,
) -> Option<Fixed> {
    let (headers, bodies, keys) = (headers(request), bodies(&request.body), keys(source, all));
    let mut best: Option<Fixed> = None;
    for (of_scheme, (scheme, tolerance)) in schemes(source, &request.to_headers(), received_at) {
        for (of_headers, headers) in &headers {
            for (of_body, body) in &bodies {
                for (of_key, (label, key)) in &keys {
                    let mistakes = [&of_scheme, of_headers, of_body, of_key].into_iter().flatten();
                    let mistakes: Vec<String> = mistakes.cloned().collect();
                    if best.as_ref().is_some_and(|best| best.mistakes.len() <= mistakes.len()) {
                        continue;
                    }
                    let delivery = super::delivery(source, received_at, headers.clone(), body.clone());
                    let key = [(Arc::clone(label), key.as_slice())];
                    if let Ok(delivery) = Verifier::with_keys(scheme, tolerance, key).verify(delivery) {
                        best = Some(Fixed { mistakes, delivery });
                    }
                }
            }
        }
    }
    best
}

/// Schemes with their timestamp tolerance.
fn schemes(
    source: &SourceOptions,
    headers: &Headers,
    received_at: OffsetDateTime,
) -> Vec<Variant<(Scheme, Duration)>> {
    let (configured, tolerance) = (source.verify.scheme, source.verify.timestamp_tolerance);
    let mut schemes = vec![(None, (configured, tolerance))];
    if let Some(age) = age(headers, received_at) {
        let tolerated = tolerance.as_secs();
        let mistake = format!(
            "its timestamp is {age}, and the source tolerates {tolerated} s: a wrong clock, or a replay"
        );
        schemes.push((Some(mistake), (configured, Duration::MAX)));
    }
    for (scheme, signed) in [
        (Scheme::Attio, "the body alone, as Attio does"),
        (Scheme::Timestamped, "`timestamp.body`, with X-Attio-Timestamp"),
    ] {
        let fix = match (configured, scheme) {
            _ if scheme == configured => continue,
            (Scheme::Auto, Scheme::Attio) => {
                "but it has an X-Attio-Timestamp: remove that header, or sign it".to_owned()
            }
            (Scheme::Auto, _) => "but its header X-Attio-Timestamp was lost in transit".to_owned(),
            _ => format!(
                "but the source is configured with another `scheme`: set it to {:?}",
                format!("{scheme:?}").to_lowercase()
            ),
        };
        schemes.push((Some(format!("it was signed over {signed}, {fix}")), (scheme, Duration::MAX)));
    }
    schemes
}

fn age(headers: &Headers, received_at: OffsetDateTime) -> Option<String> {
    let Header::Once(bytes) = &headers.timestamp else { return None };
    let value: i64 = std::str::from_utf8(bytes).ok()?.parse().ok()?;
    let seconds = if bytes.len() == 13 { value / 1000 } else { value };
    let age = received_at.unix_timestamp().checked_sub(seconds)?;
    Some(if age < 0 { format!("{} s ahead", -age) } else { format!("{age} s old") })
}

/// Headers with one signature, decoded.
fn headers(request: &Captured) -> Vec<Variant<Headers>> {
    let headers = request.to_headers();
    let with = |value: &[u8]| Headers {
        attio_signature: Header::Once(Bytes::copy_from_slice(value)),
        x_attio_signature: Header::Absent,
        ..headers.clone()
    };
    let mut variants = vec![(None, headers.clone())];
    for (name, value) in request.signatures() {
        let known =
            ["attio-signature", "x-attio-signature"].iter().any(|known| known.eq_ignore_ascii_case(name));
        let (prefix, mistake) = match known {
            true => (
                String::new(),
                "the two signature headers differ, or one is repeated; one of them is right".into(),
            ),
            false => (
                format!("the signature is in the header {name}; "),
                format!("the signature is in the header {name} instead of Attio-Signature"),
            ),
        };
        variants.push((Some(mistake), with(value)));
        let Ok(text) = std::str::from_utf8(value) else { continue };
        let text = text.trim();
        let bare = text.trim_matches(['"', '\'']);
        let mut add =
            |mistake: &str, value: &[u8]| variants.push((Some(format!("{prefix}{mistake}")), with(value)));
        if bare != text {
            add("it is in quotes", bare.as_bytes());
        }
        for scheme in ["sha256=", "v1=", "sha256:", "hmac-sha256="] {
            if let Some((start, rest)) = bare.split_at_checked(scheme.len())
                && start.eq_ignore_ascii_case(scheme)
            {
                add(&format!("it has `{scheme}` in front of the hex digits"), rest.as_bytes());
            }
        }
        let base64 = bare.rsplit_once("256=").map_or(bare, |(_, rest)| rest).as_bytes();
        let digest =
            [BASE64, BASE64_NOPAD, BASE64URL, BASE64URL_NOPAD].iter().find_map(|it| it.decode(base64).ok());
        if let Some(digest) = digest.filter(|digest| digest.len() == 32) {
            add("it is in base64 instead of hex", HEXLOWER.encode(&digest).as_bytes());
        }
    }
    variants
}

const RESERIALIZED: &str = "the body was changed on the way: re-serialised JSON; the proxy must pass on the raw bytes, \
                            but the body was parsed and serialized again";

fn bodies(body: &Bytes) -> Vec<Variant<Bytes>> {
    let mut variants = vec![(None, body.clone())];
    let mut add = |mistake: &str, value: Option<Bytes>| {
        if let Some(value) = value.filter(|value| variants.iter().all(|(_, known)| known != value)) {
            variants.push((Some(format!("{mistake} after it was signed")), value));
        }
    };
    for end in [&b"\r\n"[..], b"\n"] {
        let shorter = body.strip_suffix(end).map(|rest| body.slice_ref(rest));
        add("a line end was added to the body", shorter);
        add("the last line end of the body was removed", Some([body, end].concat().into()));
    }
    add("white space was added around the body", Some(body.slice_ref(body.trim_ascii())));
    add(
        "a byte order mark was added to the body",
        body.strip_prefix(BOM.as_bytes()).map(|rest| body.slice_ref(rest)),
    );
    add("the byte order mark of the body was removed", Some([BOM.as_bytes(), body].concat().into()));
    if let Ok(text) = std::str::from_utf8(body) {
        let unix = text.replace("\r\n", "\n");
        add("the line ends of the body were changed to CR LF", Some(unix.clone().into()));
        add("the line ends of the body were changed to LF", Some(unix.replace('\n', "\r\n").into()));
        if let Some(json) = Json::parse(text.trim_start_matches('\u{feff}')) {
            for order in [Order::Kept, Order::Attio, Order::Sorted] {
                for style in [Style::Compact, Style::Spaced, Style::Indented(2), Style::Indented(4)] {
                    for escapes in [Escapes::Kept, Escapes::Ascii, Escapes::Fewest] {
                        add(RESERIALIZED, json.to_text(style, escapes, order).map(Bytes::from));
                    }
                }
            }
        }
    }
    variants
}

fn keys(source: &SourceOptions, all: &[SourceOptions]) -> Vec<Variant<(Arc<str>, Key)>> {
    let others = all.iter().filter(|other| other.name != source.name);
    let mut variants = Vec::new();
    for owner in std::iter::once(source).chain(others) {
        for secret in &owner.verify.secrets {
            let named = format!("secret `{}` of source `{}`", secret.label, owner.name);
            let text = secret.value.expose_secret();
            let marks = |c: char| c.is_whitespace() || is_invisible(c);
            let bare = text.trim_matches(marks).trim_matches(['"', '\'']);
            let changed = |value: String| (value != text).then(|| value.into_bytes());
            let forms = [
                ("", Some(text.as_bytes().to_vec())),
                (
                    "without the byte order mark in front of it",
                    text.strip_prefix(BOM).map(|rest| rest.as_bytes().to_vec()),
                ),
                ("with a byte order mark in front of it", changed(format!("{BOM}{bare}"))),
                ("without the invisible characters in it", changed(text.replace(is_invisible, ""))),
                ("without white space or quotes around it", changed(bare.to_owned())),
                ("with a line end", changed(format!("{bare}\n"))),
                ("with a CR LF", changed(format!("{bare}\r\n"))),
                ("with quotes around it", changed(format!("\"{bare}\""))),
                ("in lower case", changed(bare.to_ascii_lowercase())),
                ("decoded as hex", HEXLOWER_PERMISSIVE.decode(bare.as_bytes()).ok()),
                ("decoded as base64", BASE64.decode(bare.as_bytes()).ok()),
            ];
            for (form, bytes) in forms {
                let Some(bytes) = bytes.map(Zeroizing::new) else { continue };
                let mistake = match (owner.name != source.name, form) {
                    (false, "") => None,
                    (_, "") => Some(format!("it was signed with {named}")),
                    _ => Some(format!("it was signed with {named} {form}")),
                };
                variants.push((mistake, (Arc::clone(&secret.label), bytes)));
            }
        }
    }
    variants
}

/// Other facts that matter, whether or not they explain the failure.
pub fn notes(request: &Captured, error: Option<SignatureError>, is_explained: bool) -> Vec<String> {
    let of_signature = match error {
        Some(SignatureError::Missing) if request.headers.is_empty() => Some("no headers were captured"),
        Some(SignatureError::Missing) if request.signatures().next().is_none() => {
            Some("it has no signature header: a proxy removes it, or the sender has no secret configured")
        }
        Some(SignatureError::Mismatch) if request.body.is_empty() => {
            Some("the body is empty: was it captured?")
        }
        _ => None,
    };
    let not_utf8 = std::str::from_utf8(&request.body).is_err();
    let encoded = request.values("content-encoding").any(|value| !is_identity(value));
    let without_key = !matches!(request.to_headers().idempotency_key, Header::Once(key) if !key.is_empty());
    let text = std::str::from_utf8(&request.body).ok();
    let difference = text.and_then(|text| Json::parse(text)?.difference(text.trim()));
    let reserialized = difference.filter(|_| error == Some(SignatureError::Mismatch) && !is_explained).map(|how| {
        format!(
            "the body is not as Attio writes it ({how}): most likely it was changed on the way: re-serialised JSON; \
             the proxy must pass on the raw bytes"
        )
    });
    let notes = [
        of_signature,
        not_utf8.then_some("the body is not UTF-8: it may be compressed, or damaged by the capture"),
        encoded.then_some("it has a Content-Encoding, which the bridge answers with 415"),
        without_key.then_some(
            "without a usable Idempotency-Key, an event without its own id is published again on every retry",
        ),
    ];
    reserialized.into_iter().chain(notes.into_iter().flatten().map(str::to_owned)).collect()
}
