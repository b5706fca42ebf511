//! One source: its options, and its state in a running pipeline.

use arc_swap::ArcSwap;

use super::filter::{self, Filter};
use super::slugs::Slugs;
use super::verify::{self, Verifier};
use crate::delivery::SourceName;

#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// Path segment and metric label.
    pub name: SourceName,
    pub verify: verify::Options,
    /// Which of its events are dropped.
    pub filter: filter::Options,
    /// The workspace of events that name none.
    pub workspace_id: Option<String>,
}

/// One source of a running pipeline.
pub(super) struct Source {
    pub(super) name: SourceName,
    /// Replaced when secrets are reloaded.
    pub(super) verifier: ArcSwap<Verifier>,
    /// Replaced when slugs are reloaded.
    pub(super) filter: ArcSwap<Filter>,
    pub(super) workspace_id: Option<String>,
}

impl Source {
    pub(super) fn new(options: &SourceOptions) -> Self {
        Self {
            name: options.name.clone(),
            verifier: ArcSwap::from_pointee(Verifier::new(&options.verify)),
            filter: ArcSwap::from_pointee(Filter::new(&options.filter)),
            workspace_id: options.workspace_id.clone(),
        }
    }

    pub(super) fn set_secrets(&self, secrets: &[verify::Secret]) {
        self.verifier.store(self.verifier.load().with_secrets(secrets).into());
    }

    pub(super) fn set_slugs(&self, slugs: &Slugs) {
        self.filter.store(self.filter.load().with_slugs(slugs).into());
    }
}
