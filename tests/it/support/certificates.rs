//! Certificates created by `openssl`: a certificate authority, valid and invalid certificates that it signed,
//! and an authority that is not trusted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder of PEM files, removed on drop.
pub struct Certificates(tempfile::TempDir);

/// The common name of the client certificate.
pub const CLIENT: &str = "bridge";

/// That of the other client.
pub const OTHER_CLIENT: &str = "second-bridge";

const CURVE: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];

impl Certificates {
    /// `ca.pem`, `other-ca.pem` (another authority); `server.pem`, `expired.pem`, `elsewhere.pem` (for
    /// another host) and `foreign.pem` (of the other authority), each with key and chain; `client.crt`
    /// with `client.key`, and `renewed.crt` with `renewed.key` of another client.
    pub fn make() -> Self {
        let folder = Self(tempfile::tempdir().expect("a folder for certificates"));
        folder.authority("ca");
        folder.authority("other-ca");
        let here = "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth";
        folder.leaf("ca", "server", "localhost", here, "30");
        folder.leaf("other-ca", "foreign", "localhost", here, "30");
        // Expires at once.
        folder.leaf("ca", "expired", "localhost", here, "0");
        let elsewhere = "subjectAltName=DNS:elsewhere.test\nextendedKeyUsage=serverAuth";
        folder.leaf("ca", "elsewhere", "elsewhere.test", elsewhere, "30");
        folder.leaf("ca", "client", CLIENT, "extendedKeyUsage=clientAuth", "30");
        folder.leaf("ca", "renewed", OTHER_CLIENT, "extendedKeyUsage=clientAuth", "30");
        folder
    }

    /// The path of a file by name.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Replaces one file by another, as when a certificate is renewed.
    pub fn replace(&self, old: &str, new: &str) {
        fs::copy(self.path(new), self.path(old)).expect("the file is copied");
    }

    fn authority(&self, name: &str) {
        let (key, out) = (format!("{name}.key"), format!("{name}.pem"));
        let subject = format!("/CN={name}");
        let request = ["-x509", "-days", "30", "-subj", &subject, "-keyout", &key, "-out", &out];
        openssl(self.0.path(), &[&["req"], &CURVE[..], &request].concat());
    }

    fn leaf(&self, authority: &str, name: &str, common_name: &str, extensions: &str, days: &str) {
        let [key, request, extension, signed] =
            ["key", "csr", "ext", "crt"].map(|kind| format!("{name}.{kind}"));
        let [ca, ca_key] = ["pem", "key"].map(|kind| format!("{authority}.{kind}"));
        let subject = format!("/CN={common_name}");
        let asked = ["-subj", &subject, "-keyout", &key, "-out", &request];
        openssl(self.0.path(), &[&["req"], &CURVE[..], &asked].concat());
        fs::write(self.path(&extension), extensions).expect("the extensions are written");
        openssl(
            self.0.path(),
            &[
                &["x509", "-req", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"],
                &["-days", days, "-extfile", &extension, "-out", &signed][..],
            ]
            .concat(),
        );
        let parts = [key, signed, ca].map(|part| fs::read_to_string(self.path(&part)));
        let whole: String = parts.map(|part| part.expect("openssl wrote it")).concat();
        fs::write(self.path(&format!("{name}.pem")), whole).expect("the file is written");
    }
}

fn openssl(folder: &Path, arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).current_dir(folder).output().expect("openssl runs");
    assert!(output.status.success(), "openssl {arguments:?}: {output:?}");
}
