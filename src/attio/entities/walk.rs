//! A walk through all entities of an object, a list or a kind, page by page in the order of their creation.
//!
//! Attio's pages are offsets into what exists at the moment, so a deletion moves everything behind it one row
//! forward, and the next page would miss a row. Pages therefore overlap: one counts if it holds a row that the page
//! before ended with, or begins with one that is older. If it does not, the walk goes back until it does.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use tokio_util::task::AbortOnDropHandle;

use super::answer::Row as Found;
use super::{Answer, EntityReader, Kind, Listed, ReadError};

/// Rows of a page that the next one begins with.
const OVERLAP: usize = 20;

/// Where the next page begins. The default is the beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    offset: usize,
    /// The rows that the page before ended with.
    tail: Vec<Row>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    id: String,
    /// Unix time in nanoseconds; none of a row that cannot be read.
    created_at: Option<i64>,
}

/// How many pages a long walk reads ahead: never fewer than the first number, never more than the second.
const AHEAD: (usize, usize) = (4, 16);

/// Beyond the fewest, about so many bytes are read ahead, judged by the size of the last page.
const BYTES_AHEAD: usize = 8 * 1024 * 1024;

/// A walk: call [`Walk::next`] until it has nothing more.
pub struct Walk {
    reader: EntityReader,
    kind: Kind,
    container: Option<String>,
    /// `None` at the end.
    position: Option<Position>,
    /// The next pages by their offsets, if all of those before are full.
    ahead: VecDeque<(usize, Reading)>,
    /// A walk begins with one page ahead, and each full page allows one more, so that a short walk asks for few pages in vain.
    most_ahead: usize,
}

type Rows = Result<Answer<Vec<Found>>, ReadError>;

type Reading = AbortOnDropHandle<Rows>;

impl Walk {
    /// Walks on from a position. A container for records and entries, none for notes and tasks.
    pub fn new(reader: EntityReader, kind: Kind, container: Option<String>, from: Position) -> Self {
        Self { reader, kind, container, position: Some(from), ahead: VecDeque::new(), most_ahead: 1 }
    }

    /// Where it stands; none at the end.
    pub fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    /// The entities of the next page that were not on the page before; none at the end. After an error it may be
    /// called again.
    pub async fn next(&mut self) -> Result<Option<Answer<Listed>>, ReadError> {
        let limit = limit(self.kind);
        while let Some(offset) = self.position.as_ref().map(|position| position.offset) {
            let first = self.ahead.front().map(|(known, _)| *known);
            let reading = if first == Some(offset) { self.ahead.pop_front() } else { None };
            let rows = match reading {
                Some((_, reading)) => reading.await.unwrap_or_else(|error| {
                    Err(ReadError::Retryable(format!("the reading task has ended: {error}")))
                })?,
                None => {
                    // Those behind a page that could not be read still follow it.
                    if first != Some(offset + limit - OVERLAP) {
                        self.read_none_ahead();
                    }
                    self.reader.rows(self.kind, self.container.as_deref(), offset, limit).await?
                }
            };
            match rows.value.len() == limit {
                true => self.read_ahead(offset, limit, bytes(&rows.value)),
                false => self.read_none_ahead(),
            }
            let Some(position) = &mut self.position else { break };
            let Answer { accurate_at, complete_to, sent_at, value } = rows;
            match position.take(value, self.kind != Kind::Note, limit) {
                Step::Fresh(rows) => {
                    let mut value = Listed::default();
                    rows.into_iter().for_each(|row| value.add(self.kind, row));
                    return Ok(Some(Answer { accurate_at, complete_to, sent_at, value }));
                }
                Step::Back => {}
                Step::End => self.position = None,
            }
        }
        Ok(None)
    }

    /// Begins to read the pages that follow a full one of so many bytes at that offset.
    fn read_ahead(&mut self, offset: usize, limit: usize, bytes: usize) {
        let most = pages_ahead(self.reader.reads_per_second(), bytes).min(self.most_ahead);
        self.most_ahead = self.most_ahead.saturating_add(1);
        for page in self.ahead.len() + 1..=most {
            let (reader, kind, container) = (self.reader.clone(), self.kind, self.container.clone());
            let offset = offset + page * (limit - OVERLAP);
            let read = async move { reader.rows(kind, container.as_deref(), offset, limit).await };
            self.ahead.push_back((offset, AbortOnDropHandle::new(tokio::spawn(read))));
        }
    }

    fn read_none_ahead(&mut self) {
        self.ahead.clear();
        self.most_ahead = 1;
    }

    /// How many rows there are: found by asking for single ones, twice as far each time and then in between. 0 if that has
    /// no end.
    pub async fn count(
        reader: &EntityReader,
        kind: Kind,
        container: Option<&str>,
    ) -> Result<usize, ReadError> {
        let exists = async |at| {
            let rows = reader.rows(kind, container, at, 1).await;
            rows.map(|rows| !rows.value.is_empty())
        };
        let (mut exist, mut step) = (0, 1);
        while exists(exist + step - 1).await? {
            exist += step;
            step *= 2;
            // An API that ignores the offset has no end.
            if step > 1 << 30 {
                return Ok(0);
            }
        }
        while step > 1 {
            step /= 2;
            if exists(exist + step - 1).await? {
                exist += step;
            }
        }
        Ok(exist)
    }
}

/// How many pages of so many bytes a long walk reads ahead: enough to use the limit where an answer takes a third of a second.
fn pages_ahead(reads_per_second: usize, bytes: usize) -> usize {
    let (fewest, most) = AHEAD;
    (reads_per_second / 3).min(BYTES_AHEAD / bytes.max(1)).clamp(fewest, most)
}

/// The length of what Attio has answered for these rows, without those that cannot be read.
fn bytes(rows: &[Found]) -> usize {
    rows.iter().flat_map(|row| &row.entity).map(|entity| entity.data.len()).sum()
}

/// Rows a page: the default for records, the API's maximum for notes.
fn limit(kind: Kind) -> usize {
    if kind == Kind::Note { 50 } else { 500 }
}

enum Step {
    /// The rows that were not in the tail.
    Fresh(Vec<Found>),
    /// The page does not join the one before.
    Back,
    End,
}

impl Position {
    /// How many rows there were before it.
    pub fn rows(&self) -> usize {
        self.offset + self.tail.len()
    }

    /// Takes the page at the offset and moves on, or back.
    fn take(&mut self, mut rows: Vec<Found>, is_sorted: bool, limit: usize) -> Step {
        let created_at = |row: &Found| {
            let entity = row.entity.as_ref().ok()?;
            Some(entity.created_at.unix_timestamp_nanos().try_into().unwrap_or(i64::MAX))
        };
        let (count, row) =
            (rows.len(), |row: &Found| Row { id: row.id.clone(), created_at: created_at(row) });
        let is_known = |row: &Found| self.tail.iter().any(|known| known.id == row.id);
        let first = rows.iter().find_map(created_at);
        let oldest = self.tail.iter().find_map(|row| row.created_at);
        let is_older = first.zip(oldest).is_some_and(|(first, oldest)| first < oldest);
        let joins = self.offset == 0 || rows.iter().any(is_known) || (is_sorted && is_older);
        if !joins {
            self.offset = self.offset.saturating_sub(limit);
            return Step::Back;
        }
        let tail: Vec<Row> =
            rows[count.saturating_sub(OVERLAP.min((count / 2).max(1)))..].iter().map(row).collect();
        let next = self.offset + count - tail.len();
        rows.retain(|entity| !is_known(entity));
        if rows.is_empty() {
            return Step::End;
        }
        (self.offset, self.tail) = (next, tail);
        Step::Fresh(rows)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use time::OffsetDateTime;

    use super::*;
    use crate::attio::entities::Entity;
    use crate::attio::entities::answer::Unreadable;

    const LIMIT: usize = 50;

    /// Some rows cannot be read.
    fn row(number: usize) -> Found {
        let created_at = OffsetDateTime::from_unix_timestamp(number as i64).unwrap();
        let (id, workspace_id) = (number.to_string(), "w".to_owned());
        let (object, list, thread, data) = (None, None, None, Bytes::from_static(b"{}"));
        let entity = match number.is_multiple_of(7) || (100..170).contains(&number) {
            false => Ok(Entity {
                kind: Kind::Record,
                id: id.clone(),
                workspace_id,
                object,
                list,
                thread,
                created_at,
                data,
            }),
            true => Err(Unreadable("created_at".into())),
        };
        Found { id, has_id: true, entity }
    }

    /// Walks through a world of that many rows, from which `change` removes some before each page. What was seen.
    fn walk(
        mut rows: Vec<usize>,
        is_sorted: bool,
        mut change: impl FnMut(usize, &mut Vec<usize>),
    ) -> Vec<usize> {
        let (mut position, mut seen) = (Position::default(), Vec::new());
        for page in 0..1000 {
            change(page, &mut rows);
            let found = rows.iter().skip(position.offset).take(LIMIT).map(|number| row(*number)).collect();
            match position.take(found, is_sorted, LIMIT) {
                Step::Fresh(fresh) => seen.extend(fresh.iter().map(|row| row.id.parse::<usize>().unwrap())),
                Step::Back => {}
                Step::End => return seen,
            }
            // It may be interrupted after any page.
            position = serde_json::from_str(&serde_json::to_string(&position).unwrap()).unwrap();
        }
        panic!("no end: {position:?}");
    }

    #[test]
    fn limit_and_size_of_the_pages_bound_how_many_are_read_ahead() {
        const MIB: usize = 1024 * 1024;
        for (reads_per_second, bytes, pages) in [
            (50, MIB / 4, 16),
            (100, MIB / 4, 16),
            (50, MIB, 8),
            (24, MIB / 4, 8),
            (50, 20 * MIB, 4),
            (1, 0, 4),
        ] {
            assert_eq!(pages_ahead(reads_per_second, bytes), pages, "{reads_per_second} {bytes}");
        }
    }

    #[test]
    fn every_row_is_seen_whatever_their_number() {
        for count in [0, 1, 2, 19, 20, 21, 49, 50, 51, 99, 100, 1000] {
            assert_eq!(
                walk((0..count).collect(), true, |_, _| {}),
                (0..count).collect::<Vec<_>>(),
                "{count}"
            );
        }
    }

    #[test]
    fn rows_that_vanish_hide_none_of_the_others() {
        for (is_sorted, at_once) in [(true, 1), (true, 19), (true, 120), (false, 5), (false, 120)] {
            let mut left = Vec::new();
            let seen = walk((0..600).collect(), is_sorted, |page, rows| {
                if page % 2 == 1 && page < 8 {
                    rows.drain(3..3 + at_once);
                }
                left.clone_from(rows);
            });
            let missing: Vec<_> = left.iter().filter(|row| !seen.contains(row)).collect();
            assert!(missing.is_empty(), "{is_sorted} {at_once}: {missing:?}");
        }
    }

    #[test]
    fn all_rows_may_vanish_and_newer_ones_may_come_first() {
        walk((0..100).collect(), true, |page, rows| {
            if page == 1 {
                rows.clear()
            }
        });
        let mut next = 1000;
        let seen = walk((0..200).collect(), false, |page, rows| {
            if page < 5 {
                rows.insert(0, next);
                next += 1;
            }
        });
        assert!((0..200).all(|row| seen.contains(&row)));
    }
}
