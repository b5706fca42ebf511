//! Probes a listener: whether it speaks TLS, and what is wrong with its certificate. librdkafka reports
//! only that a certificate "could not be verified".
//!
//! No secret is sent, and the result does not decide whether the bridge connects: it only explains what
//! librdkafka has refused.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore};
use rustls::{OtherError, SignatureScheme};

/// How long each step may take.
const STEP: Duration = Duration::from_secs(2);

/// The listener accepts the connection and sends nothing.
const SILENCE: &str = "timed out: the port is open but nothing answers";

/// Where systems keep their certificate authorities; librdkafka searches there too.
const SYSTEM: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// What a listener speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TlsInfo {
    /// No connection, and why.
    Unreachable(String),
    /// It does not speak TLS.
    Plaintext,
    /// TLS, and what is wrong with the certificate.
    Tls(Option<String>),
}

/// Probes `host:port`; `authorities` is `kafka.ca_file`.
pub(super) fn probe(server: &str, authorities: Option<&Path>) -> TlsInfo {
    let stream = match connect(server) {
        Ok(stream) => stream,
        Err(error) => return TlsInfo::Unreachable(error.to_string()),
    };
    match handshake(stream, host(server), authorities) {
        Ok(found) => TlsInfo::Tls(found),
        Err(Error::General(silence)) if silence == SILENCE => TlsInfo::Unreachable(silence),
        Err(_) => TlsInfo::Plaintext,
    }
}

/// Opens a connection.
pub(in crate::bus::kafka) fn connect(server: &str) -> io::Result<TcpStream> {
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

/// The host of `host:port`, without the brackets of an IPv6 address.
fn host(server: &str) -> &str {
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Fails where TLS is not spoken; else returns what is wrong with the certificate.
fn handshake(mut stream: TcpStream, host: &str, authorities: Option<&Path>) -> Result<Option<String>, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(RecordingVerifier::new(provider.clone(), authorities));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|error| Error::General(error.to_string()))?;
    let mut connection = ClientConnection::new(Arc::new(config), name)?;
    let handshake = connection.complete_io(&mut stream);
    match verifier.found.lock().take() {
        Some(found) => Ok(found),
        // Refused before it sent its certificate, but with a TLS alert.
        None if matches!(&handshake, Err(error) if is_alert(error)) => Ok(None),
        None if matches!(&handshake, Err(error) if is_timeout(error)) => Err(Error::General(SILENCE.into())),
        None => Err(Error::General("no certificate was sent".into())),
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn is_alert(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    matches!(inner, Some(Error::AlertReceived(_)))
}

/// Verifies the certificate, records what is wrong with it, and accepts it.
#[derive(Debug)]
struct RecordingVerifier {
    provider: Arc<CryptoProvider>,
    verifier: Result<Arc<WebPkiServerVerifier>, String>,
    found: Mutex<Option<Option<String>>>,
}

impl RecordingVerifier {
    fn new(provider: Arc<CryptoProvider>, authorities: Option<&Path>) -> Self {
        let roots = match authorities.map(PathBuf::from).or_else(system) {
            Some(file) => roots(&file),
            None => Err("this system has no certificate authorities: set kafka.ca_file".into()),
        };
        let verifier = roots.and_then(|roots| {
            let built =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
            built.map_err(|error| error.to_string())
        });
        Self { provider, verifier, found: Mutex::new(None) }
    }
}

fn system() -> Option<PathBuf> {
    SYSTEM.iter().map(PathBuf::from).find(|file| file.is_file())
}

fn roots(file: &Path) -> Result<RootCertStore, String> {
    let unreadable = |error| format!("no certificates in {}: {error}", file.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(unreadable)? {
        // A certificate that is not an authority verifies nothing.
        let _ = roots.add(certificate.map_err(unreadable)?);
    }
    Ok(roots)
}

impl ServerCertVerifier for RecordingVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = match &self.verifier {
            Ok(verifier) => verifier.verify_server_cert(leaf, chain, name, ocsp, now).err().map(explain),
            Err(problem) => Some(problem.clone()),
        };
        *self.found.lock() = Some(found);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What is wrong with a certificate and what to do.
fn explain(error: Error) -> String {
    let Error::InvalidCertificate(problem) = error else { return error.to_string() };
    match problem {
        CertificateError::Expired => "it has expired: renew the broker's certificate".into(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("it expired on {}: renew the broker's certificate", date(not_after))
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet: compare the clocks of the broker and of this machine".into()
        }
        CertificateError::UnknownIssuer => {
            "its authority is unknown here: set kafka.ca_file to the authority that signed it".into()
        }
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "it is for {}, not for {}: use one of its names in kafka.bootstrap_servers and in the \
             broker's advertised.listeners, or renew it with that name",
            if presented.is_empty() {
                "no host".into()
            } else {
                presented.iter().map(|name| unquoted(name)).collect::<Vec<_>>().join(", ")
            },
            expected.to_str()
        ),
        CertificateError::NotValidForName => "it is for another host".into(),
        CertificateError::Other(OtherError(other)) => other.to_string(),
        other => other.to_string(),
    }
}

/// `kafka-1` of `DnsName("kafka-1")`.
fn unquoted(name: &str) -> &str {
    name.split('"').nth(1).unwrap_or(name)
}

fn date(at: UnixTime) -> String {
    let seconds = i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
    let at = time::OffsetDateTime::from_unix_timestamp(seconds).ok();
    at.map_or_else(|| "an unknown date".into(), |at| at.date().to_string())
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
