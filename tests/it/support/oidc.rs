//! A certified OpenID provider (`tests/oidc/server.mjs`) that issues tokens for one client.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::certificates::Certificates;
use super::ports::free_ports;
use super::wait::eventually_blocking;
use super::watched::{Process, kit};

/// The client's id.
pub const CLIENT: &str = "bridge";
/// The client's secret at first, with characters that are encoded in a header.
pub const SECRET: &str = "a secret: 50% + ~more/";

pub struct Oidc {
    /// Dropped before its data.
    process: Process,
    folder: tempfile::TempDir,
    scheme: &'static str,
    port: u16,
    seconds: u32,
}

impl Oidc {
    /// A server whose tokens are valid for so long; it listens.
    pub fn start(seconds: u32) -> Self {
        Self::new(seconds, None)
    }

    /// The same over TLS, with the certificate for this host.
    pub fn start_with_tls(certificates: &Certificates) -> Self {
        Self::new(60, Some(&certificates.path("server.pem")))
    }

    fn new(seconds: u32, pem: Option<&Path>) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the server");
        pem.map(|pem| fs::copy(pem, folder.path().join("tls.pem")).expect("the certificate is copied"));
        let scheme = if pem.is_some() { "https" } else { "http" };
        let [port] = free_ports();
        let server = Self { process: Process::default(), folder, scheme, port, seconds };
        server.set_secret(SECRET);
        server.restart();
        server
    }

    /// Changes the client's secret.
    pub fn set_secret(&self, secret: &str) {
        fs::write(self.folder.path().join("secret"), secret).expect("the secret is written");
    }

    pub fn kill(&self) {
        self.process.take().kill();
    }

    /// Starts it again with the same port and keys; it listens when this returns.
    pub fn restart(&self) {
        let (modules, script) = (kit("oidc/installed.json").join("oidc"), "tests/oidc/server.mjs");
        let mut node = Command::new(kit("node/bin/node").join("node/bin/node"));
        node.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(script)).arg(modules).arg(self.folder.path());
        node.arg(self.port.to_string()).arg(CLIENT).arg(self.seconds.to_string());
        let before = self.said("listening");
        self.process.start(&node, self.folder.path());
        eventually_blocking("the token server listens", || {
            self.process.assert_alive(|| self.log());
            self.said("listening") > before
        });
    }

    /// How many tokens it has issued.
    pub fn granted(&self) -> usize {
        self.said("granted")
    }

    fn said(&self, word: &str) -> usize {
        self.log().lines().filter(|line| *line == word).count()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("output.log")).unwrap_or_default()
    }

    /// The `iss` of its tokens.
    pub fn issuer(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn token_url(&self) -> String {
        format!("{}://127.0.0.1:{}/token", self.scheme, self.port)
    }

    pub fn jwks_url(&self) -> String {
        format!("{}/jwks", self.issuer())
    }
}
