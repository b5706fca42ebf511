#!/bin/sh
# A role that aws-config assumes by web identity (IRSA, the usual login of pods) is another principal at each fetch.
#
# Versions   aws-config 1.8.13 with aws-credential-types 1.2.11 and aws-smithy-runtime-api 1.11.3 (crates)
# Expected   AWS_ROLE_SESSION_NAME is optional; without it the session has some fixed name, so that credentials that are
#            fetched again before they expire belong to the same principal, `assumed-role/ROLE/SESSION`.
# Observed   One provider that is asked twice sends two different `RoleSessionName`s, made from the time. A service that
#            compares principals at a renewed login sees a change: Apache Kafka ends a connection that authenticates again as
#            another principal ("Cannot change principals during re-authentication"), where its principal is the whole name.
#            With AWS_ROLE_SESSION_NAME, or a name that the program gives, it is the same each time.
#
# Exits 0 while the behaviour is as described, 1 when it has changed. Needs cargo; builds for some minutes.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/src"
cat >"$work/Cargo.toml" <<'TOML'
[package]
name = "session"
version = "0.0.0"
edition = "2024"

[dependencies]
aws-config = { version = "=1.8.13", default-features = false, features = ["rt-tokio"] }
aws-credential-types = "=1.2.11"
aws-smithy-runtime-api = { version = "=1.11.3", default-features = false, features = ["client", "http-1x"] }
tokio = { version = "1", features = ["macros", "rt", "time"] }
TOML
cat >"$work/src/main.rs" <<'RUST'
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_config::Region;
use aws_config::provider_config::ProviderConfig;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_credential_types::provider::ProvideCredentials;
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};

/// Stands in for the service of tokens: notes the session's name, and gives credentials for an hour.
#[derive(Clone, Debug, Default)]
struct Tokens(Arc<Mutex<Vec<String>>>);

const ANSWER: &str = "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
    <AccessKeyId>ASIAEXAMPLE</AccessKeyId><SecretAccessKey>secret</SecretAccessKey><SessionToken>token</SessionToken>\
    <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
    </AssumeRoleWithWebIdentityResponse>";

impl HttpConnector for Tokens {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let form = String::from_utf8(request.body().bytes().expect("a form").to_vec()).expect("text");
        let name = form.split('&').find_map(|field| field.strip_prefix("RoleSessionName="));
        self.0.lock().expect("no panic").push(name.expect("a name").to_owned());
        let answer = HttpResponse::new(200.try_into().expect("a status"), ANSWER.into());
        HttpConnectorFuture::ready(Ok(answer))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let tokens = Tokens::default();
    let connector = SharedHttpConnector::new(tokens.clone());
    let config = ProviderConfig::default()
        .with_region(Some(Region::new("eu-central-1")))
        .with_http_client(http_client_fn(move |_, _| connector.clone()));
    let provider = WebIdentityTokenCredentialsProvider::builder().configure(&config).build();
    for _ in 0..2 {
        provider.provide_credentials().await.expect("credentials");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let names = tokens.0.lock().expect("no panic");
    println!("the same name twice: {}", names[0] == names[1]);
}
RUST
echo token >"$work/token"
export AWS_WEB_IDENTITY_TOKEN_FILE="$work/token" AWS_ROLE_ARN=arn:aws:iam::123456789012:role/example
(cd "$work" && CARGO_TARGET_DIR="$work/target" cargo build --quiet)
observed="without a name, $("$work/target/debug/session")
with AWS_ROLE_SESSION_NAME, $(AWS_ROLE_SESSION_NAME=bridge "$work/target/debug/session")"
printf '%s\n' "$observed"

expected="without a name, the same name twice: false
with AWS_ROLE_SESSION_NAME, the same name twice: true"
if [ "$observed" = "$expected" ]; then
    echo "as described"
else
    printf 'changed; expected\n%s\n' "$expected"
    exit 1
fi
