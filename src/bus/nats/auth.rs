//! Who the bridge says it is: what the server is told at every connect.
//!
//! Files are read anew each time, so credentials that were rotated need no restart.

use std::fs;
use std::path::Path;

use async_nats::{Auth as Answer, AuthError, ConnectOptions};
use nkeys::{KeyPair, KeyPairType};
use secrecy::ExposeSecret;

use super::options::Auth;
use crate::bus::error::StartError;

/// Connect options that answer the server's challenge, after a first look at the files.
pub(super) fn connect_options(auth: Option<&Auth>) -> Result<ConnectOptions, StartError> {
    match auth {
        None => Ok(ConnectOptions::new()),
        Some(Auth::Token(token)) => Ok(ConnectOptions::with_token(token.expose_secret().to_owned())),
        Some(Auth::User { username, password }) => {
            let password = password.expose_secret().to_owned();
            Ok(ConnectOptions::with_user_and_password(username.clone(), password))
        }
        Some(Auth::CredsFile(path)) => with_file("nats.creds_file", path, of_creds),
        Some(Auth::NkeyFile(path)) => with_file("nats.nkey_file", path, of_nkey),
    }
}

/// What a file and a nonce make of an answer.
type Signer = fn(&str, &[u8]) -> Result<Answer, String>;

fn with_file(key: &'static str, path: &Path, sign: Signer) -> Result<ConnectOptions, StartError> {
    let text =
        fs::read_to_string(path).map_err(|source| StartError::File { key, path: path.to_owned(), source })?;
    sign(&text, b"nonce").map_err(|reason| StartError::setting_of(key, reason))?;
    let path = path.to_owned();
    Ok(ConnectOptions::with_auth_callback(move |nonce| {
        let answer = fs::read_to_string(&path)
            .map_err(|error| format!("{key}: cannot read {}: {error}", path.display()))
            .and_then(|text| sign(&text, &nonce).map_err(|reason| format!("{key}: {reason}")));
        std::future::ready(answer.map_err(AuthError::new))
    }))
}

/// The answer out of a credentials file: a JWT and the seed that signs for it, each in its frame.
fn of_creds(text: &str, nonce: &[u8]) -> Result<Answer, String> {
    let jwt = framed(text, "NATS USER JWT").ok_or("holds no user JWT")?;
    let seed = framed(text, "USER NKEY SEED").ok_or("holds no nkey seed")?;
    let (_, signature) = sign(seed, nonce)?;
    let mut answer = Answer::new();
    answer.jwt = Some(jwt.to_owned());
    answer.signature = Some(signature);
    Ok(answer)
}

/// The answer out of a file with a seed.
fn of_nkey(text: &str, nonce: &[u8]) -> Result<Answer, String> {
    let seed = text.lines().map(str::trim).find(|line| line.starts_with('S'));
    let (public, signature) = sign(seed.ok_or("holds no nkey seed")?, nonce)?;
    let mut answer = Answer::new();
    answer.nkey = Some(public);
    answer.signature = Some(signature);
    Ok(answer)
}

/// The public key of a user's seed, and its signature.
fn sign(seed: &str, nonce: &[u8]) -> Result<(String, Vec<u8>), String> {
    let pair = KeyPair::from_seed(seed).map_err(|error| format!("its nkey seed is unusable: {error}"))?;
    if !matches!(pair.key_pair_type(), KeyPairType::User) {
        return Err("its nkey seed is not a user's: a user's begins with SU".into());
    }
    let signature = pair.sign(nonce).map_err(|error| format!("its nkey seed cannot sign: {error}"))?;
    Ok((pair.public_key(), signature))
}

/// The line after `-----BEGIN <name>-----`.
fn framed<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let begin = format!("BEGIN {name}");
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| line.starts_with("---") && line.contains(&begin))?;
    lines.next().filter(|line| !line.is_empty() && !line.starts_with("---"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn creds(seed: &str) -> String {
        format!(
            "-----BEGIN NATS USER JWT-----\r\nabc.def.ghi\r\n------END NATS USER JWT------\r\n\r\n\
             -----BEGIN USER NKEY SEED-----\r\n{seed}\r\n------END USER NKEY SEED------\r\n"
        )
    }

    #[test]
    fn a_credentials_file_gives_the_jwt_and_a_signature() {
        let pair = KeyPair::new_user();
        let answer = of_creds(&creds(&pair.seed().unwrap()), b"challenge").unwrap();
        assert_eq!(answer.jwt.as_deref(), Some("abc.def.ghi"));
        pair.verify(b"challenge", &answer.signature.unwrap()).unwrap();
    }

    #[test]
    fn an_nkey_file_gives_the_public_key_and_a_signature() {
        let pair = KeyPair::new_user();
        let answer = of_nkey(&format!("# mine\n{}\n", pair.seed().unwrap()), b"challenge").unwrap();
        assert_eq!(answer.nkey, Some(pair.public_key()));
        pair.verify(b"challenge", &answer.signature.unwrap()).unwrap();
    }

    #[test]
    fn what_is_no_key_of_a_user_is_told() {
        let account = KeyPair::new_account().seed().unwrap();
        let reason = |found: Result<Answer, String>| found.err().unwrap();
        assert!(reason(of_nkey(&account, b"")).contains("not a user's"));
        assert!(reason(of_nkey("", b"")).contains("holds no nkey seed"));
        assert!(reason(of_nkey("SUAA", b"")).contains("unusable"));
        assert!(reason(of_creds("", b"")).contains("holds no user JWT"));
        assert!(reason(of_creds(&creds("").replace("\r\n\r\n", "\r\n"), b"")).contains("no nkey seed"));
    }
}
