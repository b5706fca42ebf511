//! Where an event goes, from a closed table built at start.

use std::collections::BTreeMap;

use crate::catalog::Category;

/// The addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// First part of every address that is not given below.
    pub prefix: String,
    /// Whole addresses of single categories.
    pub categories: BTreeMap<Category, String>,
}

/// Whether a text may be an address, on Kafka and NATS alike: tokens of `[A-Za-z0-9_-]` joined by
/// dots, 200 characters at most (an action is added to it).
pub fn is_address(text: &str) -> bool {
    let token = |token: &str| {
        !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
    };
    text.len() <= 200 && text.split('.').all(token)
}
