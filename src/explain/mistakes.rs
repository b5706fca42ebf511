//! The usual mistakes between a sender and a bridge: what the request may have been before one was
//! made, tried out on the verify stage. The fewest changes that make it verify are the explanation.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use bytes::Bytes;
use secrecy::ExposeSecret;
use secrecy::zeroize::Zeroizing;
use time::OffsetDateTime;

use super::captured::Captured;
use super::reformat::{Escapes, Style, reformat};
use crate::delivery::{Delivery, Header, Headers, Verified};
use crate::pipeline::SourceOptions;
use crate::pipeline::verify::{Scheme, SignatureError, Verifier};

/// What makes a request verify.
pub struct Mended {
    /// The mistakes, in words.
    pub changes: Vec<String>,
    /// The request as it must have been.
    pub delivery: Delivery<Verified>,
}

/// One thing in another form, and the mistake that explains it; none where it is as it came.
struct Variant<T> {
    mistake: Option<String>,
    value: T,
}

impl<T> Variant<T> {
    fn as_it_came(value: T) -> Self {
        Self { mistake: None, value }
    }

    fn of(mistake: impl Into<String>, value: T) -> Self {
        Self { mistake: Some(mistake.into()), value }
    }
}

/// The bytes of a key, cleared from memory afterwards.
type Key = Zeroizing<Vec<u8>>;

/// Looks for the fewest mistakes that explain why a request does not verify.
pub fn mend(
    request: &Captured,
    source: &SourceOptions,
    all: &[SourceOptions],
    received_at: OffsetDateTime,
) -> Option<Mended> {
    let bodies = bodies(&request.body);
    let headers = headers(request);
    let keys = keys(source, all);
    let ways = ways(source, &request.to_headers(), received_at);
    let mut best: Option<Mended> = None;
    for way in &ways {
        for header in &headers {
            for body in &bodies {
                for key in &keys {
                    let parts = [&way.mistake, &header.mistake, &body.mistake, &key.mistake];
                    let changes: Vec<String> = parts.into_iter().flatten().cloned().collect();
                    if best.as_ref().is_some_and(|best| best.changes.len() <= changes.len()) {
                        continue;
                    }
                    let (scheme, tolerance) = way.value;
                    let answer_by = tokio::time::Instant::now() + super::PLENTY;
                    let delivery = Delivery::new(
                        source.name.clone(),
                        received_at,
                        answer_by,
                        header.value.clone(),
                        body.value.clone(),
                    );
                    let (label, bytes) = &key.value;
                    let key = [(Arc::clone(label), bytes.as_slice())];
                    if let Ok(delivery) = Verifier::with_keys(scheme, tolerance, key).verify(delivery) {
                        best = Some(Mended { changes, delivery });
                    }
                }
            }
        }
    }
    best
}

/// Schemes and tolerances.
fn ways(
    source: &SourceOptions,
    headers: &Headers,
    received_at: OffsetDateTime,
) -> Vec<Variant<(Scheme, Duration)>> {
    let (own, tolerance) = (source.verify.scheme, source.verify.timestamp_tolerance);
    let mut ways = vec![Variant::as_it_came((own, tolerance))];
    let age = age(headers, received_at);
    let stale = |age: &str| {
        format!(
            "its timestamp is {age}, and the source takes {} s: its clock, or a replay",
            tolerance.as_secs()
        )
    };
    if let Some(age) = &age {
        ways.push(Variant::of(stale(age), (own, Duration::MAX)));
    }
    for (scheme, signed) in [
        (Scheme::Attio, "the body alone, as Attio does"),
        (Scheme::Timestamped, "`timestamp.body`, with X-Attio-Timestamp"),
    ] {
        if scheme == own {
            continue;
        }
        let set = match (own, scheme) {
            (Scheme::Auto, Scheme::Attio) => {
                "it carries X-Attio-Timestamp all the same; that header must go, or be signed".to_owned()
            }
            (Scheme::Auto, _) => "its header X-Attio-Timestamp was lost on the way".to_owned(),
            _ => format!(
                "the source's `scheme` is another; set it to {:?}",
                format!("{scheme:?}").to_lowercase()
            ),
        };
        let mistake = format!("it was signed over {signed}: {set}");
        ways.push(Variant::of(mistake, (scheme, Duration::MAX)));
    }
    ways
}

fn age(headers: &Headers, received_at: OffsetDateTime) -> Option<String> {
    let Header::Once(bytes) = &headers.timestamp else { return None };
    let value: i64 = std::str::from_utf8(bytes).ok()?.parse().ok()?;
    let seconds = if bytes.len() == 13 { value / 1000 } else { value };
    let age = received_at.unix_timestamp().checked_sub(seconds)?;
    Some(if age < 0 { format!("{} s ahead", -age) } else { format!("{age} s old") })
}

/// The signature as it was meant.
fn headers(request: &Captured) -> Vec<Variant<Headers>> {
    let headers = request.to_headers();
    let mut variants = vec![Variant::as_it_came(headers.clone())];
    let with = |value: Bytes| Headers {
        attio_signature: Header::Once(value),
        x_attio_signature: Header::Absent,
        ..headers.clone()
    };
    let named = |name: &str| name.to_ascii_lowercase().contains("signature");
    for (name, value) in request.headers.iter().filter(|(name, _)| named(name)) {
        let own = ["attio-signature", "x-attio-signature"].iter().any(|own| own.eq_ignore_ascii_case(name));
        let place = if own { String::new() } else { format!("the signature is in the header {name}; ") };
        if !own {
            variants.push(Variant::of(
                format!("the signature is in the header {name}, and belongs into Attio-Signature"),
                with(value.clone()),
            ));
        } else {
            variants.push(Variant::of(
                "the two signature headers differ, or one comes twice; only one of them is right",
                with(value.clone()),
            ));
        }
        let Ok(text) = std::str::from_utf8(value) else { continue };
        let text = text.trim();
        let bare = text.trim_matches(['"', '\'']);
        if bare != text {
            variants.push(Variant::of(format!("{place}it is in quotes"), with(copy(bare))));
        }
        for prefix in ["sha256=", "v1=", "sha256:", "hmac-sha256="] {
            if let Some(rest) = strip_prefix(bare, prefix) {
                let mistake = format!("{place}`{prefix}` stands before the hex digits");
                variants.push(Variant::of(mistake, with(copy(rest))));
            }
        }
        let base64 = bare.rsplit_once("256=").map_or(bare, |(_, rest)| rest);
        if let Some(hex) = hex_of_base64(base64) {
            variants.push(Variant::of(format!("{place}it is in base64, and must be in hex"), with(hex)));
        }
    }
    variants
}

fn strip_prefix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

fn copy(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn hex_of_base64(text: &str) -> Option<Bytes> {
    let engines = [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD];
    let digest = engines.iter().find_map(|engine| engine.decode(text).ok())?;
    let hex = |digest: &[u8]| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    (digest.len() == 32).then(|| Bytes::from(hex(&digest)))
}

/// The body as it may have been signed.
fn bodies(body: &Bytes) -> Vec<Variant<Bytes>> {
    const BOM: &[u8] = b"\xef\xbb\xbf";
    let mut variants = vec![Variant::as_it_came(body.clone())];
    let mut add = |mistake: &str, value: Option<Bytes>| {
        variants.extend(value.filter(|value| value != body).map(|value| Variant::of(mistake, value)));
    };
    for end in [&b"\r\n"[..], b"\n"] {
        let cut = body.strip_suffix(end).map(|rest| body.slice_ref(rest));
        add("a line end was added to the body after it was signed", cut);
        add("the body's last line end was cut off after it was signed", Some([body, end].concat().into()));
    }
    let trimmed = body.slice_ref(body.trim_ascii());
    add("white space was added around the body after it was signed", Some(trimmed));
    let without_bom = body.strip_prefix(BOM).map(|rest| body.slice_ref(rest));
    add("a byte order mark was put before the body after it was signed", without_bom);
    add("the body's byte order mark was taken away after it was signed", Some([BOM, body].concat().into()));
    if let Ok(text) = std::str::from_utf8(body) {
        let unix = text.replace("\r\n", "\n");
        add("the body's line ends were made CR LF after it was signed", Some(unix.clone().into()));
        add("the body's line ends were made LF after it was signed", Some(unix.replace('\n', "\r\n").into()));
        let text = text.trim_start_matches('\u{feff}');
        for style in [Style::Compact, Style::Spaced, Style::Indented(2), Style::Indented(4)] {
            for escapes in [Escapes::Kept, Escapes::Ascii, Escapes::Fewest] {
                let again = reformat(text, style, escapes).map(Bytes::from);
                add(
                    "the body was parsed and written again after it was signed: pass its bytes on as they come",
                    again,
                );
            }
        }
    }
    variants
}

/// The keys it may have been signed with.
fn keys(source: &SourceOptions, all: &[SourceOptions]) -> Vec<Variant<(Arc<str>, Key)>> {
    let others = all.iter().filter(|other| other.name != source.name);
    let mut variants = Vec::new();
    for owner in std::iter::once(source).chain(others) {
        for secret in &owner.verify.secrets {
            let label = &secret.label;
            let named = format!("secret `{label}` of source `{}`", owner.name);
            let text = secret.value.expose_secret();
            let foreign = owner.name != source.name;
            let mut add = |mistake: Option<String>, bytes: Option<Vec<u8>>| {
                let Some(bytes) = bytes.map(Zeroizing::new) else { return };
                let mistake = match (foreign, mistake) {
                    (false, mistake) => mistake,
                    (true, None) => Some(format!("it was signed with {named}")),
                    (true, Some(mistake)) => Some(format!("it was signed with {named}; {mistake}")),
                };
                variants.push(Variant { mistake, value: (Arc::clone(label), bytes) });
            };
            add(None, Some(text.as_bytes().to_vec()));
            let bare = text.trim().trim_matches(['"', '\'']);
            let is = |form: &str| Some(format!("the sender {form} {named}"));
            let other = |value: String| (value != text).then(|| value.into_bytes());
            add(is("has no white space or quotes around"), other(bare.to_owned()));
            add(is("has a line end behind"), other(format!("{bare}\n")));
            add(is("has a CR LF behind"), other(format!("{bare}\r\n")));
            add(is("has quotes around"), other(format!("\"{bare}\"")));
            add(is("wrote in lower case"), other(bare.to_ascii_lowercase()));
            add(is("decodes, as if it were hex,"), decode_hex(bare));
            add(is("decodes, as if it were base64,"), STANDARD.decode(bare).ok());
        }
    }
    variants
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let is_hex = text.len().is_multiple_of(2) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hex { text.as_bytes().chunks(2).map(pair).collect() } else { None }
}

/// What else is to the point, whether or not it explains anything.
pub fn remarks(request: &Captured, error: Option<SignatureError>) -> Vec<String> {
    let mut remarks = Vec::new();
    let signatures: Vec<&str> = request
        .headers
        .iter()
        .map(|(name, _)| name.as_str())
        .filter(|name| name.to_ascii_lowercase().contains("signature"))
        .collect();
    match error {
        Some(SignatureError::Missing) if request.headers.is_empty() => {
            remarks.push("no headers were captured".into());
        }
        Some(SignatureError::Missing) if signatures.is_empty() => remarks.push(
            "no header has a signature: a proxy takes it away, or the sender has no secret configured".into(),
        ),
        Some(SignatureError::Mismatch) if request.body.is_empty() => {
            remarks.push("the body is empty: was it captured?".into());
        }
        _ => {}
    }
    if std::str::from_utf8(&request.body).is_err() {
        remarks.push("the body is not UTF-8: it may be compressed, or damaged by the capture".into());
    }
    if request.values("content-encoding").any(|value| !value.eq_ignore_ascii_case(b"identity")) {
        remarks.push("it has a Content-Encoding: the bridge answers 415 to that".into());
    }
    if request.values("idempotency-key").next().is_none() {
        remarks.push(
            "without an Idempotency-Key an event that has no id of its own is published on every retry"
                .into(),
        );
    }
    remarks
}
