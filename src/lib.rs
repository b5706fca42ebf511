//! attio-bridge
#![forbid(unsafe_code)]
pub mod cli;
pub mod app;
pub mod config;
pub mod http;
pub mod shutdown;
pub mod bus;
pub mod attio;
pub mod pipeline;
pub mod delivery;
pub mod catalog;
pub mod cloudevent;
pub mod metrics;
pub mod version;
