//! The verify stage: valid signatures, and the exact reason for every other.

use std::sync::Arc;
use std::time::Duration;

use attio_bridge::delivery::{Delivery, Header, Headers, SourceName, Unverified};
use attio_bridge::pipeline::verify::SignatureError::{
    self, Malformed, Mismatch, Missing, TimestampMalformed, TimestampMissing, TimestampOutsideTolerance,
};
use attio_bridge::pipeline::verify::{Options, Scheme, Secret, Verifier};
use proptest::prelude::*;
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::support::fixtures;
use crate::support::request::{SECRET, sign};

/// The clock of every test here: that of the vectors.
const NOW: i64 = 1_795_435_200;

const OTHER: &str = "another secret of good length";

/// The label of the secret that matched, or why none did.
type PublishResult = Result<Arc<str>, SignatureError>;

/// A request's headers, by name and value.
type Sent<'a> = &'a [(&'a str, &'a [u8])];

fn verifier(scheme: Scheme, secrets: &[(&str, &str)]) -> Verifier {
    let secret = |(label, value): &(&str, &str)| Secret { label: (*label).into(), value: (*value).into() };
    Verifier::new(&Options {
        scheme,
        timestamp_tolerance: Duration::from_secs(300),
        secrets: secrets.iter().map(secret).collect(),
    })
}

/// The headers of a request, from their names and values as sent.
fn headers(sent: Sent) -> Headers {
    let header = |wanted: &str| {
        let mut values = sent.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        match (values.next(), values.next()) {
            (None, _) => Header::Absent,
            (Some((_, value)), None) => Header::Once(value.to_vec().into()),
            (Some(_), Some(_)) => Header::Repeated,
        }
    };
    Headers {
        attio_signature: header("Attio-Signature"),
        x_attio_signature: header("X-Attio-Signature"),
        timestamp: header("X-Attio-Timestamp"),
        idempotency_key: header("Idempotency-Key"),
    }
}

fn delivery(sent: Sent, body: &[u8], at: OffsetDateTime) -> Delivery<Unverified> {
    let source = SourceName::new("attio").unwrap();
    Delivery::new(source, at, Instant::now(), headers(sent), body.to_vec().into())
}

fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(NOW).unwrap()
}

fn check(verifier: &Verifier, sent: Sent, body: &[u8]) -> PublishResult {
    verifier.verify(delivery(sent, body, now())).map(|delivery| Arc::clone(delivery.secret()))
}

/// The same in scheme `auto` with the usual secret.
fn auto(sent: Sent, body: &[u8]) -> PublishResult {
    check(&verifier(Scheme::Auto, &[("default", SECRET)]), sent, body)
}

#[test]
fn every_signature_vector_gives_its_result() {
    let vectors = fixtures::json("signing-vectors.json");
    assert_eq!(vectors["timestamp"], NOW);
    assert_eq!(vectors["secret"], SECRET);
    let vectors = vectors["vectors"].as_array().unwrap();
    assert!(vectors.len() >= 12);
    for vector in vectors {
        let sent: Vec<(&str, &[u8])> = vector["headers"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str().unwrap().as_bytes()))
            .collect();
        let result = auto(&sent, vector["body"].as_str().unwrap().as_bytes());
        assert_eq!(result.is_ok(), vector["valid"].as_bool().unwrap(), "{}: {result:?}", vector["name"]);
    }
}

const BODY: &[u8] = br#"{"webhook_id":"w","events":[]}"#;

#[test]
fn both_signature_headers_are_accepted_and_must_agree() {
    let good = sign(SECRET, &[BODY]);
    let (good, upper) = (good.as_bytes(), good.to_uppercase());
    let wrong = sign(OTHER, &[BODY]);
    let (plain, x) = ("Attio-Signature", "X-Attio-Signature");
    let ok = Ok("default".into());
    let table: [(Sent, PublishResult); 15] = [
        (&[(plain, good)], ok.clone()),
        (&[(x, good)], ok.clone()),
        (&[(plain, good), (x, good)], ok.clone()),
        (&[(plain, upper.as_bytes())], ok.clone()),
        (&[(plain, upper.as_bytes()), (x, good)], ok),
        (&[], Err(Missing)),
        (&[("Idempotency-Key", good)], Err(Missing)),
        (&[(plain, wrong.as_bytes())], Err(Mismatch)),
        (&[(plain, wrong.as_bytes()), (x, wrong.as_bytes())], Err(Mismatch)),
        (&[(plain, good), (x, wrong.as_bytes())], Err(Malformed)),
        (&[(plain, wrong.as_bytes()), (x, good)], Err(Malformed)),
        (&[(plain, good), (x, b"")], Err(Malformed)),
        (&[(plain, good), (plain, good)], Err(Malformed)),
        (&[(x, good), (x, good)], Err(Malformed)),
        (&[(plain, good), (x, good), (x, good)], Err(Malformed)),
    ];
    for (sent, result) in table {
        assert_eq!(auto(sent, BODY), result, "{sent:?}");
    }
}

#[test]
fn a_signature_is_64_hex_digits_and_nothing_else() {
    let good = sign(SECRET, &[BODY]);
    let full_width = good.replacen(|c: char| c.is_ascii_digit(), "\u{ff11}", 1);
    let table = [
        String::new(),
        good[..63].to_owned(),
        good[..62].to_owned(),
        format!("{good}0"),
        format!("{good}00"),
        format!(" {good}"),
        format!("{good} "),
        format!(" {}", &good[1..]),
        format!("0x{good}"),
        format!("0x{}", &good[2..]),
        format!("+{}", &good[1..]),
        format!("-{}", &good[1..]),
        format!("sha256={good}"),
        format!("v1={good}"),
        format!("\"{good}\""),
        format!("g{}", &good[1..]),
        format!("{},{good}", good),
        full_width[..64].to_owned(),
        full_width,
    ];
    for signature in table {
        assert_eq!(auto(&[("Attio-Signature", signature.as_bytes())], BODY), Err(Malformed), "{signature:?}");
    }
    for byte in (0..=255u8).filter(|byte| !byte.is_ascii_hexdigit()) {
        let mut signature = good.clone().into_bytes();
        signature[17] = byte;
        assert_eq!(auto(&[("X-Attio-Signature", &signature)], BODY), Err(Malformed), "{byte:#x}");
    }
}

#[test]
fn the_label_of_the_secret_that_matched_is_reported() {
    let secrets = [("first", OTHER), ("second", SECRET), ("third", "a third secret, never used")];
    let verifier = verifier(Scheme::Auto, &secrets);
    for (label, secret) in secrets {
        let signature = sign(secret, &[BODY]);
        assert_eq!(check(&verifier, &[("Attio-Signature", signature.as_bytes())], BODY), Ok(label.into()));
    }
    let unknown = sign("not one of them at all", &[BODY]);
    assert_eq!(check(&verifier, &[("Attio-Signature", unknown.as_bytes())], BODY), Err(Mismatch));
}

#[test]
fn a_secret_is_never_decoded_as_hex_or_base64() {
    let decoded: Vec<u8> =
        (0..32).map(|at| u8::from_str_radix(&SECRET[2 * at..2 * at + 2], 16).unwrap()).collect();
    let mut mac = <hmac::Hmac<sha2::Sha256> as hmac::KeyInit>::new_from_slice(&decoded).unwrap();
    hmac::Mac::update(&mut mac, BODY);
    let digest = hmac::Mac::finalize(mac).into_bytes();
    let signature: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(auto(&[("Attio-Signature", signature.as_bytes())], BODY), Err(Mismatch));
}

/// A request signed over `timestamp.body`, in one scheme.
fn timestamped(scheme: Scheme, timestamp: &str, at: OffsetDateTime) -> PublishResult {
    let signature = sign(SECRET, &[timestamp.as_bytes(), b".", BODY]);
    let sent = [("X-Attio-Signature", signature.as_bytes()), ("X-Attio-Timestamp", timestamp.as_bytes())];
    let verified = verifier(scheme, &[("default", SECRET)]).verify(delivery(&sent, BODY, at))?;
    Ok(Arc::clone(verified.secret()))
}

#[test]
fn a_timestamp_is_accepted_within_the_tolerance_both_ways() {
    let ok = Ok("default".into());
    let outside = Err(TimestampOutsideTolerance);
    let millis = |offset: i64| (NOW * 1000 + offset).to_string();
    let seconds = |offset: i64| (NOW + offset).to_string();
    let table = [
        (seconds(0), &ok),
        (seconds(-300), &ok),
        (seconds(300), &ok),
        (seconds(-301), &outside),
        (seconds(301), &outside),
        ("0000000000".into(), &outside),
        ("9999999999".into(), &outside),
        (millis(0), &ok),
        (millis(-300_000), &ok),
        (millis(300_000), &ok),
        (millis(-300_001), &outside),
        (millis(300_001), &outside),
        ("9999999999999".into(), &outside),
        ("0000000000000".into(), &outside),
    ];
    for scheme in [Scheme::Auto, Scheme::Timestamped] {
        for (timestamp, result) in &table {
            assert_eq!(timestamped(scheme, timestamp, now()), **result, "{scheme:?} {timestamp}");
        }
    }
    let late_in_the_second = now() + Duration::from_millis(999);
    assert_eq!(timestamped(Scheme::Auto, &seconds(-300), late_in_the_second), ok);
    assert_eq!(timestamped(Scheme::Auto, &millis(-300_000), late_in_the_second), outside);
}

#[test]
fn a_timestamp_is_10_or_13_digits_and_nothing_else() {
    let table = [
        "",
        "0",
        "179543520",
        "17954352000",
        "179543520000",
        "17954352000000",
        "-179543520",
        "+179543520",
        " 179543520",
        "179543520 ",
        "1795435200.0",
        "1.79543520",
        "1795435e10",
        "0x17954352",
        "179543520x",
        "2026-11-23",
        "{\"webhook\"",
        "\u{ff11}795435200",
        "1795435200000\n",
    ];
    for timestamp in table {
        for scheme in [Scheme::Auto, Scheme::Timestamped] {
            let result = timestamped(scheme, timestamp, now());
            assert_eq!(result, Err(TimestampMalformed), "{scheme:?} {timestamp:?}");
        }
    }
}

#[test]
fn a_repeated_timestamp_header_is_refused() {
    let timestamp = NOW.to_string();
    let signature = sign(SECRET, &[timestamp.as_bytes(), b".", BODY]);
    let stamp = ("X-Attio-Timestamp", timestamp.as_bytes());
    let sent = [("Attio-Signature", signature.as_bytes()), stamp, stamp];
    assert_eq!(auto(&sent, BODY), Err(TimestampMalformed));
}

#[test]
fn the_scheme_decides_what_is_signed() {
    let timestamp = NOW.to_string();
    let plain = sign(SECRET, &[BODY]);
    let stamped = sign(SECRET, &[timestamp.as_bytes(), b".", BODY]);
    let ok = Ok("default".into());
    let table = [
        (Scheme::Attio, &plain, false, ok.clone()),
        // In Attio's own scheme the header means nothing.
        (Scheme::Attio, &plain, true, ok.clone()),
        (Scheme::Attio, &stamped, true, Err(Mismatch)),
        (Scheme::Timestamped, &stamped, true, ok.clone()),
        (Scheme::Timestamped, &stamped, false, Err(TimestampMissing)),
        (Scheme::Timestamped, &plain, false, Err(TimestampMissing)),
        (Scheme::Timestamped, &plain, true, Err(Mismatch)),
        (Scheme::Auto, &plain, false, ok.clone()),
        (Scheme::Auto, &plain, true, Err(Mismatch)),
        (Scheme::Auto, &stamped, true, ok),
        (Scheme::Auto, &stamped, false, Err(Mismatch)),
    ];
    for (scheme, signature, with_timestamp, result) in table {
        let mut sent = vec![("Attio-Signature", signature.as_bytes())];
        if with_timestamp {
            sent.push(("X-Attio-Timestamp", timestamp.as_bytes()));
        }
        let got = check(&verifier(scheme, &[("default", SECRET)]), &sent, BODY);
        assert_eq!(got, result, "{scheme:?}, timestamp sent: {with_timestamp}");
    }
}

#[test]
fn an_attio_request_cut_at_a_dot_is_refused_as_timestamped() {
    let mut cuts = 0;
    for (name, body) in fixtures::deliveries() {
        let signature = sign(SECRET, &[&body]);
        for at in (0..body.len()).filter(|at| body[*at] == b'.') {
            let (left, right) = (&body[..at], &body[at + 1..]);
            for scheme in [Scheme::Auto, Scheme::Timestamped] {
                let sent = [("Attio-Signature", signature.as_bytes()), ("X-Attio-Timestamp", left)];
                let result = check(&verifier(scheme, &[("default", SECRET)]), &sent, right);
                assert_eq!(result, Err(TimestampMalformed), "{name} cut at {at}, {scheme:?}");
            }
            cuts += 1;
        }
    }
    assert!(cuts > 70, "only {cuts} dots");
}

#[test]
fn a_timestamped_request_is_refused_as_attio_scheme() {
    for (name, body) in fixtures::deliveries() {
        for timestamp in [NOW.to_string(), (NOW * 1000).to_string()] {
            let spliced = [timestamp.as_bytes(), b".", &body].concat();
            let signature = sign(SECRET, &[&spliced]);
            for scheme in [Scheme::Auto, Scheme::Attio] {
                let sent = [("X-Attio-Signature", signature.as_bytes())];
                let result = check(&verifier(scheme, &[("default", SECRET)]), &sent, &spliced);
                assert_eq!(result, Err(Mismatch), "{name}, {scheme:?}");
            }
        }
    }
}

#[test]
fn no_splice_of_a_thousand_bodies_passes_in_the_other_scheme() {
    let verifier = verifier(Scheme::Auto, &[("default", SECRET)]);
    let bodies: Vec<Vec<u8>> = fixtures::deliveries().into_iter().map(|(_, body)| body).collect();
    let mut cuts = 0;
    for at in 0..1000 {
        let mut body = bodies[at % bodies.len()].clone();
        // Real ones hold dots in their times; these hold one more, each elsewhere.
        body.truncate(600);
        let dot = at % body.len();
        body[dot] = b'.';
        let plain = sign(SECRET, &[&body]);
        let timestamp = NOW.to_string();
        let stamped = [timestamp.as_bytes(), b".", &body].concat();
        let of_stamped = sign(SECRET, &[&stamped]);
        let step = crate::support::stress(7, 1);
        let positions = |text: &[u8]| -> Vec<usize> {
            let text = text.to_vec();
            (0..text.len()).filter(|at| text[*at] == b'.' || at % step == 0).collect()
        };
        let sent = |signature: &str, timestamp: &[u8], body: &[u8]| {
            let sent = [("X-Attio-Signature", signature.as_bytes()), ("X-Attio-Timestamp", timestamp)];
            auto_is_refused(&verifier, &sent, body)
        };
        for cut in positions(&body) {
            assert!(sent(&plain, &body[..cut], &body[cut..]), "cut {cut} of body {at}");
            assert!(sent(&plain, &body[..cut], &body[cut + 1..]), "cut {cut} of body {at}");
            cuts += 2;
        }
        for cut in positions(&stamped).into_iter().filter(|cut| *cut != timestamp.len()) {
            assert!(sent(&of_stamped, &stamped[..cut], &stamped[cut + 1..]), "cut {cut} of request {at}");
            cuts += 1;
        }
        for from in [0, 1, timestamp.len(), timestamp.len() + 1] {
            let headers = [("X-Attio-Signature", of_stamped.as_bytes())];
            assert!(auto_is_refused(&verifier, &headers, &stamped[from..]), "from {from} of request {at}");
        }
    }
    println!("{cuts} cuts");
}

fn auto_is_refused(verifier: &Verifier, sent: Sent, body: &[u8]) -> bool {
    check(verifier, sent, body).is_err()
}

proptest! {
    #[test]
    fn any_flipped_bit_is_refused(
        body in prop::collection::vec(any::<u8>(), 1..400),
        stamped: bool,
        place: prop::sample::Index,
        bit in 0..8u8,
    ) {
        let timestamp = NOW.to_string();
        let parts: &[&[u8]] = if stamped { &[timestamp.as_bytes(), b".", &body] } else { &[&body] };
        let signature = sign(SECRET, parts).into_bytes();
        let verify = |signature: &[u8], timestamp: &[u8], body: &[u8]| {
            let mut sent = vec![("Attio-Signature", signature)];
            if stamped {
                sent.push(("X-Attio-Timestamp", timestamp));
            }
            auto(&sent, body)
        };
        let flipped = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            let at = place.index(bytes.len());
            bytes[at] ^= 1 << bit;
            bytes
        };
        prop_assert!(verify(&signature, timestamp.as_bytes(), &body).is_ok());
        prop_assert!(verify(&signature, timestamp.as_bytes(), &flipped(&body)).is_err());
        prop_assert!(verify(&signature, timestamp.as_bytes(), &body[..body.len() - 1]).is_err());
        // A letter of a hex digit keeps its meaning in the other case.
        let bent = flipped(&signature);
        if !bent.eq_ignore_ascii_case(&signature) {
            prop_assert!(verify(&bent, timestamp.as_bytes(), &body).is_err());
        }
        if stamped {
            prop_assert!(verify(&signature, &flipped(timestamp.as_bytes()), &body).is_err());
        }
    }

    #[test]
    fn another_secret_is_refused(secret in "[ -~]{1,80}", body in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assume!(secret != SECRET);
        let signature = sign(&secret, &[&body]);
        prop_assert_eq!(auto(&[("Attio-Signature", signature.as_bytes())], &body), Err(Mismatch));
    }
}
