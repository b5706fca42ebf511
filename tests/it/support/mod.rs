//! What the tests share.

pub mod bridge;
pub mod buses;
pub mod client;
pub mod fixtures;
pub mod logs;
pub mod request;
pub mod scrape;
