//! A loopback server of AWS credentials, as containers and instances have one, and as AWS has one for roles.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::kafka::security::msk::SECRET;
use super::ports::free_ports;
use super::tls::is_whole;

/// What clients must send it.
pub const AUTHORIZATION: &str = "login-of-the-container";
/// What clients of an instance get first, and send with what they ask then.
const INSTANCE: &str = "login-of-the-instance";
/// The session token of its credentials, with characters that are encoded in a query.
pub const SESSION: &str = "IQoJb3JpZ2luX2VjE/+a b=~*.";

/// The server, listening or away.
pub struct Container {
    port: u16,
    seconds: u64,
    granted: Arc<AtomicUsize>,
    listening: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Container {
    /// A server whose credentials are valid for so long; it listens.
    pub fn start(seconds: u64) -> Self {
        let [port] = free_ports();
        let server = Self { port, seconds, granted: Arc::default(), listening: Mutex::default() };
        server.come();
        server
    }

    /// The variables by which AWS's chain finds it.
    pub fn variables(&self) -> Vec<(String, String)> {
        let url = format!("http://127.0.0.1:{}/v1/credentials?id=bridge", self.port);
        let pairs = [
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*url),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN", AUTHORIZATION),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    /// The variables by which it is found as the server of an instance.
    pub fn instance_variables(&self) -> Vec<(String, String)> {
        let url = format!("http://127.0.0.1:{}", self.port);
        let pairs = [("AWS_EC2_METADATA_DISABLED", "false"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &*url)];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    /// The variables of a role that is assumed by web identity, at this server in place of AWS's.
    pub fn role_variables(&self, token_file: &Path) -> Vec<(String, String)> {
        let url = format!("http://127.0.0.1:{}", self.port);
        role_variables(token_file, &url)
    }

    /// How many times it has given credentials.
    pub fn granted(&self) -> usize {
        self.granted.load(Ordering::SeqCst)
    }

    /// Listens on its port.
    pub fn come(&self) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).expect("its port is free");
        let (granted, seconds) = (Arc::clone(&self.granted), self.seconds);
        let serve = move || {
            for stream in listener.incoming() {
                // An empty connection ends it.
                if !answer(&mut stream.expect("a connection"), seconds, &granted) {
                    break;
                }
            }
        };
        *self.listening.lock() = Some(std::thread::spawn(serve));
    }

    /// Listens no more.
    pub fn leave(&self) {
        if let Some(thread) = self.listening.lock().take() {
            drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
            thread.join().expect("it has not panicked");
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Answers one request; false if there is none.
fn answer(stream: &mut TcpStream, seconds: u64, granted: &AtomicUsize) -> bool {
    let (mut request, mut piece) = (Vec::new(), [0; 4096]);
    while !is_whole(&request) {
        match stream.read(&mut piece) {
            Ok(read @ 1..) => request.extend_from_slice(&piece[..read]),
            _ => return !request.is_empty(),
        }
    }
    let request = String::from_utf8_lossy(&request);
    let (status, body) = response(&request, seconds);
    if status == "200 OK" && body.contains(SECRET) {
        granted.fetch_add(1, Ordering::SeqCst);
    }
    let ttl = "x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n";
    let head =
        format!("HTTP/1.1 {status}\r\n{ttl}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(format!("{head}{body}").as_bytes());
    true
}

/// What the container's server, the instance's or the service for roles answers.
fn response(request: &str, seconds: u64) -> (&'static str, String) {
    let is = |line: &str| request.starts_with(&format!("{line} HTTP/1.1\r\n"));
    let has = |header: &str, value: &str| request.lines().any(|line| line == format!("{header}: {value}"));
    let of_instance = has("x-aws-ec2-metadata-token", INSTANCE);
    let roles = "GET /latest/meta-data/iam/security-credentials/";
    let body = if is("GET /v1/credentials?id=bridge") && has("authorization", AUTHORIZATION)
        || is(&format!("{roles}bridge")) && of_instance
    {
        credentials(seconds)
    } else if is(roles) && of_instance {
        "bridge".into()
    } else if is("PUT /latest/api/token") {
        INSTANCE.into()
    } else if is("POST /") && request.ends_with(ASSUMED) {
        assumed(seconds)
    } else {
        return ("403 Forbidden", json!({ "code": "AccessDenied", "message": "no" }).to_string());
    };
    ("200 OK", body)
}

/// What a client asks of AWS's service for roles.
const ASSUMED: &str = "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012\
                       %3Arole%2Fbridge&RoleSessionName=attio-bridge&WebIdentityToken=token-of-the-pod";

/// The variables of a role that is assumed by web identity at a server.
pub fn role_variables(token_file: &Path, url: &str) -> Vec<(String, String)> {
    fs::write(token_file, "token-of-the-pod").expect("the token is written");
    let file = token_file.display().to_string();
    let pairs = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", &*file),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/bridge"),
        ("AWS_ENDPOINT_URL_STS", url),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// The answer of AWS's service for roles: credentials that are valid for so long.
pub fn assumed(seconds: u64) -> String {
    let credentials: serde_json::Value = serde_json::from_str(&credentials(seconds)).expect("JSON");
    let of = |name: &str| credentials[name].as_str().expect("text").to_owned();
    format!(
        "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey>\
         <SessionToken>{}</SessionToken><Expiration>{}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
         </AssumeRoleWithWebIdentityResponse>",
        of("AccessKeyId"),
        of("SecretAccessKey"),
        of("Token"),
        of("Expiration"),
    )
}

/// Credentials that are valid for so long; the key says until when.
pub fn credentials(seconds: u64) -> String {
    let expiry =
        (SystemTime::now() + Duration::from_secs(seconds)).duration_since(UNIX_EPOCH).expect("after 1970");
    let whole = OffsetDateTime::from_unix_timestamp(expiry.as_secs() as i64).expect("a time");
    json!({
        "Code": "Success",
        "AccessKeyId": format!("ASIA{}", expiry.as_secs()),
        "SecretAccessKey": SECRET,
        "Token": SESSION,
        "Expiration": whole.format(&Rfc3339).expect("a text"),
    })
    .to_string()
}
