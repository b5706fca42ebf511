//! Connecting: from the options to a client, and the login at every connect.

use std::collections::HashMap;
use std::fmt::Display;
use std::future::ready;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_nats::rustls::pki_types::pem::PemObject;
use async_nats::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use async_nats::rustls::{ClientConfig, RootCertStore};
use async_nats::{
    Auth as AuthReply, AuthError, Client, ConnectOptions, Event, ReconnectToServer, Server, ServerAddr,
};
use futures_util::FutureExt;
use humantime::format_duration;
use nkeys::{KeyPair, KeyPairType};
use parking_lot::Mutex;
use secrecy::ExposeSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::errors::with_advice;
use super::health::Health;
use super::{Auth, Options};
use crate::bus::error::StartError;
use crate::files;

/// Messages in flight; more are answered `Busy`. One delivery has at most 10,000 events. The client's own
/// queue holds as many.
pub(super) const MAX_IN_FLIGHT: usize = 16_384;
/// A silent server is given up after three of these, before the publish timeout.
const PING_INTERVAL: Duration = Duration::from_secs(3);
/// One attempt to connect. Short, because a server that is back is not tried while another hangs.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long reading a file may take at a reconnect.
const FILE_TIMEOUT: Duration = Duration::from_secs(2);
/// The client's attempts in [`connect_once`], whatever the number of servers.
const CONNECT_ONCE_TIMEOUT: Duration = Duration::from_secs(6);
/// How long something that listens may take to speak as a NATS server does.
const GREETING_TIMEOUT: Duration = Duration::from_millis(1500);

/// Creates a client that connects in the background, for ever.
pub(super) async fn connect(options: &Options, health: &Arc<Health>) -> Result<Client, StartError> {
    let (events, attempts, tries) = (Arc::clone(health), Arc::clone(health), Mutex::<Tries>::default());
    let settings = connect_options(options, move |event| events.on_event(&event))?
        .retry_on_initial_connect()
        .reconnect_to_server_callback(move |servers, _| {
            let configured = servers.iter().filter(|server| !server.is_discovered);
            if let Some(error) = configured.chain(&servers).find_map(|server| server.last_error.as_deref()) {
                attempts.on_error(error);
            }
            let next = tries.lock().next(&servers, attempts.losses());
            ready(next.map(|addr| ReconnectToServer { addr, delay: None }))
        });
    let client = settings.connect(server_addresses(&options.servers)?).await;
    client.map_err(|error| StartError::setting_of("nats.servers", error))
}

/// A client for the dedup store, which connects in the background, for ever.
pub async fn client(options: &Options) -> Result<Client, StartError> {
    let settings = connect_options(options, drop)?.retry_on_initial_connect();
    let client = settings.connect(server_addresses(&options.servers)?).await;
    client.map_err(|error| StartError::setting_of("nats.servers", error))
}

/// The attempts to connect since a connection was lost.
#[derive(Default)]
struct Tries {
    losses: u64,
    count: usize,
    of: HashMap<ServerAddr, u32>,
    /// The servers are tried in another order by every bridge.
    order: RandomState,
}

impl Tries {
    /// The next server: every configured one, then one that the cluster has told of, and so on. A cluster may tell
    /// of addresses that only its own servers reach, so each is tried the more seldom the more often it failed.
    fn next(&mut self, servers: &[Server], losses: u64) -> Option<ServerAddr> {
        if self.losses != losses {
            *self = Self { losses, ..Self::default() };
        }
        let tries = |server: &Server| self.of.get(&server.addr).copied().unwrap_or(0);
        let configured = || servers.iter().filter(|server| !server.is_discovered);
        let round = configured().count() + 1;
        let (round, is_last) = (self.count / round, self.count % round == round - 1);
        let is_due = |server: &&Server| {
            let failed = server.failed_attempts.max(tries(server) as usize).min(6);
            server.is_discovered && is_last && round + 1 >= 4 << failed
        };
        let discovered = servers.iter().filter(is_due).min_by_key(|server| tries(server));
        let first =
            |server: &&Server| (tries(server), server.failed_attempts, self.order.hash_one(&server.addr));
        let next = discovered.or_else(|| configured().min_by_key(first))?.addr.clone();
        self.count += 1;
        *self.of.entry(next.clone()).or_default() += 1;
        Some(next)
    }
}

/// Connects a client of a verb other than `serve`, or a second one. The inner error is why no server can be
/// reached, and what to do about it.
pub(super) async fn connect_once(
    options: &Options,
    on_event: impl Fn(Event) + Send + Sync + 'static,
) -> Result<Result<Client, String>, StartError> {
    let settings = connect_options(options, on_event)?;
    let connecting = settings.connect(server_addresses(&options.servers)?);
    let foreign = foreign_peer(options).shared();
    let error = tokio::select! {
        connected = connecting => match connected {
            Ok(client) => return Ok(Ok(client)),
            Err(error) => error.to_string(),
        },
        Some(peer) = foreign.clone() => return Ok(Err(peer)),
        () = tokio::time::sleep(CONNECT_ONCE_TIMEOUT) => {
            format!("no reply within {}", format_duration(CONNECT_ONCE_TIMEOUT))
        }
    };
    Ok(Err(foreign.await.unwrap_or_else(|| with_advice(&error))))
}

/// What listens at the configured addresses, if something does and nothing of it is a NATS server.
pub(super) async fn foreign_peer(options: &Options) -> Option<String> {
    let mut found = None;
    for server in server_addresses(&options.servers).ok()? {
        let (host, port) = (server.host(), server.port());
        let Ok(Ok(peer)) = timeout(GREETING_TIMEOUT, TcpStream::connect((host, port))).await else {
            continue;
        };
        // Without a greeting the connection was lost.
        let Ok(what) = greeting(peer).await else { continue };
        found = Some(format!(
            "{} listens at {host}:{port}: nats.servers needs the client port of a NATS server, 4222 by default",
            what?
        ));
    }
    found
}

/// What a peer is, by its first words; none for a NATS server, which speaks first.
async fn greeting(mut peer: TcpStream) -> io::Result<Option<&'static str>> {
    let mut first = [0; 5];
    match timeout(GREETING_TIMEOUT, peer.read_exact(&mut first)).await {
        Ok(read) => {
            read?;
            return Ok((&first != b"INFO ").then_some("something that is no NATS server"));
        }
        Err(_) => peer.write_all(b"GET / HTTP/1.0\r\n\r\n").await?,
    }
    Ok(Some(match timeout(GREETING_TIMEOUT, peer.read_exact(&mut first)).await {
        Ok(Ok(_)) if &first == b"HTTP/" => "an HTTP server",
        _ => "something that does not speak first, as a NATS server does (Kafka, or a server that hangs),",
    }))
}

/// Checks that a client can be created from these options, without contacting a server.
pub fn check(options: &Options) -> Result<(), StartError> {
    server_addresses(&options.servers)?;
    connect_options(options, drop).map(drop)
}

/// Host and port of every server.
pub(super) fn server_names(options: &Options) -> Result<String, StartError> {
    let name = |server: ServerAddr| format!("{}:{}", server.host(), server.port());
    Ok(server_addresses(&options.servers)?.into_iter().map(name).collect::<Vec<_>>().join(","))
}

fn server_addresses(servers: &[String]) -> Result<Vec<ServerAddr>, StartError> {
    let parse = |text: &String| {
        if text.contains(|c: char| c.is_whitespace() || ";|".contains(c)) {
            return Err(format!(
                "servers are separated by commas, as in nats://a:4222,nats://b:4222, not {text:?}"
            ));
        }
        let scheme = text.split_once("://").map_or("nats".into(), |(scheme, _)| scheme.to_ascii_lowercase());
        if !matches!(scheme.as_str(), "nats" | "tls") {
            return Err(format!("a server address begins with nats:// or tls://, not {scheme}://"));
        }
        let server: ServerAddr = text.parse().map_err(|error: io::Error| error.to_string())?;
        if server.has_user_pass() || server.password().is_some() {
            return Err("a server address contains no user: set nats.username and nats.password".to_owned());
        }
        let url = server.clone().into_inner();
        let of_host = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        let is_host = !server.host().is_empty() && server.host().chars().all(of_host);
        match is_host && matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none() {
            true => Ok(server),
            false => Err(format!(
                "a server address is a host and a port, as in nats://localhost:4222, not {text:?}"
            )),
        }
    };
    let parsed: Result<_, String> = servers.iter().map(parse).collect();
    parsed.map_err(|reason| StartError::setting_of("nats.servers", reason))
}

fn connect_options(
    options: &Options,
    on_event: impl Fn(Event) + Send + Sync + 'static,
) -> Result<ConnectOptions, StartError> {
    let settings = login(options.auth.as_ref())?
        .name("attio-bridge")
        .connection_timeout(CONNECT_TIMEOUT)
        .ping_interval(PING_INTERVAL)
        .client_capacity(MAX_IN_FLIGHT)
        .reconnect_delay_callback(backoff)
        .event_callback(move |event| {
            on_event(event);
            ready(())
        });
    let settings = match options.ignore_discovered_servers {
        true => settings.ignore_discovered_servers(),
        false => settings,
    };
    tls(settings, options)
}

/// 0, 20, 40, 80, … at most 500 ms: a server that is back is found at once.
fn backoff(attempt: usize) -> Duration {
    match u32::try_from(attempt).unwrap_or(u32::MAX) {
        0 | 1 => Duration::ZERO,
        attempt => Duration::from_millis(10_u64.saturating_mul(2_u64.saturating_pow(attempt - 1)).min(500)),
    }
}

/// The client reads these files at every connect. They are parsed here too, so that a bad one is reported at
/// the start.
fn tls(mut settings: ConnectOptions, options: &Options) -> Result<ConnectOptions, StartError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &options.ca_file {
        for certificate in certificates("nats.ca_file", path)? {
            roots.add(certificate).map_err(|error| unusable("nats.ca_file", path, error))?;
        }
        settings = settings.add_root_certificates(path.clone()).require_tls(true);
    }
    if let (Some(cert), Some(key)) = (&options.cert_file, &options.key_file) {
        let chain = certificates("nats.cert_file", cert)?;
        let private = PrivateKeyDer::from_pem_slice(&read("nats.key_file", key)?)
            .map_err(|error| unusable("nats.key_file", key, error))?;
        ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, private)
            .map_err(|error| unusable("nats.key_file", key, error))?;
        settings = settings.add_client_certificate(cert.clone(), key.clone()).require_tls(true);
    }
    Ok(settings)
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(key, path)?).collect();
    match found {
        Ok(found) if found.is_empty() => Err(unusable(key, path, "it holds no certificate in PEM form")),
        found => found.map_err(|error| unusable(key, path, error)),
    }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, StartError> {
    files::read_regular(path, files::MAX_BYTES).map_err(StartError::file(key, path))
}

fn unusable(key: &'static str, path: &Path, reason: impl Display) -> StartError {
    StartError::setting_of(key, format!("{} cannot be used: {reason}", path.display()))
}

/// Connect options that log in. Files are read at every connect, so that rotated credentials need no restart,
/// and checked here.
fn login(auth: Option<&Auth>) -> Result<ConnectOptions, StartError> {
    match auth {
        None => Ok(ConnectOptions::new()),
        Some(Auth::Token(token)) => Ok(ConnectOptions::with_token(token.expose_secret().to_owned())),
        Some(Auth::User { username, password }) => {
            let password = password.expose_secret().to_owned();
            Ok(ConnectOptions::with_user_and_password(username.clone(), password))
        }
        Some(Auth::CredsFile(path)) => login_with_file("nats.creds_file", path, sign_with_creds),
        Some(Auth::NkeyFile(path)) => login_with_file("nats.nkey_file", path, sign_with_nkey),
    }
}

/// Signs the server's nonce with the key in the text of a file.
type Signer = fn(&str, &[u8]) -> Result<AuthReply, String>;

fn login_with_file(key: &'static str, path: &Path, sign: Signer) -> Result<ConnectOptions, StartError> {
    let text = String::from_utf8_lossy(&read(key, path)?).into_owned();
    sign(&text, b"nonce").map_err(|reason| StartError::setting_of(key, reason))?;
    let path: Arc<Path> = path.into();
    let reads = Arc::new(Semaphore::new(1));
    Ok(ConnectOptions::with_auth_callback(move |nonce| {
        let (path, text) = (Arc::clone(&path), read_bounded(Arc::clone(&path), Arc::clone(&reads)));
        async move {
            let reply = text
                .await
                .map_err(|error| format!("{key}: cannot read {}: {error}", path.display()))
                .and_then(|text| sign(&text, &nonce).map_err(|reason| format!("{key}: {reason}")));
            reply.map_err(AuthError::new)
        }
    }))
}

/// Reads a file on a blocking thread: reading from a network file system that is gone can block for ever. One
/// read at a time, so that a read that hangs holds one thread and no more.
async fn read_bounded(path: Arc<Path>, reads: Arc<Semaphore>) -> io::Result<String> {
    let read = async {
        // The semaphore is never closed.
        let permit = reads.acquire_owned().await;
        let blocking = move || {
            let text = files::read_regular(&path, files::MAX_SECRET_BYTES)
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            drop(permit);
            text
        };
        spawn_blocking(blocking).await.unwrap_or_else(|error| Err(io::Error::other(error)))
    };
    let late = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "it could not be read within 2 s"));
    timeout(FILE_TIMEOUT, read).await.unwrap_or_else(late)
}

/// With a credentials file: a JWT and the seed that signs for it, each in its frame.
fn sign_with_creds(text: &str, nonce: &[u8]) -> Result<AuthReply, String> {
    let mut reply = AuthReply::new();
    reply.jwt = Some(framed(text, "NATS USER JWT").ok_or("holds no user JWT")?.to_owned());
    let seed = framed(text, "USER NKEY SEED").ok_or("holds no nkey seed")?;
    reply.signature = Some(sign(seed, nonce)?.1);
    Ok(reply)
}

/// With a file that holds a seed.
fn sign_with_nkey(text: &str, nonce: &[u8]) -> Result<AuthReply, String> {
    let seed = text.lines().map(str::trim).find(|line| line.starts_with('S'));
    let (public, signature) = sign(seed.ok_or("holds no nkey seed")?, nonce)?;
    let mut reply = AuthReply::new();
    (reply.nkey, reply.signature) = (Some(public), Some(signature));
    Ok(reply)
}

/// The public key of a user's seed, and its signature.
fn sign(seed: &str, nonce: &[u8]) -> Result<(String, Vec<u8>), String> {
    let pair = KeyPair::from_seed(seed).map_err(|error| format!("its nkey seed is unusable: {error}"))?;
    if !matches!(pair.key_pair_type(), KeyPairType::User) {
        return Err("its nkey seed is not a user's: a user's begins with SU".into());
    }
    let signature = pair.sign(nonce).map_err(|error| format!("its nkey seed cannot sign: {error}"))?;
    Ok((pair.public_key(), signature))
}

/// The line after `-----BEGIN <name>-----`.
fn framed<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let begin = format!("BEGIN {name}");
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| line.starts_with("---") && line.contains(&begin))?;
    lines.next().filter(|line| !line.is_empty() && !line.starts_with("---"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(change: impl FnOnce(&mut Options)) -> String {
        let mut options = Options::new(["localhost:4222"]);
        change(&mut options);
        check(&options).unwrap_err().to_string()
    }

    #[test]
    fn backoff_is_short_and_bounded() {
        assert_eq!([0, 1, 2, 3, 4].map(|n| backoff(n).as_millis()), [0, 0, 20, 40, 80]);
        assert_eq!(backoff(1000).as_millis(), 500);
    }

    fn server(address: &str, is_discovered: bool, failed_attempts: usize) -> Server {
        let addr = address.parse().unwrap();
        Server { addr, failed_attempts, did_connect: false, is_discovered, last_error: None }
    }

    #[test]
    fn configured_servers_are_tried_before_and_between_discovered_ones() {
        let pool = |failed| {
            [
                server("a", false, 0),
                server("b", false, 0),
                server("x", true, failed),
                server("y", true, failed),
            ]
        };
        let mut tries = Tries::default();
        let mut tried = |failed, count| -> Vec<String> {
            (0..count).map(|_| tries.next(&pool(failed), 0).unwrap().host().to_owned()).collect()
        };
        let first = tried(0, 15);
        assert!(first[..2].contains(&"a".into()) && first[..2].contains(&"b".into()), "{first:?}");
        assert_eq!([&first[11], &first[14]], ["x", "y"], "{first:?}");
        let later = tried(1, 105);
        let discovered = later.iter().filter(|host| ["x", "y"].contains(&host.as_str())).count();
        assert!((4..=10).contains(&discovered), "{later:?}");
        assert!(
            ["a", "b"].contains(&tries.next(&pool(5), 1).unwrap().host()),
            "a new outage begins with those"
        );
    }

    #[test]
    fn server_names_are_host_and_port() {
        let options = Options::new(["nats://a", "tls://b:4333", "c:1"]);
        assert_eq!(server_names(&options).unwrap(), "a:4222,b:4333,c:1");
    }

    #[test]
    fn setting_that_no_client_can_be_created_from_is_reported_with_its_key() {
        assert!(check(&Options::new(["localhost", "NATS://a:4222/", "[::1]:4222"])).is_ok());
        assert!(reason(|o| o.servers = vec!["http://a".into()]).starts_with("nats.servers: "));
        for scheme in ["ws", "https", "kafka"] {
            let refused = reason(|o| o.servers = vec![format!("{scheme}://a:1")]);
            assert!(refused.contains("nats:// or tls://") && refused.contains(scheme), "{refused}");
        }
        for text in ["nats://", "a:4222/b", "a,b", "a:4222?tls=true", "a b:4222", "a:port"] {
            assert!(reason(|o| o.servers = vec![text.into()]).starts_with("nats.servers: "), "{text}");
        }
        let with_user = reason(|o| o.servers = vec!["nats://me:secret@a".into()]);
        assert!(with_user.contains("nats.username") && !with_user.contains("secret"), "{with_user}");
        assert!(reason(|o| o.ca_file = Some("/not/there".into())).contains("nats.ca_file: cannot read"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "no certificate").unwrap();
        assert!(reason(|o| o.ca_file = Some(path.clone())).contains("holds no certificate"));
        let nkey = reason(|o| o.auth = Some(Auth::NkeyFile(path.clone())));
        assert_eq!(nkey, "nats.nkey_file: holds no nkey seed");
    }

    fn creds(seed: &str) -> String {
        format!(
            "-----BEGIN NATS USER JWT-----\r\nabc.def.ghi\r\n------END NATS USER JWT------\r\n\r\n\
             -----BEGIN USER NKEY SEED-----\r\n{seed}\r\n------END USER NKEY SEED------\r\n"
        )
    }

    #[test]
    fn credentials_file_gives_jwt_and_signature() {
        let pair = KeyPair::new_user();
        let reply = sign_with_creds(&creds(&pair.seed().unwrap()), b"challenge").unwrap();
        assert_eq!(reply.jwt.as_deref(), Some("abc.def.ghi"));
        pair.verify(b"challenge", &reply.signature.unwrap()).unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn credentials_file_that_is_a_pipe_is_an_error_and_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("creds");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let reads = Arc::new(Semaphore::new(1));
        let read = || read_bounded(fifo.as_path().into(), Arc::clone(&reads));
        assert_eq!(read().await.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        std::fs::remove_file(&fifo).unwrap();
        std::fs::write(&fifo, "text").unwrap();
        assert_eq!(read().await.unwrap(), "text");
    }

    #[test]
    fn nkey_file_gives_public_key_and_signature() {
        let pair = KeyPair::new_user();
        let reply = sign_with_nkey(&format!("# mine\n{}\n", pair.seed().unwrap()), b"challenge").unwrap();
        assert_eq!(reply.nkey, Some(pair.public_key()));
        pair.verify(b"challenge", &reply.signature.unwrap()).unwrap();
    }

    #[test]
    fn unusable_keys_are_reported() {
        let account = KeyPair::new_account().seed().unwrap();
        let reason = |found: Result<AuthReply, String>| found.err().unwrap();
        assert!(reason(sign_with_nkey(&account, b"")).contains("not a user's"));
        assert!(reason(sign_with_nkey("", b"")).contains("holds no nkey seed"));
        assert!(reason(sign_with_nkey("SUAA", b"")).contains("unusable"));
        assert!(reason(sign_with_creds("", b"")).contains("holds no user JWT"));
        assert!(
            reason(sign_with_creds(&creds("").replace("\r\n\r\n", "\r\n"), b"")).contains("no nkey seed")
        );
    }
}
