//! attio-bridge
#![forbid(unsafe_code)]
pub mod http;
pub mod shutdown;
pub mod bus;
pub mod pipeline;
pub mod delivery;
pub mod catalog;
pub mod cloudevent;
pub mod metrics;
