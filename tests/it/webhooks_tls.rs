//! The way to Attio is TLS, and who answers there is checked.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::support::attio::program;
use crate::support::certificates::Certificates;

/// Says to every connection that there are no webhooks, and tells its address.
fn serve(certificate: &Path) -> String {
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(certificate).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, stream.unwrap());
            let mut request = [0; 4096];
            // A client that does not like the certificate has gone away.
            if stream.read(&mut request).is_ok() {
                let _ = stream.write_all(
                    b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\nconnection: close\r\n\r\n{\"data\":[]}",
                );
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        }
    });
    format!("https://localhost:{port}")
}

#[test]
fn who_is_not_known_is_told_nothing() {
    let certificates = Certificates::make();
    let authority = certificates.path("ca.pem");
    let list = |url: &str, authority: &Path| {
        let authority = authority.to_str().unwrap();
        let variables =
            [("ATTIO_API_KEY", "key"), ("ATTIO_BRIDGE__ATTIO__API_URL", url), ("SSL_CERT_FILE", authority)];
        program(&["webhooks", "list", "--json"], &variables)
    };
    let good = serve(&certificates.path("server.pem"));
    assert_eq!(list(&good, &authority).expect(0).stdout, "[]\n");
    list(&good, &certificates.path("stranger.pem")).expect(1).says(&["UnknownIssuer", "SSL_CERT_FILE"]);
    let elsewhere = serve(&certificates.path("elsewhere.pem"));
    list(&elsewhere, &authority).expect(1).says(&["not valid for name"]);
    list(&good, Path::new("/no/such/file")).expect(78).says(&["SSL_CERT_FILE"]);
}
