//! A token for Amazon MSK: a request for `kafka-cluster:Connect`, presigned with AWS credentials and in base64.
//! Source: aws-msk-iam-sasl-signer-python 1.0.2, which AWS publishes.

use std::time::{Duration, Instant, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::aws;
use super::token::{Token, encoded, signing_time};

/// How long MSK accepts a token, if its credentials last as long.
const LIFE: Duration = Duration::from_secs(900);
const SERVICE: &str = "kafka-cluster";
const ACTION: &str = "Action=kafka-cluster%3AConnect";
const AGENT: &str = concat!("attio-bridge/", env!("CARGO_PKG_VERSION"));
const REGION: &str = "AWS_REGION";

/// How to get a token for Amazon MSK: `[kafka.oauth]` with the provider "aws-msk-iam".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MskIam {
    /// The cluster's; that of `AWS_REGION` where absent.
    pub region: Option<String>,
}

impl MskIam {
    pub(super) async fn fetch(&self) -> Result<Token, String> {
        let of_process = aws::variable(REGION);
        let region = self.region.clone().or(of_process.clone()).ok_or_else(|| {
            format!(
                "kafka.oauth.region: not set, and neither kafka.bootstrap_servers nor {REGION} names the cluster's region"
            )
        })?;
        if !is_region(&region) {
            return Err(format!("{REGION}: {region:?} is no region of AWS"));
        }
        // Roles are assumed where the bridge runs.
        let credentials = aws::credentials(of_process.unwrap_or_else(|| region.clone())).await?;
        let (fetched, at) = (Instant::now(), signing_time());
        let life = match credentials.expiry() {
            Some(expiry) => LIFE.min(expiry.duration_since(at).unwrap_or_default()),
            None => LIFE,
        };
        if life.is_zero() {
            return Err("kafka.oauth: the AWS credentials have expired: renew them where they come from, and check this \
                        machine's clock"
                .into());
        }
        let principal = credentials.access_key_id().to_owned();
        Ok(Token { value: token(credentials, &region, at)?, principal, fetched, life })
    }
}

/// The token that is signed at a time.
fn token(credentials: Credentials, region: &str, at: SystemTime) -> Result<String, String> {
    let failed =
        |error: &dyn std::fmt::Display| format!("kafka.oauth: cannot sign with the AWS credentials: {error}");
    let identity = credentials.into();
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(LIFE);
    let params = SigningParams::builder().identity(&identity).region(region).name(SERVICE).time(at);
    let params = params.settings(settings).build().map_err(|error| failed(&error))?.into();
    let url = format!("https://kafka.{region}.amazonaws.com/?{ACTION}");
    let request = SignableRequest::new("GET", &url, std::iter::empty(), SignableBody::empty());
    let signed = request.and_then(|request| sign(request, &params)).map_err(|error| failed(&error))?;
    let (instructions, _) = signed.into_parts();
    let signed: String =
        instructions.params().iter().map(|(name, value)| format!("&{name}={}", encoded(value))).collect();
    // Not signed: for AWS's logs.
    Ok(URL_SAFE_NO_PAD.encode(format!("{url}{signed}&User-Agent={}", encoded(AGENT))))
}

/// Whether a text is the name of a region, as far as its form says.
pub fn is_region(text: &str) -> bool {
    let is_word = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase());
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    text.rsplit_once('-').is_some_and(|(words, number)| {
        words.contains('-') && words.split('-').all(is_word) && is_number(number)
    })
}

/// The region in the name of one of MSK's brokers, `host:port`.
pub fn region_of(server: &str) -> Option<&str> {
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
    let host = host.strip_suffix(".cn").unwrap_or(host).strip_suffix(".amazonaws.com")?;
    let (rest, region) = host.rsplit_once('.')?;
    let (_, service) = rest.rsplit_once('.')?;
    (["kafka", "kafka-serverless"].contains(&service) && is_region(region)).then_some(region)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn region_is_in_the_names_of_brokers() {
        let table = [
            ("b-1.cluster.a1b2c3.c2.kafka.eu-central-1.amazonaws.com:9098", Some("eu-central-1")),
            ("b-2-public.cluster.a1b2c3.c2.kafka.us-gov-west-1.amazonaws.com:9198", Some("us-gov-west-1")),
            ("boot-a1b2c3.c1.kafka-serverless.us-east-1.amazonaws.com:9098", Some("us-east-1")),
            ("b-1.cluster.a1b2c3.c2.kafka.cn-north-1.amazonaws.com.cn:9098", Some("cn-north-1")),
            ("b-1.kafka.eu-central-1.amazonaws.com.example.com:9098", None),
            ("b-1.mq.eu-central-1.amazonaws.com:9098", None),
            ("b-1.kafka.nowhere.amazonaws.com:9098", None),
            ("kafka-1:9092", None),
            ("127.0.0.1:9092", None),
        ];
        for (server, region) in table {
            assert_eq!(region_of(server), region, "{server}");
        }
    }

    #[test]
    fn regions_have_words_and_a_number() {
        for region in ["eu-central-1", "us-gov-east-1", "ap-southeast-12"] {
            assert!(is_region(region), "{region}");
        }
        for other in
            ["", "eu", "eu-1", "eu-central", "EU-central-1", "eu-central-1/x", "eu--1", "eu-central-1 "]
        {
            assert!(!is_region(other), "{other}");
        }
    }
}
