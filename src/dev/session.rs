//! One run: sends, reads back, compares, and shows each delivery once everything of it is known.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::time::{Interval, MissedTickBehavior};

use super::Error;
use super::account::Account;
use super::client::{self, Answered};
use super::cloud::Received;
use super::ledger::{Found, Ledger};
use super::output::{Block, Options, Output, Target};
use super::plan::Planner;
use super::planned::{Expected, Group, Planned};
use super::readback::{Open, Readback};
use super::tally::Tally;
use super::world::World;

/// How long a delivery waits for its events before it is shown without them.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long reading may take to catch up at the end.
const CATCH_UP: Duration = Duration::from_secs(10);

/// How long the bridge may take to reach its broker.
const READY: Duration = Duration::from_secs(20);

/// A run.
pub struct Session<'a> {
    target: Target,
    options: Options,
    output: &'a mut dyn Output,
    planner: Planner,
    ledger: Ledger,
    tally: Tally,
    /// Deliveries that are not shown yet, in their order.
    pending: VecDeque<Block>,
    sent: u64,
}

impl<'a> Session<'a> {
    /// A run of those groups against that target, for the events of that workspace.
    pub fn new(
        target: Target,
        options: Options,
        world: World,
        mix: &[Group],
        output: &'a mut dyn Output,
    ) -> Self {
        let source = format!("https://attio.com/workspaces/{}", world.workspace_id);
        let ledger = if target.embedded { Ledger::default() } else { Ledger::of_source(source) };
        let planner = Planner::new(world, target.secret.clone(), mix);
        let (tally, pending) = (Tally::default(), VecDeque::new());
        Self { target, options, output, planner, ledger, tally, pending, sent: 0 }
    }

    /// Runs until the round is over or `stop` ends; then what there is to say about it.
    pub async fn run(mut self, open: Open, stop: impl Future<Output = ()>) -> Result<Tally, Error> {
        self.output.start(&self.target, self.options)?;
        let mut stop = pin!(stop);
        tokio::select! {
            ready = self.ready() => ready?,
            () = &mut stop => return Ok(self.tally),
        }
        let mut reader = open().await?;
        let result = match self.deliver(&mut reader, stop).await {
            Ok(()) => self.end(&mut reader).await,
            Err(error) => Err(error),
        };
        reader.end();
        result.map(|()| self.tally)
    }

    async fn ready(&self) -> Result<(), Error> {
        let started = Instant::now();
        let mut answer = String::from("no answer");
        while started.elapsed() < READY {
            match client::get(self.target.admin, "/readyz").await {
                Ok((200, _)) => return Ok(()),
                Ok((_, body)) => answer = String::from_utf8_lossy(&body).trim().to_owned(),
                Err(error) => answer = error.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let bus = format!("{} {}", self.target.bus, self.target.address);
        Err(Error::NotReady { bus, seconds: READY.as_secs(), answer })
    }

    async fn deliver(&mut self, reader: &mut Readback, stop: impl Future<Output = ()>) -> Result<(), Error> {
        let mut stop = pin!(stop);
        let mut pace = Pace::new(self.options.rate);
        let round = self.planner.round_len() as u64;
        let mut look = tokio::time::interval(PATIENCE / 10);
        while !(self.options.once && self.sent == round) {
            tokio::select! {
                () = &mut stop => return Ok(()),
                received = reader.messages.recv() => self.read(received.ok_or(Error::ReaderGone)?)?,
                () = pace.next() => self.send().await,
                _ = look.tick() => self.output.tick(&self.tally)?,
            }
            self.show(false)?;
        }
        Ok(())
    }

    async fn send(&mut self) {
        let mut planned = self.planner.plan();
        if self.target.bus == "stdout" {
            planned.events.iter_mut().for_each(on_one_line);
        }
        self.sent += 1;
        self.ledger.expect(self.sent, &planned.events);
        let at = OffsetDateTime::now_utc();
        let answered = client::deliver(self.target.http, &planned.request).await;
        let answered = answered.map_err(|error| error.to_string());
        let differences: Vec<String> = wrong_answer(&planned, &answered).into_iter().collect();
        self.tally.differ(differences.iter().map(|text| named(self.sent, &planned.label, text)));
        let (number, read, since) = (self.sent, Vec::new(), Instant::now());
        self.pending.push_back(Block { number, at, planned, answered, read, differences, since });
    }

    fn read(&mut self, received: Received) -> Result<(), Error> {
        let what = self.ledger.read(&received);
        let number = what.delivery;
        let block = self.pending.iter_mut().find(|block| Some(block.number) == number);
        match (what.found, block) {
            (Found::Foreign, _) => self.tally.others += 1,
            // Somebody tries the hints of the header; a round of its own has no such guests.
            (Found::NotSent, _) if !self.options.once => {
                self.tally.others += 1;
                self.output.stray(&received, &what)?;
            }
            (Found::Expected, Some(block)) => {
                let label = &block.planned.label;
                self.tally.differ(what.differences.iter().map(|text| named(block.number, label, text)));
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
    fn show(&mut self, everything: bool) -> Result<(), Error> {
        while self.pending.front().is_some_and(|block| everything || block.is_complete(PATIENCE))
            && let Some(block) = self.pending.pop_front()
        {
            self.tally.shown(&block);
            self.output.delivery(&block, &self.tally)?;
        }
        Ok(())
    }

    /// Reads what is left, asks for the account, and draws the line.
    async fn end(&mut self, reader: &mut Readback) -> Result<(), Error> {
        let mut caught_up = reader.caught_up().await?;
        let mut enough = pin!(tokio::time::sleep(CATCH_UP));
        loop {
            tokio::select! {
                biased;
                Some(received) = reader.messages.recv() => self.read(received)?,
                _ = &mut caught_up => break,
                () = &mut enough => {
                    self.tally.differ([format!("reading back did not catch up in {} s", CATCH_UP.as_secs())]);
                    break;
                }
            }
            self.show(false)?;
        }
        while let Ok(received) = reader.messages.try_recv() {
            self.read(received)?;
        }
        let missing = self.ledger.open().map(|(number, expected)| {
            let kind = expected.attributes.get("type").and_then(Option::as_deref).unwrap_or("");
            format!("#{number}: {kind} did not arrive on {}", expected.topic)
        });
        self.tally.differ(missing.collect::<Vec<_>>());
        self.show(true)?;
        let account = Account::read(self.target.admin).await.map_err(Error::Admin)?;
        // Outside a round of its own others may have posted too.
        let wrong = if self.options.once {
            account.differences(self.tally.expected)
        } else {
            account.imbalance().into_iter().collect()
        };
        self.tally.differ(wrong);
        self.tally.account = Some(account);
        self.output.finish(self.options, &self.tally)?;
        Ok(())
    }
}

/// On standard output an event is one line: a line end in its data, only ever white space there, is a space.
fn on_one_line(expected: &mut Expected) {
    let space = |byte: &u8| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte };
    expected.data = expected.data.iter().map(space).collect::<Vec<_>>().into();
}

fn named(number: u64, label: &str, text: &str) -> String {
    format!("#{number} {label}: {text}")
}

fn wrong_answer(planned: &Planned, answered: &Result<Answered, String>) -> Option<String> {
    match answered {
        Ok(got) if got.answer == planned.answer => None,
        Ok(got) => Some(format!("the answer is {}, expected {}", got.answer, planned.answer)),
        Err(error) => Some(format!("there is no answer: {error}")),
    }
}

/// When the next delivery is due.
struct Pace(Option<Interval>);

impl Pace {
    fn new(rate: Option<f64>) -> Self {
        Self(rate.map(|rate| {
            let mut interval = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        }))
    }

    async fn next(&mut self) {
        if let Some(interval) = &mut self.0 {
            interval.tick().await;
        }
    }
}
