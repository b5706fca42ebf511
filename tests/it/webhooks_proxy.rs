//! Proxies of the environment, redirects and oversized answers, on the way to Attio.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use serde_json::Value;

use crate::support::attio::{Attio, KEY, Ran, program};
use crate::support::certificates::Certificates;
use crate::support::connect_proxy::ConnectProxy;
use crate::support::tls;

const NO_WEBHOOKS: &str = r#"{"data":[]}"#;

/// The host of `elsewhere.pem`. It has no address, so that only a proxy reaches it.
const API_URL: &str = "https://elsewhere.test";

/// An HTTPS server for `elsewhere.test`, and the authority of its certificate.
struct Server {
    certificates: Certificates,
    address: SocketAddr,
}

impl Server {
    fn start() -> Self {
        let certificates = Certificates::make();
        let url = tls::serve(&certificates.path("elsewhere.pem"), NO_WEBHOOKS);
        let port = url.rsplit(':').next().unwrap().parse().unwrap();
        Self { certificates, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    fn list(&self, variables: &[(&str, &str)]) -> Ran {
        let authority = self.certificates.path("ca.pem");
        let own = [
            ("ATTIO_API_KEY", KEY),
            ("ATTIO_BRIDGE__ATTIO__API_URL", API_URL),
            ("ATTIO_BRIDGE__ATTIO__TIMEOUT", "10s"),
            ("SSL_CERT_FILE", authority.to_str().unwrap()),
        ];
        program(&["webhooks", "list", "--json"], &[&own, variables].concat())
    }
}

#[test]
fn https_proxy_tunnels_to_attio_and_never_sees_the_key() {
    let server = Server::start();
    let proxy = ConnectProxy::start(server.address);
    for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"] {
        let url = proxy.url("user:password-of-the-proxy");
        assert_eq!(server.list(&[(name, &url)]).expect(0).stdout, "[]\n", "{name}");
    }
    let heads = proxy.heads();
    assert_eq!(heads.len(), 3, "{heads:?}");
    for head in heads {
        assert!(head.starts_with("CONNECT elsewhere.test:443 HTTP/1.1\r\n"), "{head}");
        assert!(head.to_lowercase().contains("proxy-authorization: basic "), "{head}");
        assert!(!head.contains(KEY), "{head}");
    }
}

#[test]
fn no_proxy_hosts_are_reached_directly() {
    let server = Server::start();
    let proxy = ConnectProxy::start(server.address);
    let url = proxy.url("");
    let direct = server.list(&[("HTTPS_PROXY", &url), ("NO_PROXY", "elsewhere.test")]).expect(1);
    direct.mentions(&["cannot be reached", "elsewhere.test"]);
    assert_eq!(proxy.heads(), [""; 0]);
}

#[test]
fn refusing_proxy_is_reported_without_its_password() {
    let server = Server::start();
    let proxy = ConnectProxy::refusing("407 Proxy Authentication Required");
    let url = proxy.url("user:password-of-the-proxy");
    let ran = server.list(&[("HTTPS_PROXY", &url), ("RUST_LOG", "trace")]).expect(1);
    let ran = ran.mentions(&["cannot be reached", "HTTPS_PROXY"]);
    for secret in ["password-of-the-proxy", KEY] {
        assert!(!ran.stderr.contains(secret), "{}", ran.stderr);
    }
}

/// The key is sent unencrypted to loopback addresses, so no proxy may get it.
#[test]
fn loopback_api_url_ignores_proxies() {
    let attio = Attio::start();
    attio.add("https://hooks.example.com", &[("note.created", Value::Null)]);
    let proxy = ConnectProxy::refusing("502 Bad Gateway");
    let url = proxy.url("");
    let proxies = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"].map(|name| (name, &*url));
    attio.with(&proxies, &["list"]).expect(0);
    assert_eq!(proxy.heads(), [""; 0]);
}

/// Answers every request of one connection at a time with these bytes; returns the URL.
fn answering(answer: impl Fn(&mut dyn Write) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut piece = [0; 4096];
            let _ = stream.read(&mut piece);
            answer(&mut stream);
        }
    });
    url
}

#[test]
fn redirects_are_not_followed() {
    let other = Attio::start();
    let location = format!("{}/v2/webhooks?limit=100&offset=0", other.url());
    let url = answering(move |stream| {
        let head =
            format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
        let _ = stream.write_all(head.as_bytes());
    });
    let variables = [("ATTIO_API_KEY", KEY), ("ATTIO_BRIDGE__ATTIO__API_URL", &*url)];
    program(&["webhooks", "list"], &variables)
        .expect(1)
        .mentions(&["answered 307", "is attio.api_url right?"]);
    assert_eq!(other.asked("GET"), 0);
}

#[test]
fn endless_answer_is_an_error() {
    let url = answering(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        let chunk = [&b"10000\r\n"[..], &[b' '; 0x10000], b"\r\n"].concat();
        while stream.write_all(&chunk).is_ok() {}
    });
    let variables = [("ATTIO_API_KEY", KEY), ("ATTIO_BRIDGE__ATTIO__API_URL", &*url)];
    program(&["webhooks", "list"], &variables).expect(1).mentions(&["more than 16777216 bytes"]);
}
