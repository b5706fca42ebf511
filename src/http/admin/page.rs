//! `GET /`: the page. One file that loads nothing: its style and its script are allowed by their hashes, and the
//! script reads `/deliveries`, `/metrics` and `/readyz` only.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::http::respond;
use crate::pipeline::outcome::Reason;

/// The page, and what it may do (Content Security Policy level 3).
static PAGE: LazyLock<(String, String)> = LazyLock::new(|| {
    let statuses: BTreeMap<&str, u16> =
        Reason::ALL.into_iter().map(|reason| (reason.slug(), respond::status(reason).as_u16())).collect();
    let statuses = serde_json::to_string(&statuses).unwrap_or_default();
    let html = include_str!("page.html").replace("\"STATUSES\"", &statuses);
    let hash = |tag: &str| {
        let (_, rest) = html.split_once(&format!("<{tag}>")).unwrap_or_default();
        let (text, _) = rest.split_once(&format!("</{tag}>")).unwrap_or_default();
        STANDARD.encode(Sha256::digest(text))
    };
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash("style"),
        hash("script")
    );
    (html, policy)
});

pub(super) async fn page() -> Response {
    let (html, policy) = &*PAGE;
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy.as_str()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, Html(html.as_str())).into_response()
}
