//! A Kafka that asks who is there: a second listener with SASL/PLAIN, and access rights.
//!
//! The plain listener stays the administrator's door, so everything else of [`Broker`] works as usual.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::{Broker, free_ports};

/// The one user, who has no rights until [`Secured::allow`].
pub const USER: &str = "bridge";

/// The user's password.
pub const PASSWORD: &str = "bridge-password";

/// A broker with a second, guarded listener.
pub struct Secured {
    /// By its administrator's door.
    pub broker: Broker,
    guarded: String,
}

impl Secured {
    /// A fresh one.
    pub fn start() -> Self {
        let [guarded] = free_ports();
        let broker = Broker::start_where(|client, controller| {
            let doors = format!("PLAIN://127.0.0.1:{client},SASLP://127.0.0.1:{guarded}");
            let login = "org.apache.kafka.common.security.plain.PlainLoginModule";
            let pairs = [
                ("listeners", format!("{doors},CTRL://127.0.0.1:{controller}")),
                ("advertised.listeners", doors),
                (
                    "listener.security.protocol.map",
                    "PLAIN:PLAINTEXT,CTRL:PLAINTEXT,SASLP:SASL_PLAINTEXT".to_owned(),
                ),
                (
                    "authorizer.class.name",
                    "org.apache.kafka.metadata.authorizer.StandardAuthorizer".to_owned(),
                ),
                ("super.users", "User:ANONYMOUS".to_owned()),
                ("sasl.enabled.mechanisms", "PLAIN".to_owned()),
                (
                    "listener.name.saslp.plain.sasl.jaas.config",
                    format!("{login} required user_{USER}=\"{PASSWORD}\";"),
                ),
            ];
            pairs.map(|(name, value)| (name.to_owned(), value)).into()
        });
        Self { broker, guarded: format!("127.0.0.1:{guarded}") }
    }

    /// `host:port` of the guarded listener.
    pub fn bootstrap(&self) -> &str {
        &self.guarded
    }

    /// Grants the user Write and Describe on a topic.
    pub fn allow(&self, topic: &str) {
        const WRITE: u8 = 4;
        const DESCRIBE: u8 = 8;
        for operation in [WRITE, DESCRIBE] {
            create_acl(self.broker.bootstrap(), topic, operation);
        }
    }
}

/// The CreateAcls request, version 1, which the client library has no call for.
/// Source: the Kafka protocol guide.
fn create_acl(bootstrap: &str, topic: &str, operation: u8) {
    const TOPIC: u8 = 2;
    const LITERAL: u8 = 3;
    const ALLOW: u8 = 3;
    let mut request = vec![0, 30, 0, 1, 0, 0, 0, 7];
    text(&mut request, "tests");
    request.extend(1_u32.to_be_bytes());
    request.push(TOPIC);
    text(&mut request, topic);
    request.push(LITERAL);
    text(&mut request, &format!("User:{USER}"));
    text(&mut request, "*");
    request.extend([operation, ALLOW]);

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
