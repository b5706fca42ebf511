//! Attio's signature: hex HMAC-SHA256. For everything that sends deliveries; the bridge itself only verifies.

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// Hex HMAC-SHA256 of the concatenated parts. The key is the secret's text, not its decoded bytes.
pub fn sign(secret: &str, parts: &[&[u8]]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
    parts.iter().for_each(|part| mac.update(part));
    HEXLOWER.encode(&mac.finalize().into_bytes())
}

/// Hex SHA-256.
pub fn digest(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_4231_test_case_2() {
        let signed = sign("Jefe", &[b"what do ya want ", b"for nothing?"]);
        assert_eq!(signed, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }
}
