//! A run: sends one delivery after the other, and reads back until everything is accounted for.

use std::future::{Future, pending};
use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, timeout};

use super::broker::{EventReader, Source};
use super::delivery::{ExpectedEvent, ExpectedEvents, Group, Sender};
use super::events::EventGenerator;
use super::keyboard::Key;
use super::mix::Mix;
use super::output::{Options, Output, Target};
use super::totals::{BridgeMetrics, Totals};
use super::tracker::Tracker;
use super::{Error, SOURCE};
use crate::fake_attio::FakeAttio;
use crate::fake_attio::deliver::{Attempt, Attempts, Deliverer, Post, Timing, post_to};
use crate::fake_attio::post::{self, Poster};
use crate::fake_attio::store::Store;
use crate::fake_attio::webhook::{Subscription, Webhook, WebhookInput};

/// A failed attempt is retried after a quarter of a second, and given up after two minutes instead of three
/// days. The rate is the run's own, not Attio's limit.
const TIMING: Timing = Timing { time_scale: 2000.0, per_second: 100_000 };

/// How long reading may take to catch up at the end.
const CATCH_UP: Duration = Duration::from_secs(30);

/// How long unexpected messages may take to arrive at the end.
const LINGER: Duration = Duration::from_millis(500);

/// How often the end of a run asks whether the broker is still there.
const LOOK: Duration = Duration::from_millis(500);

/// How long the reader may take to leave a broker that is away.
const LEAVE: Duration = Duration::from_secs(1);

/// How long the bridge may take to reach its broker.
const READY: Duration = Duration::from_secs(20);

/// Until then nothing is shown of the wait.
const QUIET: Duration = Duration::from_secs(1);

pub struct Senders {
    deliverer: Deliverer,
    post: Post,
    webhook: Webhook,
}

impl Senders {
    /// The fake Attio delivers to the bridge at that address what its webhook is given, and the events of changes
    /// made through its API.
    pub fn start(fake: &FakeAttio, webhook: Webhook, bridge: SocketAddr) -> Self {
        let post = post_to(bridge);
        let deliverer = Deliverer::new(fake.shared(), post.clone(), TIMING);
        deliverer.follow_api();
        Self { deliverer, post, webhook }
    }

    fn send(&self, sender: &Sender) -> Attempts {
        let request = match sender {
            Sender::Attio(payload) => {
                return self.deliverer.deliver(&self.webhook.webhook_id, payload.clone());
            }
            Sender::Forger(request) => request.clone(),
        };
        let posting = (self.post)(self.webhook.target_url.clone(), request);
        let (attempts, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            // The run may have been stopped.
            let _ = attempts.try_send(Attempt { result: posting.await, retry_in: None });
        });
        receiver
    }
}

/// Creates a webhook for all event types. Its host is never resolved.
pub fn create_webhook(store: &mut Store) -> Webhook {
    let filter = serde_json::Value::Null;
    let subscription =
        |event_type: &String| Subscription { event_type: event_type.clone(), filter: filter.clone() };
    let input = WebhookInput {
        target_url: Some(format!("https://attio-bridge.example.com/webhooks/{SOURCE}")),
        subscriptions: Some(store.event_types.iter().map(subscription).collect()),
    };
    store.create(input).expect("the first webhook of a workspace is unique")
}

pub struct Run<'a> {
    target: Target,
    options: Options,
    senders: Senders,
    mix: Mix,
    admin: Poster,
    tracker: Tracker<'a>,
    sent: u64,
}

impl<'a> Run<'a> {
    /// A run of these groups; of all groups if there are none.
    pub fn new(
        target: Target,
        options: Options,
        senders: Senders,
        events: EventGenerator,
        groups: &[Group],
        output: &'a mut dyn Output,
    ) -> Self {
        let source = format!("https://attio.com/workspaces/{}", events.workspace_id);
        let expected =
            if target.embedded { ExpectedEvents::default() } else { ExpectedEvents::of_source(source) };
        let mix = Mix::new(events, target.secret.clone(), groups);
        let tracker = Tracker::new(options, expected, output);
        Self { target, options, senders, mix, admin: Poster::plain("attio-bridge dev"), tracker, sent: 0 }
    }

    /// Runs until the round is over, `stop` ends or a key quits. Returns the totals.
    pub async fn run(
        mut self,
        source: Source,
        keys: &mut mpsc::Receiver<Key>,
        stop: impl Future<Output = ()>,
    ) -> Result<Totals, Error> {
        self.tracker.output.start(&self.target, self.options)?;
        let mut stop = pin!(stop);
        tokio::select! {
            ready = self.ready(keys) => if !ready? { return Ok(self.tracker.totals) },
            () = &mut stop => return Ok(self.tracker.totals),
        }
        let mut reader = source.open().await?;
        let result = match self.deliver(&mut reader, keys, stop).await {
            Ok(()) => self.end(&mut reader).await,
            Err(error) => Err(error),
        };
        let leaving = reader.end();
        match &result {
            // Its client ends with the process.
            Ok(totals) if totals.away => drop(timeout(LEAVE, leaving).await),
            _ => leaving.await,
        }
        result
    }

    /// Waits until the bridge is ready; false if a key quits.
    async fn ready(&mut self, keys: &mut mpsc::Receiver<Key>) -> Result<bool, Error> {
        let (started, mut shown) = (Instant::now(), String::new());
        loop {
            let Some(answer) = self.unready().await else { return Ok(true) };
            if started.elapsed() >= READY {
                let bus = format!("{} {}", self.target.bus, self.target.address);
                return Err(Error::NotReady { bus, seconds: READY.as_secs(), answer });
            }
            if started.elapsed() >= QUIET && answer != shown {
                self.tracker.output.waiting(&self.target, &answer)?;
                shown = answer;
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
                Some(key) = keys.recv() => if self.tracker.output.key(key)? { return Ok(false) },
            }
        }
    }

    async fn unready(&self) -> Option<String> {
        match self.admin.get(&format!("http://{}/readyz", self.target.admin)).await {
            Ok(reply) if reply.status == 200 => None,
            Ok(reply) => {
                Some(String::from_utf8_lossy(&reply.body).trim().trim_start_matches("bus: ").to_owned())
            }
            Err(error) => Some(error.to_string()),
        }
    }

    async fn deliver(
        &mut self,
        reader: &mut EventReader,
        keys: &mut mpsc::Receiver<Key>,
        mut stop: impl Future<Output = ()> + Unpin,
    ) -> Result<(), Error> {
        let mut pace =
            self.options.rate.map(|rate| tokio::time::interval(Duration::from_secs_f64(1.0 / rate)));
        if let Some(interval) = &mut pace {
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let round = self.mix.round_len() as u64;
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        let mut attempts = None;
        while attempts.is_some() || !self.options.once || self.sent < round {
            tokio::select! {
                () = &mut stop => return self.leave(attempts).await,
                event = reader.next() => self.tracker.read(event.ok_or(Error::ReaderEnded)?)?,
                () = due(&mut pace), if attempts.is_none() => attempts = Some(self.send()),
                attempt = next_attempt(&mut attempts) => match attempt {
                    Some(attempt) => self.tracker.attempted(attempt)?,
                    None => {
                        self.tracker.ended();
                        attempts = None;
                    }
                },
                Some(key) = keys.recv() => {
                    if self.tracker.output.key(key)? {
                        return self.leave(attempts).await;
                    }
                    self.tracker.output.tick(&self.tracker.totals)?;
                }
                _ = tick.tick() => self.tracker.output.tick(&self.tracker.totals)?,
            }
            self.tracker.show(false)?;
        }
        Ok(())
    }

    fn send(&mut self) -> Attempts {
        let mut delivery = self.mix.next_delivery();
        if self.target.bus == "stdout" {
            delivery.events.iter_mut().for_each(put_on_one_line);
        }
        let attempts = self.senders.send(&delivery.sender);
        self.sent += 1;
        self.tracker.sends(self.sent, delivery);
        attempts
    }

    /// Stops: waits for the attempt in progress, but neither for a retry nor for a broker that is away.
    async fn leave(&mut self, attempts: Option<Attempts>) -> Result<(), Error> {
        self.tracker.totals.away = self.unready().await.is_some() || self.tracker.broker_is_away();
        let Some(mut attempts) = attempts else { return Ok(()) };
        if !self.tracker.totals.away
            && !self.tracker.waits_for_retry()
            && let Ok(Some(attempt)) = timeout(post::TIMEOUT, attempts.recv()).await
        {
            self.tracker.attempted(attempt)?;
        }
        self.tracker.ended();
        Ok(())
    }

    /// Reads the rest, and compares the totals with the bridge's metrics.
    async fn end(mut self, reader: &mut EventReader) -> Result<Totals, Error> {
        let stored = self.metrics().await?.stored();
        let deadline = Instant::now() + CATCH_UP;
        while !self.tracker.totals.away {
            let complete = self.tracker.has_read(stored);
            match timeout(if complete { LINGER } else { LOOK }, reader.next()).await {
                Ok(event) => self.tracker.read(event.ok_or(Error::ReaderEnded)?)?,
                Err(_) if complete => break,
                Err(_) if self.unready().await.is_some() => self.tracker.totals.away = true,
                Err(_) if Instant::now() >= deadline => {
                    let late = format!("reading back did not catch up in {} s", CATCH_UP.as_secs());
                    self.tracker.totals.differ([late]);
                    break;
                }
                Err(_) => {}
            }
            self.tracker.show(false)?;
        }
        let metrics = self.metrics().await?;
        self.tracker.finish(metrics)
    }

    async fn metrics(&self) -> Result<BridgeMetrics, Error> {
        BridgeMetrics::read(&self.admin, self.target.admin).await.map_err(Error::Admin)
    }
}

/// The next attempt; never if nothing is in progress.
async fn next_attempt(attempts: &mut Option<Attempts>) -> Option<Attempt> {
    match attempts {
        Some(attempts) => attempts.recv().await,
        None => pending().await,
    }
}

/// On standard output an event is one line: a line end in its data becomes a space.
fn put_on_one_line(expected: &mut ExpectedEvent) {
    let space = |byte: &u8| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte };
    expected.data = expected.data.iter().map(space).collect::<Vec<_>>().into();
}

/// Waits until the next delivery is due.
async fn due(pace: &mut Option<Interval>) {
    if let Some(interval) = pace {
        interval.tick().await;
    }
}
