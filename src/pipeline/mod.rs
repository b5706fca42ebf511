//! The path of one delivery.
pub mod verify;
pub mod filter;
pub mod dedup;
pub mod route;
pub mod publish;

use crate::delivery::SourceName;

/// One configured source.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// Its name: path segment and metric label.
    pub name: SourceName,
    /// How it proves itself.
    pub verify: verify::Options,
    /// What is dropped on purpose.
    pub filter: filter::Options,
    /// The workspace, for bodies that name none.
    pub workspace_id: Option<String>,
}
