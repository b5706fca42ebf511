//! The senders: each takes the next delivery and sends it, as Attio does, until it is answered 200 or
//! 202, always under the same key; some are sent twice at once, some again after their 200, and some
//! senders leave before the answer. Every attempt is written down.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::fleet::{Fleet, Target};
use super::options::{Bus, Options};
use super::plan::{Kind, Plan};
use super::wire::{Reply, Wire};

/// How an attempt ended, as the sender saw it. A connection that was refused is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// With that status.
    Answered(u16),
    /// The connection ended without an answer.
    Lost,
    /// The sender waited long enough.
    Silence,
    /// The sender closed after its request was whole.
    Left,
    /// The sender closed within its request.
    Cut,
    /// The bridge had said that it takes the request, and the connection ended without an answer.
    Dropped,
}

impl Outcome {
    /// Whether the sender counts its delivery as done.
    pub fn is_success(self) -> bool {
        matches!(self, Self::Answered(200 | 202))
    }
}

/// One attempt.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    pub delivery: u32,
    pub process: u32,
    pub outcome: Outcome,
}

/// The sending side of a run.
pub struct Traffic {
    options: Options,
    plan: Arc<Plan>,
    fleet: Arc<Fleet>,
    next: AtomicU32,
    begun: Instant,
    /// Elements acknowledged so far.
    pub acknowledged: AtomicU64,
    attempts: Mutex<Vec<Attempt>>,
    /// No new delivery is begun once so many are acknowledged: the next fault is still to come.
    gate: AtomicU64,
    /// When the last fault was over.
    calm: Mutex<Option<Instant>>,
    /// The longest that a delivery waited for its 200 after that.
    slowest: Mutex<Duration>,
}

/// Deliveries of its own that a sender lets pass before it repeats one.
const REPEATS_AFTER: usize = 20;

const FIRST_WAIT: Duration = Duration::from_millis(30);
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// Attempts at a forgery: it is never accepted, so there is no use in more.
const FORGERIES: usize = 2;

impl Traffic {
    pub fn new(options: &Options, plan: Arc<Plan>, fleet: Arc<Fleet>) -> Arc<Self> {
        Arc::new(Self {
            options: options.clone(),
            plan,
            fleet,
            next: AtomicU32::new(0),
            begun: Instant::now(),
            acknowledged: AtomicU64::new(0),
            attempts: Mutex::new(Vec::new()),
            gate: AtomicU64::new(u64::MAX),
            calm: Mutex::new(None),
            slowest: Mutex::new(Duration::ZERO),
        })
    }

    /// Holds new deliveries back from that many acknowledged events on.
    pub fn hold_at(&self, acknowledged: u64) {
        self.gate.store(acknowledged, Ordering::Relaxed);
    }

    /// Waits until the gate is open.
    async fn pass(&self) {
        while self.acknowledged.load(Ordering::Relaxed) >= self.gate.load(Ordering::Relaxed)
            && self.begun.elapsed() < self.options.limit
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// No fault comes any more.
    pub fn calm_down(&self) {
        *self.calm.lock() = Some(Instant::now());
    }

    /// Sends everything; returns when the last delivery was acknowledged or given up.
    pub async fn flow(self: &Arc<Self>) {
        let mut senders = tokio::task::JoinSet::new();
        for _ in 0..self.options.senders {
            let sender =
                Sender { traffic: Arc::clone(self), wires: BTreeMap::new(), repeats: VecDeque::new() };
            senders.spawn(sender.run());
        }
        senders.join_all().await;
    }

    /// Every attempt that was made, and how long the slowest took once it was calm.
    pub fn finish(&self) -> (Vec<Attempt>, Duration) {
        (std::mem::take(&mut self.attempts.lock()), *self.slowest.lock())
    }

    fn note(&self, delivery: u32, target: Target, outcome: Outcome) {
        let process = u32::try_from(target.number).expect("few processes");
        self.attempts.lock().push(Attempt { delivery, process, outcome });
    }

    /// Whether a delivery that was first tried then may be tried again.
    fn may_go_on(&self, first: Instant) -> bool {
        let since = self.calm.lock().map(|calm| calm.max(first));
        since.is_none_or(|since| since.elapsed() < self.options.budget)
            && self.begun.elapsed() < self.options.limit
    }

    fn arrived(&self, delivery: u32, first: Instant) {
        self.acknowledged.fetch_add(self.plan.stored(delivery) as u64, Ordering::Relaxed);
        if let Some(calm) = *self.calm.lock() {
            let mut slowest = self.slowest.lock();
            *slowest = slowest.max(calm.max(first).elapsed());
        }
    }
}

/// One of many.
struct Sender {
    traffic: Arc<Traffic>,
    /// Open connections by the number of their process.
    wires: BTreeMap<usize, Wire>,
    /// Acknowledged deliveries that are to be sent once more, and who acknowledged them.
    repeats: VecDeque<(u32, Target)>,
}

/// What a sender does with the first attempt.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Leaves,
    Cuts,
    Twice,
    Asks,
}

impl Sender {
    async fn run(mut self) {
        let traffic = Arc::clone(&self.traffic);
        loop {
            traffic.pass().await;
            let delivery = traffic.next.fetch_add(1, Ordering::Relaxed);
            if delivery >= traffic.plan.deliveries {
                break;
            }
            if traffic.plan.kind(delivery) == Kind::Forged {
                self.forge(delivery).await;
            } else {
                self.deliver(delivery).await;
            }
            if self.repeats.len() > REPEATS_AFTER {
                self.repeat().await;
            }
        }
        while !self.repeats.is_empty() {
            self.repeat().await;
        }
    }

    async fn deliver(&mut self, delivery: u32) {
        let (traffic, first) = (Arc::clone(&self.traffic), Instant::now());
        let request = traffic.plan.request(delivery);
        let mut random = traffic.plan.random(delivery, u64::MAX / 2);
        let options = &traffic.options;
        let mut style = match random.u32(0..1000) {
            chance if chance < options.leavers => {
                if random.bool() {
                    Style::Leaves
                } else {
                    Style::Cuts
                }
            }
            chance if chance < options.leavers + options.twins => Style::Twice,
            chance if chance < options.leavers + options.twins + options.askers => Style::Asks,
            _ => Style::Plain,
        };
        let mut wait = FIRST_WAIT;
        while traffic.may_go_on(first) {
            let Some(target) = traffic.fleet.pick() else {
                tokio::time::sleep(FIRST_WAIT).await;
                continue;
            };
            let outcomes = match std::mem::replace(&mut style, Style::Plain) {
                Style::Plain => [self.attempt(target, delivery, &request).await, None],
                Style::Leaves => [self.leave(target, delivery, &request, request.len()).await, None],
                Style::Cuts => {
                    let length = random.usize(1..request.len());
                    [self.leave(target, delivery, &request, length).await, None]
                }
                Style::Asks => {
                    let pause = Duration::from_millis(random.u64(0..60));
                    [self.ask(target, delivery, &request, pause).await, None]
                }
                Style::Twice => self.twice(target, delivery, &request).await,
            };
            if outcomes.iter().flatten().any(|outcome| outcome.is_success()) {
                traffic.arrived(delivery, first);
                if random.u32(0..1000) < options.repeats {
                    self.repeats.push_back((delivery, target));
                }
                return;
            }
            tokio::time::sleep(wait.mul_f64(0.5 + random.f64())).await;
            wait = LONGEST_WAIT.min(wait * 2);
        }
    }

    async fn forge(&mut self, delivery: u32) {
        let (traffic, first) = (Arc::clone(&self.traffic), Instant::now());
        let request = traffic.plan.request(delivery);
        let mut answered = 0;
        while answered < FORGERIES && traffic.may_go_on(first) {
            if let Some(target) = traffic.fleet.pick()
                && let Some(Outcome::Answered(_)) = self.attempt(target, delivery, &request).await
            {
                answered += 1;
            } else {
                tokio::time::sleep(FIRST_WAIT).await;
            }
        }
    }

    /// Sends one again that was acknowledged. Only a broker that drops duplicates itself makes it safe
    /// to give it to another process than the one that remembers.
    async fn repeat(&mut self) {
        let traffic = Arc::clone(&self.traffic);
        let Some((delivery, remembers)) = self.repeats.pop_front() else { return };
        let target = match traffic.options.bus {
            Bus::Nats => traffic.fleet.pick(),
            Bus::Kafka => Some(remembers).filter(|target| traffic.fleet.is_up(*target)),
        };
        if let Some(target) = target {
            self.attempt(target, delivery, &traffic.plan.request(delivery)).await;
        }
    }

    /// Both copies under way at the same time.
    async fn twice(&mut self, target: Target, delivery: u32, request: &[u8]) -> [Option<Outcome>; 2] {
        let traffic = Arc::clone(&self.traffic);
        let other = match traffic.options.bus {
            Bus::Nats => traffic.fleet.pick().unwrap_or(target),
            Bus::Kafka => target,
        };
        let second = async {
            let mut wire = Wire::connect(other.http).await.ok()?;
            wire.send(request).await;
            let outcome = outcome(wire.reply().await);
            traffic.note(delivery, other, outcome);
            Some(outcome)
        };
        let (one, two) = tokio::join!(self.attempt(target, delivery, request), second);
        [one, two]
    }

    /// One attempt; none where no connection was to be had.
    async fn attempt(&mut self, target: Target, delivery: u32, request: &[u8]) -> Option<Outcome> {
        let mut wire = self.wire(target).await?;
        wire.send(request).await;
        let reply = wire.reply().await;
        self.traffic.note(delivery, target, outcome(reply));
        match reply {
            Reply::Status { closes: false, .. } => {
                self.wires.insert(target.number, wire);
            }
            // It goes down.
            Reply::Status { status: 503, closes: true } => self.traffic.fleet.mark_dead(target),
            Reply::Status { .. } | Reply::Lost | Reply::Silence => {}
        }
        Some(outcome(reply))
    }

    /// Sends so much of a request and goes away.
    async fn leave(
        &mut self,
        target: Target,
        delivery: u32,
        request: &[u8],
        length: usize,
    ) -> Option<Outcome> {
        let mut wire = self.wire(target).await?;
        let sent = wire.send(&request[..length]).await;
        wire.leave().await;
        let outcome = match length < request.len() {
            true => Outcome::Cut,
            false if sent => Outcome::Left,
            false => Outcome::Lost,
        };
        self.traffic.note(delivery, target, outcome);
        Some(outcome)
    }

    /// Sends the head, waits until the bridge wants the body (so its head was accepted), and sends it
    /// after a pause.
    async fn ask(
        &mut self,
        target: Target,
        delivery: u32,
        request: &[u8],
        pause: Duration,
    ) -> Option<Outcome> {
        let mut wire = self.wire(target).await?;
        let end = request.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 2;
        wire.send(&[&request[..end], b"Expect: 100-continue\r\n\r\n"].concat()).await;
        let outcome = match wire.reply().await {
            Reply::Status { status: 100, .. } => {
                tokio::time::sleep(pause).await;
                wire.send(&request[end + 2..]).await;
                match outcome(wire.reply().await) {
                    Outcome::Lost => Outcome::Dropped,
                    other => other,
                }
            }
            reply => outcome(reply),
        };
        self.traffic.note(delivery, target, outcome);
        Some(outcome)
    }

    async fn wire(&mut self, target: Target) -> Option<Wire> {
        if let Some(wire) = self.wires.remove(&target.number).filter(|wire| !wire.is_stale()) {
            return Some(wire);
        }
        // Of processes that are gone.
        self.wires.retain(|number, _| *number + 6 > target.number);
        let wire = Wire::connect(target.http).await.ok();
        if wire.is_none() {
            self.traffic.fleet.mark_dead(target);
        }
        wire
    }
}

fn outcome(reply: Reply) -> Outcome {
    match reply {
        Reply::Status { status, .. } => Outcome::Answered(status),
        Reply::Lost => Outcome::Lost,
        Reply::Silence => Outcome::Silence,
    }
}
