//! From the options to a client that connects by itself, for ever.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_nats::rustls::pki_types::pem::PemObject;
use async_nats::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use async_nats::rustls::{ClientConfig, RootCertStore};
use async_nats::{Client, ConnectOptions, ServerAddr};

use super::acks::MAX_IN_FLIGHT;
use super::auth;
use super::health::Health;
use super::options::Options;
use crate::bus::error::StartError;

/// A server that went silent is given up after three of these, before the publish timeout.
const PING: Duration = Duration::from_secs(3);

/// One try to connect.
const CONNECT: Duration = Duration::from_secs(5);

/// Makes a client that is not connected yet.
pub(super) async fn connect(options: &Options, health: &Arc<Health>) -> Result<Client, StartError> {
    let (events, tries) = (Arc::clone(health), Arc::clone(health));
    let settings = settings(options)?
        .retry_on_initial_connect()
        .event_callback(move |event| {
            events.event(&event);
            std::future::ready(())
        })
        // Chooses nothing: it is where the client tells why the last tries failed.
        .reconnect_to_server_callback(move |servers, _| {
            if let Some(cause) = servers.iter().find_map(|server| server.last_error.as_deref()) {
                tries.complain(cause);
            }
            std::future::ready(None)
        });
    let servers = addresses(&options.servers)?;
    let client = async_nats::connect_with_options(servers, settings).await;
    client.map_err(|error| StartError::setting_of("nats.servers", error))
}

/// Checks that a client can be made of these options, without asking any server.
pub fn check(options: &Options) -> Result<(), StartError> {
    addresses(&options.servers)?;
    settings(options).map(drop)
}

/// Host and port of every server, without what an address may hold beside them.
pub(super) fn names(options: &Options) -> Result<String, StartError> {
    let name = |server: ServerAddr| format!("{}:{}", server.host(), server.port());
    Ok(addresses(&options.servers)?.into_iter().map(name).collect::<Vec<_>>().join(","))
}

pub(super) fn addresses(servers: &[String]) -> Result<Vec<ServerAddr>, StartError> {
    let key = "nats.servers";
    let parse = |text: &String| {
        let server: ServerAddr =
            text.parse().map_err(|error: io::Error| StartError::setting_of(key, error))?;
        let reason = match server.scheme() {
            "nats" | "tls" if server.has_user_pass() || server.password().is_some() => {
                "a server address holds no user: set nats.username and nats.password".to_owned()
            }
            "nats" | "tls" => return Ok(server),
            scheme => format!("a server address begins with nats:// or tls://, not {scheme}://"),
        };
        Err(StartError::setting_of(key, reason))
    };
    servers.iter().map(parse).collect()
}

pub(super) fn settings(options: &Options) -> Result<ConnectOptions, StartError> {
    let settings = auth::connect_options(options.auth.as_ref())?
        .name("attio-bridge")
        .connection_timeout(CONNECT)
        .ping_interval(PING)
        .client_capacity(MAX_IN_FLIGHT)
        .reconnect_delay_callback(backoff);
    tls(settings, options)
}

/// 0, 20, 40, 80, … at most 500 ms, so that a server that is back is found at once.
fn backoff(attempt: usize) -> Duration {
    match u32::try_from(attempt).unwrap_or(u32::MAX) {
        0 | 1 => Duration::ZERO,
        attempt => Duration::from_millis(10_u64.saturating_mul(2_u64.saturating_pow(attempt - 1)).min(500)),
    }
}

/// The client reads these files at every connect; they are looked at here so that a bad one is told
/// at start.
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
    let found = found.map_err(|error| unusable(key, path, error))?;
    if found.is_empty() {
        return Err(unusable(key, path, "it holds no certificate in PEM form"));
    }
    Ok(found)
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, StartError> {
    std::fs::read(path).map_err(|source| StartError::File { key, path: path.to_owned(), source })
}

fn unusable(key: &'static str, path: &Path, reason: impl std::fmt::Display) -> StartError {
    StartError::setting_of(key, format!("{} cannot be used: {reason}", path.display()))
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
    fn the_backoff_is_short_and_has_an_end() {
        assert_eq!([0, 1, 2, 3, 4].map(|n| backoff(n).as_millis()), [0, 0, 20, 40, 80]);
        assert_eq!(backoff(1000).as_millis(), 500);
    }

    #[test]
    fn addresses_are_named_without_what_they_hold_beside() {
        let options = Options::new(["nats://a", "tls://b:4333", "c:1"]);
        assert_eq!(names(&options).unwrap(), "a:4222,b:4333,c:1");
    }

    #[test]
    fn what_no_client_can_be_made_of_is_told_with_its_key() {
        assert!(check(&Options::new(["localhost"])).is_ok());
        assert!(reason(|o| o.servers = vec!["http://a".into()]).starts_with("nats.servers: "));
        assert!(reason(|o| o.servers = vec!["ws://a".into()]).contains("nats:// or tls://"));
        let with_user = reason(|o| o.servers = vec!["nats://me:secret@a".into()]);
        assert!(with_user.contains("nats.username") && !with_user.contains("secret"), "{with_user}");
        assert!(reason(|o| o.ca_file = Some("/not/there".into())).contains("nats.ca_file: cannot read"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "nothing of use").unwrap();
        assert!(reason(|o| o.ca_file = Some(path.clone())).contains("holds no certificate"));
        let nkey = reason(|o| o.auth = Some(super::super::options::Auth::NkeyFile(path.clone())));
        assert_eq!(nkey, "nats.nkey_file: holds no nkey seed");
    }
}
