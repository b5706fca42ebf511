//! What a person asks of the bus: which events come by, what lies in quarantine and why, and after a
//! fix the same path again.
//!
//! Messages come through [`crate::bus::read`]; what is replayed goes through the pipeline of `serve`.

pub mod line;
pub mod quarantined;
pub mod replay;
pub mod wanted;
