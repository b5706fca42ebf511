//! An authorisation service, which the server asks at every connection (auth callout).
//!
//! Source: the NATS documentation, auth callout; ADR-26.

use std::sync::Arc;

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::StreamExt;
use nkeys::KeyPair;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Server;
use super::trust::signed;
use crate::support::wait::eventually;

/// The key with which a service signs.
pub struct Callout(Arc<KeyPair>);

/// A service that runs. It lets the administrator in, and everybody else by one password.
pub struct Responder {
    password: Arc<Mutex<String>>,
    client: Client,
}

impl Callout {
    pub fn new() -> Self {
        Self(Arc::new(KeyPair::new_account()))
    }

    /// The configuration of the server.
    pub fn configuration(&self) -> String {
        format!(
            "accounts {{ AUTH {{ users: [ {{ user: service, password: service }} ] }}, APP {{ jetstream: enabled }} }}\n\
             authorization {{ auth_callout {{ issuer: {}, auth_users: [ service ], account: AUTH }} }}",
            self.0.public_key()
        )
    }

    /// Starts the service.
    pub async fn respond(&self, server: &Server) -> Responder {
        let login = ConnectOptions::with_user_and_password("service".into(), "service".into());
        let client = login.connect(server.url()).await.expect("the service connects");
        let mut requests = client.subscribe("$SYS.REQ.USER.AUTH").await.expect("it subscribes");
        client.flush().await.expect("the server knows it");
        let (key, password) = (Arc::clone(&self.0), Arc::new(Mutex::new(String::new())));
        let (known, answers) = (Arc::clone(&password), client.clone());
        tokio::spawn(async move {
            while let Some(request) = requests.next().await {
                let answer = answer(&key, &request.payload, &known.lock());
                let reply = request.reply.expect("a request");
                answers.publish(reply, answer.into()).await.expect("it answers");
            }
        });
        Responder { password, client }
    }
}

impl Responder {
    /// Lets clients in by this password alone from now on.
    pub fn allow(&self, password: &str) {
        password.clone_into(&mut self.password.lock());
    }

    /// Waits until it is connected, again.
    pub async fn until_connected(&self) {
        let is_connected = || async {
            self.client.connection_state() == State::Connected && self.client.flush().await.is_ok()
        };
        eventually("the service is connected", is_connected).await;
    }
}

fn answer(key: &KeyPair, request: &[u8], password: &str) -> String {
    let part = request.split(|byte| *byte == b'.').nth(1).expect("a JWT");
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("JSON");
    let asked = &claims["nats"];
    let (user, options) = (asked["user_nkey"].as_str().expect("a user"), &asked["connect_opts"]);
    let is_admin = options["user"] == "admin" && options["pass"] == "admin";
    let decision = if is_admin || options["pass"] == password {
        let limits = json!({ "type": "user", "subs": -1, "data": -1, "payload": -1 });
        json!({ "jwt": signed(key, user, "user", limits, json!({ "aud": "APP" })) })
    } else {
        json!({ "error": "wrong password" })
    };
    let server = json!({ "aud": asked["server_id"]["id"] });
    signed(key, user, "authorization_response", decision, server)
}
