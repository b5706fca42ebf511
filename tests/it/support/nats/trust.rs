//! Creates an operator, its accounts and users: the JWTs that `nsc` would create.
//!
//! Source: the NATS JWT library, version 2 of its claims.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

/// An operator with a system account, and one account with JetStream.
pub struct Trust {
    operator: KeyPair,
    system: KeyPair,
    account: KeyPair,
}

impl Trust {
    pub fn new() -> Self {
        let (system, account) = (KeyPair::new_account(), KeyPair::new_account());
        Self { operator: KeyPair::new_operator(), system, account }
    }

    /// The configuration of the server.
    pub fn configuration(&self) -> String {
        let operator = token(&self.operator, &self.operator, "operator", json!({}));
        let [system, account] = [&self.system, &self.account].map(|account| {
            let storage = if std::ptr::eq(account, &self.system) { 0 } else { -1 };
            let limits = json!({
                "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
                "conn": -1, "leaf": -1, "mem_storage": storage, "disk_storage": storage, "streams": -1,
                "consumer": -1,
            });
            token(&self.operator, account, "account", json!({ "limits": limits }))
        });
        let (system_id, account_id) = (self.system.public_key(), self.account.public_key());
        format!(
            "operator: {operator}\nsystem_account: {system_id}\nresolver: MEMORY\n\
             resolver_preload: {{ {system_id}: {system}\n {account_id}: {account} }}"
        )
    }

    /// The credentials file of a new user of the account.
    pub fn user(&self) -> String {
        self.user_until(None)
    }

    /// The same, valid until a time in seconds since 1970.
    pub fn user_until(&self, end: Option<u64>) -> String {
        let user = KeyPair::new_user();
        let (limits, end) = (json!({ "subs": -1, "data": -1, "payload": -1 }), json!({ "exp": end }));
        let jwt = signed(&self.account, &user.public_key(), "user", limits, end);
        let seed = user.seed().expect("a new key has its seed");
        format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
    }
}

fn token(issuer: &KeyPair, subject: &KeyPair, kind: &str, nats: Value) -> String {
    signed(issuer, &subject.public_key(), kind, nats, json!({}))
}

/// A JWT with `more` claims that are not null.
pub fn signed(issuer: &KeyPair, subject: &str, kind: &str, mut nats: Value, more: Value) -> String {
    nats["type"] = kind.into();
    nats["version"] = 2.into();
    let mut claims = json!({
        "jti": subject, "iat": 1_700_000_000, "iss": issuer.public_key(), "name": kind, "sub": subject, "nats": nats,
    });
    for (name, value) in more.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        claims[name] = value.clone();
    }
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({ "typ": "JWT", "alg": "ed25519-nkey" })), part(&claims));
    let signature = issuer.sign(signed.as_bytes()).expect("a new key can sign");
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}
