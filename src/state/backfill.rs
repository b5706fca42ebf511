//! `state backfill`: publishes every entity that exists, beside `state run`.
//!
//! It needs no agreement with `state run`: both publish by the rule of [`crate::bus::state`], so that a page which was
//! read before a change never replaces the state after it, nor a tombstone.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use futures_util::future::try_join;
use futures_util::{TryStreamExt as _, stream};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

use super::Error;
use super::targets::{Page, Pages, Target};
use super::writing::{Failures, Writing, within};
use crate::attio::entities::Position;
use crate::files;

/// Targets at a time.
const AT_A_TIME: usize = 4;

/// The most pages of a target that are published in one batch, and the most that are queued behind it. On Kafka a transaction
/// costs far more than one more state in it.
const AT_ONCE: usize = 4;

/// The most bytes that are queued and published at a time, of all targets: it bounds the memory, and what a transaction has
/// to bring to the broker in time. A page that is larger waits until it is the only one.
const BYTES: u32 = 8 * 1024 * 1024;

const MODE: u32 = 0o644;

/// How far a backfill is, in a file, so that it can go on after an interruption.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    version: u32,
    /// Where the states come from and go to: a journal of another backfill is not used.
    of: String,
    /// Where each target that was begun stands; none for one that is done.
    targets: BTreeMap<String, Option<Position>>,
    /// What was left out of them so far.
    #[serde(default)]
    failed: BTreeMap<String, Failures>,
    #[serde(skip)]
    path: Option<PathBuf>,
}

const VERSION: u32 = 1;

impl Journal {
    /// The journal in a file, if it is one of this backfill, and an empty one otherwise.
    pub fn open(path: &Path, of: String) -> Self {
        let text = files::read_text(path, files::MAX_BYTES).ok();
        let found = text.and_then(|text| serde_json::from_str::<Self>(&text).ok());
        let mut journal = found
            .filter(|found| (found.version, &found.of) == (VERSION, &of))
            .unwrap_or_else(|| Self { of, ..Self::unwritten() });
        journal.path = Some(path.to_owned());
        journal
    }

    /// One that is in no file.
    pub(super) fn unwritten() -> Self {
        let (targets, failed) = (BTreeMap::new(), BTreeMap::new());
        Self { version: VERSION, of: String::new(), targets, failed, path: None }
    }

    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    pub fn is_done(&self, target: &Target) -> bool {
        self.targets.get(&target.key()) == Some(&None)
    }

    /// How many of a target's rows are still to be gone through.
    pub fn left(&self, target: &Target, rows: usize) -> usize {
        match self.targets.get(&target.key()) {
            Some(position) => position.as_ref().map_or(0, |position| rows.saturating_sub(position.rows())),
            None => rows,
        }
    }

    /// Notes where a target stands.
    fn note(&mut self, target: &str, position: Option<Position>) -> io::Result<()> {
        self.targets.insert(target.to_owned(), position);
        let Some(path) = &self.path else { return Ok(()) };
        files::replace(path, MODE, serde_json::to_string(self)?.as_bytes())
    }

    /// What was left out of these targets.
    fn failed(&self, targets: &[Target]) -> Failures {
        let mut all = Failures::default();
        let failed = targets.iter().filter_map(|target| self.failed.get(&target.key()));
        failed.for_each(|failed| all.extend(failed.clone()));
        all
    }

    /// Forgets these targets, which are done. Without any other the file is removed.
    fn close(&mut self, targets: &[Target]) -> io::Result<()> {
        for key in targets.iter().map(Target::key) {
            self.targets.remove(&key);
            self.failed.remove(&key);
        }
        if let (false, Some(path)) = (self.targets.is_empty(), &self.path) {
            return files::replace(path, MODE, serde_json::to_string(self)?.as_bytes());
        }
        match self.path.as_ref().map(std::fs::remove_file) {
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// How far it is.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Rows of Attio that were gone through.
    pub rows: u64,
    /// States published, by the label of their target. The rest had been published already, or was gone.
    pub published: BTreeMap<String, u64>,
    /// Those that could not be read or published, known at the end.
    pub failed: Failures,
}

/// Publishes all entities of the targets. A page that cannot be read is asked for so often; a target that is not found
/// any more is left out from there on. `seen` is told how far it is after every few pages; after an error the journal says
/// where to go on.
pub async fn run(
    writing: &Writing,
    targets: &[Target],
    journal: &mut Journal,
    attempts: u32,
    seen: impl Fn(&Counts) + Sync,
) -> Result<Counts, Error> {
    let (journal, counts) = (Mutex::new(journal), Mutex::new(Counts::default()));
    let room = Semaphore::new(BYTES as usize);
    let one = async |target: &Target| {
        let (key, label) = (target.key(), target.label());
        let from = match journal.lock().targets.get(&key) {
            Some(None) => return Ok(()),
            Some(Some(position)) => position.clone(),
            None => Position::default(),
        };
        counts.lock().published.entry(label.clone()).or_default();
        let (sender, mut ready) = mpsc::channel::<Ready<'_>>(AT_ONCE);
        let pages = target.pages(&writing.reading.reader, from);
        let publishing = async {
            let mut pages = Vec::new();
            while ready.recv_many(&mut pages, AT_ONCE).await > 0 {
                let (mut rows, mut states) = (0, Vec::new());
                let (mut failed, mut position) = (Failures::default(), None);
                for Ready { page, .. } in &pages {
                    rows += page.rows as u64;
                    let entities = page.entities.iter();
                    states.extend(entities.filter_map(|(at, entity)| writing.reading.state(*at, entity)));
                    page.unreadable.iter().for_each(|id| failed.add(target.kind, id));
                }
                let published = writing.publish(states).await?;
                // Their room is free.
                pages.drain(..).for_each(|ready| position = ready.behind);
                failed.extend(published.failed);
                journal.lock().failed.entry(key.clone()).or_default().extend(failed);
                note(&journal, &key, position)?;
                let mut counts = counts.lock();
                counts.rows += rows;
                *counts.published.entry(label.clone()).or_default() += published.stored;
                seen(&counts);
            }
            Ok::<_, Error>(())
        };
        // Both are polled together: a request that has begun and that nobody polls would keep its turn, and those that
        // publishing makes would wait for it. What was read before an error is published.
        let reading = async { Ok(read(pages, attempts, &room, sender).await) };
        match try_join(reading, publishing).await?.0 {
            Err(Error::Missing(reason)) => {
                tracing::error!("{reason}: what is left of {label} is left out");
                journal.lock().failed.entry(key.clone()).or_default().add_rest(&label);
            }
            read => read?,
        }
        note(&journal, &key, None)
    };
    stream::iter(targets.iter().map(Ok)).try_for_each_concurrent(AT_A_TIME, one).await?;
    let (journal, mut counts) = (journal.into_inner(), counts.into_inner());
    counts.failed = journal.failed(targets);
    journal.close(targets).map_err(|error| Error::Setup(format!("cannot remove the journal: {error}")))?;
    Ok(counts)
}

/// A page that is to be published.
struct Ready<'a> {
    page: Page,
    /// Where to go on behind it.
    behind: Option<Position>,
    _room: SemaphorePermit<'a>,
}

/// Reads pages ahead of those that are published, until there is no room for more.
async fn read<'a>(
    mut pages: Pages,
    attempts: u32,
    room: &'a Semaphore,
    ready: mpsc::Sender<Ready<'a>>,
) -> Result<(), Error> {
    while let Some(page) = within(attempts, async || pages.next().await).await? {
        let bytes = u32::try_from(page.bytes()).unwrap_or(BYTES).min(BYTES);
        let (Ok(_room), behind) = (room.acquire_many(bytes).await, pages.position().cloned()) else { break };
        if ready.send(Ready { page, behind, _room }).await.is_err() {
            break;
        }
    }
    Ok(())
}

fn note(journal: &Mutex<&mut Journal>, target: &str, position: Option<Position>) -> Result<(), Error> {
    let noted = journal.lock().note(target, position);
    noted.map_err(|error| {
        Error::Setup(format!("cannot write the journal: {error}; name another with --journal"))
    })
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::attio::entities::{Container, Kind};
    use crate::state::names::Names;

    fn target() -> Target {
        let names = Names {
            workspace: "w".into(),
            objects: Vec::new(),
            lists: Vec::new(),
            former: Default::default(),
            complete_to: OffsetDateTime::UNIX_EPOCH,
            sent_at: None,
        };
        Target::of(Kind::Task, &names, Container { id: "l".into(), slug: None })
    }

    #[test]
    fn what_was_left_out_is_known_after_an_interruption_until_its_target_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let open = || Journal::open(&path, "here".into());
        let target = target();
        let mut journal = open();
        journal.failed.entry(target.key()).or_default().add(Kind::Task, "a-task");
        journal.note(&target.key(), Some(Position::default())).unwrap();

        let mut journal = open();
        let left_out = journal.failed(std::slice::from_ref(&target));
        assert_eq!(left_out.named.into_iter().collect::<Vec<_>>(), ["task a-task"]);
        journal.close(&[target]).unwrap();
        assert!(!path.exists() && journal.failed.is_empty());
    }
}
