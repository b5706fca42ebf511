//! The comparison: what was sent, what was answered and what was read back, each delivery shown once
//! everything of it is known.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use super::Error;
use super::account::Account;
use super::cloud::Received;
use super::ledger::{Found, Ledger};
use super::output::{Block, Options, Output};
use super::planned::{Answered, Planned};
use super::tally::Tally;
use crate::fake_attio::deliver::Attempt;

/// How long a delivery waits for its events before it is shown without them.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Everything that is known.
pub struct Trial<'a> {
    /// Where it is shown.
    pub output: &'a mut dyn Output,
    /// The sums.
    pub tally: Tally,
    options: Options,
    ledger: Ledger,
    /// Deliveries that are not shown yet, in their order.
    pending: VecDeque<Block>,
    /// Deliveries of which a try failed: their events may have been published all the same.
    retried: BTreeSet<u64>,
}

impl<'a> Trial<'a> {
    /// Nothing is known yet.
    pub fn new(options: Options, ledger: Ledger, output: &'a mut dyn Output) -> Self {
        let (tally, pending, retried) = (Tally::default(), VecDeque::new(), BTreeSet::new());
        Self { output, tally, options, ledger, pending, retried }
    }

    /// A delivery is about to be made.
    pub fn sends(&mut self, number: u64, planned: Planned) {
        self.ledger.expect(number, &planned.events);
        self.pending.push_back(Block::new(number, planned));
    }

    /// The youngest delivery was tried.
    pub fn tried(&mut self, attempt: Attempt) -> Result<(), Error> {
        let Some(block) = self.pending.back_mut() else { return Ok(()) };
        block.answered = attempt.result.map(Answered::from).map_err(|lost| lost.to_string());
        block.tries += 1;
        if block.tries > 1 {
            block.at = OffsetDateTime::now_utc();
        }
        let Some(wait) = attempt.retry_in else { return Ok(()) };
        self.retried.insert(block.number);
        self.tally.tried_again += 1;
        self.output.again(block, wait)?;
        // A round has a bridge and a broker that nobody disturbs.
        if self.options.once {
            let difference = format!("try {} failed: {}", block.tries, block.said());
            self.tally.differ([block.named(&difference)]);
            block.differences.push(difference);
        }
        Ok(())
    }

    /// Whether the youngest delivery waits for its next try.
    pub fn waits(&self) -> bool {
        self.pending.back().is_some_and(|block| block.since.is_none() && block.tries > 0)
    }

    /// The youngest delivery is not tried any more: it is shown when its events are read.
    pub fn over(&mut self) {
        let Some(block) = self.pending.back_mut() else { return };
        block.since = Some(Instant::now());
        if !block.is_answered_as_expected() {
            let (said, expected) = (block.said(), &block.planned.answer);
            let difference = format!("the answer is {said}, expected {expected}");
            self.tally.differ([block.named(&difference)]);
            block.differences.push(difference);
        }
    }

    /// An event was read.
    pub fn read(&mut self, received: Received) -> Result<(), Error> {
        let mut what = self.ledger.read(&received);
        let number = what.delivery;
        let block = self.pending.iter_mut().find(|block| Some(block.number) == number);
        match (what.found, block) {
            (Found::Foreign, _) => self.tally.others += 1,
            // Somebody tries the hints of the header; a round of its own has no such guests.
            (Found::NotSent, _) if !self.options.once => {
                self.tally.others += 1;
                self.output.stray(&received, &what)?;
            }
            (Found::Again, _) if number.is_some_and(|number| self.retried.contains(&number)) => {
                self.tally.read_again += 1;
                what.differences.clear();
                self.output.stray(&received, &what)?;
            }
            (Found::Expected, Some(block)) => {
                self.tally.differ(what.differences.iter().map(|text| block.named(text)));
                block.differences.extend(what.differences);
                block.read.push(received);
            }
            (found, _) => {
                let late = (found == Found::Expected).then(|| "was read late".to_owned());
                let of = number.map_or(String::new(), |number| format!("#{number}: "));
                let differences = what.differences.iter().cloned().chain(late);
                self.tally.differ(differences.map(|text| format!("{of}{text}")));
                self.output.stray(&received, &what)?;
            }
        }
        Ok(())
    }

    /// Shows what is complete, in the order of sending; at the end everything.
    pub fn show(&mut self, everything: bool) -> Result<(), Error> {
        while self.pending.front().is_some_and(|block| everything || block.is_complete(PATIENCE))
            && let Some(block) = self.pending.pop_front()
        {
            self.tally.shown(&block);
            self.output.delivery(&block, &self.tally)?;
        }
        Ok(())
    }

    /// Draws the line: nothing more will be read.
    pub fn finish(mut self, account: Account) -> Result<Tally, Error> {
        let missing = self.ledger.open().map(|(number, expected)| {
            let kind = expected.attributes.get("type").and_then(Option::as_deref).unwrap_or("");
            format!("#{number}: {kind} did not arrive on {}", expected.topic)
        });
        self.tally.differ(missing.collect::<Vec<_>>());
        self.show(true)?;
        // Outside a round of its own others may have posted too.
        let wrong = if self.options.once {
            account.differences(self.tally.expected)
        } else {
            account.imbalance().into_iter().collect()
        };
        self.tally.differ(wrong);
        self.tally.account = Some(account);
        self.output.finish(self.options, &self.tally)?;
        Ok(self.tally)
    }
}
