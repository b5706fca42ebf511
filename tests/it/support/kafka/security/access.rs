//! Access rules and passwords, by the two requests that the client library has no calls for.
//!
//! Source: the Kafka protocol guide, CreateAcls version 1, AlterUserScramCredentials version 0.

use std::io::{Read, Write};
use std::net::TcpStream;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha512;

/// What a rule allows.
#[derive(Clone, Copy, Debug)]
pub enum Operation {
    Read = 3,
    Write = 4,
    Create = 5,
    Describe = 8,
    DescribeConfigs = 10,
}

/// Which topics a rule is about.
#[derive(Clone, Copy, Debug)]
pub enum Topics<'a> {
    /// The one of that name.
    Named(&'a str),
    /// Every one that begins so.
    Prefixed(&'a str),
}

/// Allows a user something.
pub fn allow(bootstrap: &str, user: &str, operation: Operation, topics: Topics<'_>) {
    const TOPIC: u8 = 2;
    const ALLOW: u8 = 3;
    let (name, pattern) = match topics {
        Topics::Named(name) => (name, 3),
        Topics::Prefixed(prefix) => (prefix, 4),
    };
    let mut request = vec![0, 30, 0, 1, 0, 0, 0, 7];
    text(&mut request, "tests");
    request.extend(1_u32.to_be_bytes());
    request.push(TOPIC);
    text(&mut request, name);
    request.push(pattern);
    text(&mut request, &format!("User:{user}"));
    text(&mut request, "*");
    request.extend([operation as u8, ALLOW]);
    let answer = ask(bootstrap, &request);
    // Correlation id, throttle time, number of results; then the first result's error code.
    assert_eq!(answer[12..14], [0, 0], "the access rule is not made: {answer:?}");
}

/// Sets the password with which a user logs in by SCRAM-SHA-512.
pub fn set_password(bootstrap: &str, user: &str, password: &str) {
    const SHA_512: u8 = 2;
    const ITERATIONS: u32 = 4096;
    let salt = b"a salt of the tests";
    let compact = |out: &mut Vec<u8>, bytes: &[u8]| {
        out.push(u8::try_from(bytes.len() + 1).expect("less than 127 bytes"));
        out.extend(bytes);
    };
    let mut request = vec![0, 51, 0, 0, 0, 0, 0, 7];
    text(&mut request, "tests");
    // No tags, no deletions, one upsertion.
    request.extend([0, 1, 2]);
    compact(&mut request, user.as_bytes());
    request.push(SHA_512);
    request.extend(ITERATIONS.to_be_bytes());
    compact(&mut request, salt);
    compact(&mut request, &salted(password, salt, ITERATIONS));
    request.extend([0, 0]);
    let answer = ask(bootstrap, &request);
    // Correlation id, tags, throttle time, number of results, the user's name; then its error code.
    let at = 11 + user.len();
    assert_eq!(answer[at..at + 2], [0, 0], "the password is not set: {answer:?}");
}

/// `Hi` of RFC 5802 with SHA-512.
fn salted(password: &str, salt: &[u8], iterations: u32) -> Vec<u8> {
    let hash = |bytes: &[u8]| {
        let mut mac = Hmac::<Sha512>::new_from_slice(password.as_bytes()).expect("a key of any length");
        mac.update(bytes);
        mac.finalize().into_bytes().to_vec()
    };
    let mut last = hash(&[salt, &1_u32.to_be_bytes()].concat());
    let mut sum = last.clone();
    for _ in 1..iterations {
        last = hash(&last);
        sum.iter_mut().zip(&last).for_each(|(sum, byte)| *sum ^= byte);
    }
    sum
}

fn ask(bootstrap: &str, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(bootstrap).expect("the broker is there");
    let length = u32::try_from(request.len()).expect("a short request").to_be_bytes();
    stream.write_all(&length).and_then(|()| stream.write_all(request)).expect("the request is sent");
    let mut length = [0; 4];
    stream.read_exact(&mut length).expect("the broker answers");
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer).expect("the broker answers");
    answer
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend(u16::try_from(text.len()).expect("a short text").to_be_bytes());
    out.extend(text.as_bytes());
}
