//! The consuming side, for operators: which events pass, what is in quarantine and why, and the replay
//! of it. Messages are read by [`crate::bus::read`](mod@crate::bus::read); a replay runs the pipeline of `serve`.

pub mod event_filter;
pub mod quarantined;
pub mod quarantine_reader;
pub mod replay;
