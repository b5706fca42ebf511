//! Probes a listener: whether it uses TLS, and what is wrong with its certificate, of which librdkafka reports only that
//! it "could not be verified". No secret is sent, and the result only explains what librdkafka has refused.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, ClientConnection, Error, OtherError, RootCertStore};

/// How long each step may take.
const STEP: Duration = Duration::from_secs(2);
/// How long a server may take to speak first.
const GREETING: Duration = Duration::from_millis(500);
/// The listener accepts the connection and sends nothing.
pub(super) const SILENCE: &str = "timed out: the port is open but nothing answers";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TlsInfo {
    /// No connection, and why.
    Unreachable(String),
    Plaintext,
    /// TLS, and what is wrong with the certificate.
    Tls(Option<String>),
}

/// Probes `host:port`; `authorities` is `kafka.ca_file`.
pub(super) fn probe(server: &str, authorities: Option<&Path>) -> TlsInfo {
    let mut stream = match connect(server) {
        Ok(stream) => stream,
        Err(error) => return TlsInfo::Unreachable(error.to_string()),
    };
    let (roots, missing) = match roots(authorities) {
        Ok(roots) => (roots, None),
        Err(problem) => (RootCertStore::empty(), Some(problem)),
    };
    let mut connection = match client(host(server), roots) {
        Ok(connection) => connection,
        Err(error) => return TlsInfo::Unreachable(error.to_string()),
    };
    let Err(error) = connection.complete_io(&mut stream) else { return TlsInfo::Tls(None) };
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(problem)) => {
            TlsInfo::Tls(Some(missing.unwrap_or_else(|| explain(problem))))
        }
        Some(Error::AlertReceived(_)) => TlsInfo::Tls(None),
        _ if connection.peer_certificates().is_some() => TlsInfo::Tls(None),
        _ if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            TlsInfo::Unreachable(SILENCE.into())
        }
        _ => TlsInfo::Plaintext,
    }
}

pub fn connect(server: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in server.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, STEP) {
            Ok(stream) => {
                stream.set_read_timeout(Some(STEP))?;
                stream.set_write_timeout(Some(STEP))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The first bytes of what a server says by itself, or to the start of a TLS handshake (`tls`), or to an HTTP request.
/// A Kafka broker without TLS says nothing to any of them.
pub(super) fn first_words(server: &str, tls: bool) -> Option<Vec<u8>> {
    let mut begin = [0; 8];
    let mut stream = connect(server).ok()?;
    stream.set_read_timeout(Some(GREETING)).ok()?;
    let mut length = stream.read(&mut begin).unwrap_or(0);
    if length == 0 {
        let mut request = b"GET / HTTP/1.0\r\n\r\n".to_vec();
        if tls {
            request.clear();
            client(host(server), RootCertStore::empty()).ok()?.write_tls(&mut request).ok()?;
        }
        stream.set_read_timeout(Some(STEP)).ok()?;
        stream.write_all(&request).ok()?;
        length = stream.read(&mut begin).ok()?;
    }
    (length > 0).then(|| begin[..length].to_vec())
}

/// The host of `host:port`, without the brackets of an IPv6 address.
fn host(server: &str) -> &str {
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

fn client(host: &str, roots: RootCertStore) -> Result<ClientConnection, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|error| Error::General(error.to_string()))?;
    ClientConnection::new(Arc::new(config), name)
}

/// The authorities in a file, else those of the system.
fn roots(file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let certificates: Vec<_> = match file {
        Some(file) => {
            let unreadable = |error| format!("no certificates in {}: {error}", file.display());
            let certificates = CertificateDer::pem_file_iter(file).map_err(unreadable)?;
            certificates.collect::<Result<_, _>>().map_err(unreadable)?
        }
        None => rustls_native_certs::load_native_certs().certs,
    };
    // A certificate that is not an authority verifies nothing.
    roots.add_parsable_certificates(certificates);
    if roots.is_empty() {
        return Err("there are no certificate authorities: set kafka.ca_file".into());
    }
    Ok(roots)
}

fn explain(problem: &CertificateError) -> String {
    match problem {
        CertificateError::Expired => "it has expired: renew the broker's certificate".into(),
        CertificateError::ExpiredContext { not_after, .. } => {
            let seconds = i64::try_from(not_after.as_secs()).unwrap_or(i64::MAX);
            let date = time::OffsetDateTime::from_unix_timestamp(seconds).map(|at| at.date().to_string());
            let date = date.unwrap_or_else(|_| "an unknown date".into());
            format!("it expired on {date}: renew the broker's certificate")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet: compare the clocks of the broker and of this machine".into()
        }
        CertificateError::UnknownIssuer => {
            "its authority is unknown here: set kafka.ca_file to the authority that signed it".into()
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            // `kafka-1` of `DnsName("kafka-1")`.
            let names = presented.iter().map(|name| name.split('"').nth(1).unwrap_or(name));
            let names = names.collect::<Vec<_>>().join(", ");
            format!(
                "it is for {}, not for {}: use one of its names in kafka.bootstrap_servers and in the \
                 broker's advertised.listeners, or renew it with that name",
                if names.is_empty() { "no host" } else { &names },
                expected.to_str()
            )
        }
        CertificateError::NotValidForName => "it is for another host".into(),
        CertificateError::Other(OtherError(other)) => other.to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_is_split_from_port() {
        let table = [("kafka-1:9092", "kafka-1"), ("[::1]:9092", "::1"), ("10.0.0.1:1", "10.0.0.1")];
        for (server, expected) in table {
            assert_eq!(host(server), expected);
        }
    }

    #[test]
    fn a_silent_listener_is_not_plaintext() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap().to_string();
        assert_eq!(probe(&server, None), TlsInfo::Unreachable(SILENCE.into()));
    }

    #[test]
    fn a_closing_listener_is_plaintext_and_a_closed_port_is_unreachable() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap().to_string();
        let closing = std::thread::spawn(move || drop(listener.accept()));
        assert_eq!(probe(&server, None), TlsInfo::Plaintext);
        closing.join().unwrap();
        assert!(matches!(probe(&server, None), TlsInfo::Unreachable(text) if text.contains("refused")));
    }
}
