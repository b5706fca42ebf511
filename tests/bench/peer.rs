//! A foreign program that takes webhooks, measured like the bridge: given by its command.

use std::process::Command;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::server::Server;
use crate::support::ports::free_ports;
use crate::support::request::{SECRET, sign};

/// How the names of their rows begin.
pub const PEER: &str = "peer ";

/// `NAME[:SCHEME][/PATH]=COMMAND`.
#[derive(Clone, Debug)]
pub struct Peer {
    name: String,
    /// How its requests are signed.
    pub scheme: Scheme,
    /// Where they go.
    pub path: String,
    command: String,
}

/// How a request is signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// Attio's: HMAC-SHA256 over the body, in hex.
    #[default]
    Attio,
    /// Standard Webhooks 1.0.0: HMAC-SHA256 over `id.timestamp.body`, in base64. Receivers allow five minutes.
    StandardWebhooks,
    /// Not at all.
    None,
}

impl Scheme {
    const ALL: [Self; 3] = [Self::Attio, Self::StandardWebhooks, Self::None];

    /// Its word on the command line and in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Attio => "attio",
            Self::StandardWebhooks => "standard-webhooks",
            Self::None => "none",
        }
    }

    /// The headers of a body's signature, each with its line end.
    pub fn headers(self, body: &[u8]) -> String {
        match self {
            Self::Attio => {
                let signature = sign(SECRET, &[body]);
                format!("Attio-Signature: {signature}\r\nX-Attio-Signature: {signature}\r\n")
            }
            Self::StandardWebhooks => {
                let id = format!("msg_{:032x}", fastrand::u128(..));
                let timestamp = time::OffsetDateTime::now_utc().unix_timestamp();
                let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any length will do");
                mac.update(format!("{id}.{timestamp}.").as_bytes());
                mac.update(body);
                let signature = BASE64_STANDARD.encode(mac.finalize().into_bytes());
                format!(
                    "webhook-id: {id}\r\nwebhook-timestamp: {timestamp}\r\nwebhook-signature: v1,{signature}\r\n"
                )
            }
            Self::None => String::new(),
        }
    }

    /// The secret as the receiver is given it.
    fn secret(self) -> String {
        match self {
            Self::StandardWebhooks => format!("whsec_{}", BASE64_STANDARD.encode(SECRET)),
            _ => SECRET.to_owned(),
        }
    }
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (left, command) = text.split_once('=').ok_or("a peer is NAME[:SCHEME][/PATH]=COMMAND")?;
        let (left, path) = match left.find('/') {
            Some(at) => (&left[..at], &left[at..]),
            None => (left, "/webhooks/attio"),
        };
        let (name, scheme) = left.split_once(':').unwrap_or((left, Scheme::default().name()));
        let scheme = Scheme::ALL.into_iter().find(|known| known.name() == scheme).ok_or_else(|| {
            let names = Scheme::ALL.map(Scheme::name).join(", ");
            format!("unknown signature scheme {scheme}: use one of {names}")
        })?;
        if name.is_empty() || command.trim().is_empty() {
            return Err("a peer has a name and a command".into());
        }
        Ok(Self { name: name.into(), scheme, path: path.into(), command: command.into() })
    }
}

impl Peer {
    /// Its row in the report.
    pub fn row(&self) -> String {
        format!("{PEER}{} ({})", self.name, self.scheme.name())
    }

    /// Runs its command in a shell, with `PORT`, `SECRET`, `KAFKA_BROKERS`, `KAFKA_TOPIC` and `NATS_URL` set. `exec`
    /// at the end of the command makes the figures those of the program.
    pub fn start(&self, bootstrap: &str, topic: &str, nats: &str) -> Server {
        let [port] = free_ports();
        let mut command = Command::new("sh");
        command
            .args(["-c", &self.command])
            .env("PORT", port.to_string())
            .env("SECRET", self.scheme.secret())
            .env("KAFKA_BROKERS", bootstrap)
            .env("KAFKA_TOPIC", topic)
            .env("NATS_URL", nats);
        Server::start(&self.row(), command, port)
    }
}
