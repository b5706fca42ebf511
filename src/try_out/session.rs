//! One run: sends one delivery after the other, and reads back until everything is accounted for.

use std::future::{Future, pending};
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::time::{Interval, MissedTickBehavior, timeout};

use super::Error;
use super::account::Account;
use super::ledger::Ledger;
use super::output::{Options, Output, Target};
use super::plan::Planner;
use super::planned::{Expected, Group};
use super::readback::{Open, Readback};
use super::senders::Senders;
use super::tally::Tally;
use super::trial::{PATIENCE, Trial};
use super::world::World;
use crate::fake_attio::deliver::{Attempt, Attempts};
use crate::fake_attio::post::{self, Poster};

/// How long reading may take to catch up at the end.
const CATCH_UP: Duration = Duration::from_secs(10);

/// How long the bridge may take to reach its broker.
const READY: Duration = Duration::from_secs(20);

/// How long nothing is said of it.
const HUSH: Duration = Duration::from_secs(1);

/// A run.
pub struct Session<'a> {
    target: Target,
    options: Options,
    senders: Senders,
    planner: Planner,
    admin: Poster,
    trial: Trial<'a>,
    sent: u64,
}

impl<'a> Session<'a> {
    /// A run of those groups against that target, for the events of that workspace.
    pub fn new(
        target: Target,
        options: Options,
        senders: Senders,
        world: World,
        mix: &[Group],
        output: &'a mut dyn Output,
    ) -> Self {
        let source = format!("https://attio.com/workspaces/{}", world.workspace_id);
        let ledger = if target.embedded { Ledger::default() } else { Ledger::of_source(source) };
        let planner = Planner::new(world, target.secret.clone(), mix);
        let (admin, trial) = (Poster::plain("attio-bridge dev"), Trial::new(options, ledger, output));
        Self { target, options, senders, planner, admin, trial, sent: 0 }
    }

    /// Runs until the round is over or `stop` ends; then what there is to say about it.
    pub async fn run(mut self, open: Open, stop: impl Future<Output = ()>) -> Result<Tally, Error> {
        self.trial.output.start(&self.target, self.options)?;
        let mut stop = pin!(stop);
        tokio::select! {
            ready = self.ready() => ready?,
            () = &mut stop => return Ok(self.trial.tally),
        }
        let mut reader = open().await?;
        let result = match self.deliver(&mut reader, stop).await {
            Ok(()) => self.end(&mut reader).await,
            Err(error) => Err(error),
        };
        reader.end();
        result
    }

    async fn ready(&mut self) -> Result<(), Error> {
        let (started, url) = (Instant::now(), format!("http://{}/readyz", self.target.admin));
        let mut known = String::new();
        loop {
            let answer = match self.admin.get(&url).await {
                Ok(reply) if reply.status == 200 => return Ok(()),
                Ok(reply) => said(&reply.body),
                Err(lost) => lost.to_string(),
            };
            if started.elapsed() >= READY {
                let bus = format!("{} {}", self.target.bus, self.target.address);
                return Err(Error::NotReady { bus, seconds: READY.as_secs(), answer });
            }
            if started.elapsed() >= HUSH && answer != known {
                self.trial.output.waiting(&self.target, &answer)?;
                known = answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn deliver(&mut self, reader: &mut Readback, stop: impl Future<Output = ()>) -> Result<(), Error> {
        let mut stop = pin!(stop);
        let mut pace = Pace::new(self.options.rate);
        let round = self.planner.round_len() as u64;
        let mut look = tokio::time::interval(PATIENCE / 10);
        let mut under_way = None;
        while under_way.is_some() || !self.options.once || self.sent < round {
            tokio::select! {
                () = &mut stop => return self.leave(under_way).await,
                received = reader.messages.recv() => self.trial.read(received.ok_or(Error::ReaderGone)?)?,
                () = pace.next(), if under_way.is_none() => under_way = Some(self.send()),
                attempt = next_attempt(&mut under_way) => match attempt {
                    Some(attempt) => self.trial.tried(attempt)?,
                    None => {
                        self.trial.over();
                        under_way = None;
                    }
                },
                _ = look.tick() => self.trial.output.tick(&self.trial.tally)?,
            }
            self.trial.show(false)?;
        }
        Ok(())
    }

    fn send(&mut self) -> Attempts {
        let mut planned = self.planner.plan();
        if self.target.bus == "stdout" {
            planned.events.iter_mut().for_each(on_one_line);
        }
        let attempts = self.senders.post(&planned.by);
        self.sent += 1;
        self.trial.sends(self.sent, planned);
        attempts
    }

    /// The run is stopped: a try that is under way is waited for, and no other is made.
    async fn leave(&mut self, under_way: Option<Attempts>) -> Result<(), Error> {
        let Some(mut attempts) = under_way else { return Ok(()) };
        if !self.trial.waits()
            && let Ok(Some(attempt)) = timeout(post::TIMEOUT, attempts.recv()).await
        {
            self.trial.tried(attempt)?;
        }
        self.trial.over();
        Ok(())
    }

    /// Reads what is left, asks for the account, and draws the line.
    async fn end(mut self, reader: &mut Readback) -> Result<Tally, Error> {
        let mut caught_up = reader.caught_up().await?;
        let mut enough = pin!(tokio::time::sleep(CATCH_UP));
        loop {
            tokio::select! {
                biased;
                Some(received) = reader.messages.recv() => self.trial.read(received)?,
                _ = &mut caught_up => break,
                () = &mut enough => {
                    let late = format!("reading back did not catch up in {} s", CATCH_UP.as_secs());
                    self.trial.tally.differ([late]);
                    break;
                }
            }
            self.trial.show(false)?;
        }
        while let Ok(received) = reader.messages.try_recv() {
            self.trial.read(received)?;
        }
        let account = Account::read(&self.admin, self.target.admin).await.map_err(Error::Admin)?;
        self.trial.finish(account)
    }
}

/// What `/readyz` says of the bus.
fn said(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    text.trim().trim_start_matches("bus: ").to_owned()
}

/// The next try of what is under way; never where nothing is.
async fn next_attempt(under_way: &mut Option<Attempts>) -> Option<Attempt> {
    match under_way {
        Some(attempts) => attempts.recv().await,
        None => pending().await,
    }
}

/// On standard output an event is one line: a line end in its data, only ever white space there, is a space.
fn on_one_line(expected: &mut Expected) {
    let space = |byte: &u8| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte };
    expected.data = expected.data.iter().map(space).collect::<Vec<_>>().into();
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
