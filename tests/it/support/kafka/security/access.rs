//! Access rules, by the one request that the client library has no call for.
//!
//! Source: the Kafka protocol guide, CreateAcls version 1.

use std::io::{Read, Write};
use std::net::TcpStream;

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

    let mut stream = TcpStream::connect(bootstrap).expect("the broker is there");
    let length = u32::try_from(request.len()).expect("a short request").to_be_bytes();
    stream.write_all(&length).and_then(|()| stream.write_all(&request)).expect("the request is sent");
    let mut length = [0; 4];
    stream.read_exact(&mut length).expect("the broker answers");
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer).expect("the broker answers");
    // Correlation id, throttle time, number of results; then the first result's error code.
    assert_eq!(answer[12..14], [0, 0], "the access rule is not made: {answer:?}");
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend(u16::try_from(text.len()).expect("a short text").to_be_bytes());
    out.extend(text.as_bytes());
}
