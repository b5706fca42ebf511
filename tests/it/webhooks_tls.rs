//! TLS to Attio: certificate authorities and names are checked.

use std::path::Path;

use crate::support::attio::program;
use crate::support::certificates::Certificates;
use crate::support::tls;

/// There are no webhooks.
const NONE: &str = r#"{"data":[]}"#;

#[test]
fn untrusted_servers_get_no_request() {
    let certificates = Certificates::make();
    let authority = certificates.path("ca.pem");
    let list = |url: &str, authority: &Path| {
        let authority = authority.to_str().unwrap();
        let variables =
            [("ATTIO_API_KEY", "key"), ("ATTIO_BRIDGE__ATTIO__API_URL", url), ("SSL_CERT_FILE", authority)];
        program(&["webhooks", "list", "--json"], &variables)
    };
    let good = tls::serve(&certificates.path("server.pem"), NONE);
    assert_eq!(list(&good, &authority).expect(0).stdout, "[]\n");
    list(&good, &certificates.path("other-ca.pem")).expect(1).mentions(&["UnknownIssuer", "SSL_CERT_FILE"]);
    let elsewhere = tls::serve(&certificates.path("elsewhere.pem"), NONE);
    list(&elsewhere, &authority).expect(1).mentions(&["not valid for name"]);
    list(&good, Path::new("/no/such/file")).expect(78).mentions(&["SSL_CERT_FILE"]);
}
