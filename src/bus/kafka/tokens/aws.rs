//! The credentials of AWS, by its own providers: environment, profile, web identity, container, instance. Its requests go
//! through the bridge's HTTP client.

use std::env;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use aws_config::Region;
use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::imds;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::web_identity_token::{StaticConfiguration, WebIdentityTokenCredentialsProvider};
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use bytes::Bytes;
use hyper::{Request, Uri};
use parking_lot::Mutex;

use crate::http_client::{Error, HttpClient, Options};

/// Of a container's or an instance's endpoint. Its failure is told while `check --connect` waits for a token.
const LOCAL: Options = Options { timeout: Duration::from_secs(2), ..STS };
/// Of the service that gives the credentials of roles.
const STS: Options =
    Options { timeout: Duration::from_secs(10), max_body_bytes: 256 << 10, keep_alive: false };

/// How much of a text of AWS's is repeated: librdkafka cuts longer ones.
const SHOWN: usize = 200;

/// What AWS's error says of a container's login that cannot be sent; it repeats that.
const UNSENDABLE: &str = "could not be used as a header value";

/// The name of the session in which a role is assumed by web identity. AWS's chain would take another one each time, and
/// Kafka ends a connection whose identity changes.
const SESSION: &str = "attio-bridge";

/// A variable of AWS's. Its crates read the environment too: what runs the bridge sets it for all of AWS's programs, and a
/// key of the bridge's own would say the same twice.
pub(super) fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Gets the credentials that are valid now; roles are assumed in `region`.
pub(super) async fn credentials(region: String) -> Result<Credentials, String> {
    let failure = Failure::default();
    let connector = SharedHttpConnector::new(Connector(failure.clone()));
    // The thread of the tokens tries again.
    let config = ProviderConfig::empty()
        .with_http_client(http_client_fn(move |_, _| connector.clone()))
        .with_retry_config(RetryConfig::disabled())
        .with_region(Some(Region::new(region)));
    let found = chain(&config).provide_credentials().await;
    found.map_err(|error| explain(&error, failure.0.lock().take()))
}

/// The order of AWS's default chain.
fn chain(config: &ProviderConfig) -> CredentialsProviderChain {
    let instance = imds::Client::builder().configure(config).max_attempts(1).build();
    let instance = ImdsCredentialsProvider::builder().configure(config).imds_client(instance).build();
    let chain =
        CredentialsProviderChain::first_try("environment", EnvironmentVariableCredentialsProvider::new())
            .or_else("profile", ProfileFileCredentialsProvider::builder().configure(config).build())
            .or_else("web identity", web_identity(config));
    let container = EcsCredentialsProvider::builder().configure(config).build();
    chain.or_else("container", container).or_else("instance", instance)
}

fn web_identity(config: &ProviderConfig) -> WebIdentityTokenCredentialsProvider {
    let builder = WebIdentityTokenCredentialsProvider::builder().configure(config);
    match (
        variable("AWS_WEB_IDENTITY_TOKEN_FILE"),
        variable("AWS_ROLE_ARN"),
        variable("AWS_ROLE_SESSION_NAME"),
    ) {
        (Some(file), Some(role_arn), None) => {
            let (web_identity_token_file, session_name) = (file.into(), SESSION.into());
            builder.static_configuration(StaticConfiguration {
                web_identity_token_file,
                role_arn,
                session_name,
            })
        }
        _ => builder,
    }
    .build()
}

/// Why the last request that failed did.
#[derive(Clone, Debug, Default)]
struct Failure(Arc<Mutex<Option<String>>>);

/// Sends the requests of AWS's crates.
#[derive(Debug)]
struct Connector(Failure);

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let failure = self.0.clone();
        HttpConnectorFuture::new(async move {
            exchange(request).await.map_err(|reason| {
                *failure.0.lock() = Some(reason.clone());
                // Of all kinds, only this one is never tried again.
                ConnectorError::user(reason.into())
            })
        })
    }
}

async fn exchange(request: HttpRequest) -> Result<HttpResponse, String> {
    let uri: Uri = request.uri().parse().map_err(|error| format!("invalid address: {error}"))?;
    let server = uri.authority().map(ToString::to_string).unwrap_or_default();
    let body = Bytes::copy_from_slice(request.body().bytes().ok_or("a request without a known body")?);
    // Endpoints without TLS are on this machine or link-local: no proxy reaches them.
    let client = match uri.scheme_str() {
        Some("https") => HttpClient::new(STS).map_err(|error| error.to_string())?,
        _ => HttpClient::plain(LOCAL),
    };
    let mut builder = Request::builder().method(request.method()).uri(uri);
    for (name, value) in request.headers() {
        builder = builder.header(name, value);
    }
    let response = client.send(builder, body).await.map_err(|error| match error {
        Error::Certificate(text) => format!("{server}: {text}: name its authority in SSL_CERT_FILE"),
        error => format!("{server}: {error}"),
    })?;
    let status = response.status.try_into().map_err(|_| format!("{server}: answers {}", response.status))?;
    let mut answer = HttpResponse::new(status, response.body.to_vec().into());
    for (name, value) in &response.headers {
        if let Ok(value) = value.to_str() {
            answer.headers_mut().append(name.as_str().to_owned(), value.to_owned());
        }
    }
    Ok(answer)
}

/// Why there are no credentials, and what to do. `failure` is that of a request.
fn explain(error: &CredentialsError, failure: Option<String>) -> String {
    if let CredentialsError::CredentialsNotLoaded(_) = error {
        let failure = failure.map(|reason| format!(" ({reason})")).unwrap_or_default();
        return format!(
            "kafka.oauth: there are no AWS credentials{}: give the bridge an IAM role, or set AWS_ACCESS_KEY_ID and \
             AWS_SECRET_ACCESS_KEY",
            shown(&failure)
        );
    }
    if let Some(reason) = failure {
        return format!("kafka.oauth: no answer of the AWS credentials' server: {}", shown(&reason));
    }
    let mut text = String::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = if text.is_empty() { error.to_string() } else { format!("{text}: {error}") };
        cause = error.source();
    }
    if text.contains(UNSENDABLE) {
        text = "AWS_CONTAINER_AUTHORIZATION_TOKEN (or …_FILE) has a line break or another character that no header may \
                have"
            .into();
    }
    format!("kafka.oauth: cannot get AWS credentials: {}", shown(&text))
}

fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SHOWN).collect()
}
