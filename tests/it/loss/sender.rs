//! One sender: its connections, retries and behaviour.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::fleet::Target;
use super::options::Bus;
use super::plan::Kind;
use super::results::Results;
use super::traffic::{Outcome, Traffic};
use super::wire::{Reply, Wire};

const FIRST_WAIT: Duration = Duration::from_millis(30);
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// Attempts of a forged delivery, which is never accepted.
const FORGERIES: usize = 2;

/// One of many.
pub struct Sender {
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
    pub fn new(traffic: Arc<Traffic>) -> Self {
        Self { traffic, wires: BTreeMap::new(), repeats: VecDeque::new() }
    }

    /// Sends until no delivery is left.
    pub async fn run(mut self) {
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
            if self.repeats.len() > traffic.options.repeats_after {
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
                Style::Leaves => {
                    let reset = random.bool().then(|| Duration::from_millis(random.u64(0..30)));
                    [self.leave(target, delivery, &request, request.len(), reset).await, None]
                }
                Style::Cuts => {
                    let length = random.usize(1..request.len());
                    [self.leave(target, delivery, &request, length, None).await, None]
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

    /// Sends both copies concurrently.
    async fn twice(&mut self, target: Target, delivery: u32, request: &[u8]) -> [Option<Outcome>; 2] {
        let traffic = Arc::clone(&self.traffic);
        let other = match traffic.options.bus {
            Bus::Nats => traffic.fleet.pick().unwrap_or(target),
            Bus::Kafka => target,
        };
        let second = async {
            let mut wire = Wire::connect(other.http).await.ok()?;
            wire.send(request).await;
            let reply = wire.reply().await;
            traffic.note(delivery, other, outcome(reply), answer_results(reply));
            Some(outcome(reply))
        };
        let (one, two) = tokio::join!(self.attempt(target, delivery, request), second);
        [one, two]
    }

    /// One attempt; none if no connection could be opened.
    async fn attempt(&mut self, target: Target, delivery: u32, request: &[u8]) -> Option<Outcome> {
        let mut wire = self.wire(target).await?;
        wire.send(request).await;
        let reply = wire.reply().await;
        self.traffic.note(delivery, target, outcome(reply), answer_results(reply));
        match reply {
            Reply::Status { closes: false, .. } => {
                self.wires.insert(target.number, wire);
            }
            // The process is ending.
            Reply::Status { status: 503, closes: true, .. } => self.traffic.fleet.mark_dead(target),
            Reply::Status { .. } | Reply::Lost | Reply::Silence => {}
        }
        Some(outcome(reply))
    }

    /// Sends a part of a request and disconnects, by a reset after a pause or in order.
    async fn leave(
        &mut self,
        target: Target,
        delivery: u32,
        request: &[u8],
        length: usize,
        reset: Option<Duration>,
    ) -> Option<Outcome> {
        let mut wire = self.wire(target).await?;
        let sent = wire.send(&request[..length]).await;
        match reset {
            Some(pause) => {
                tokio::time::sleep(pause).await;
                wire.reset();
            }
            None => wire.leave().await,
        }
        let outcome = match length < request.len() {
            true => Outcome::Cut,
            false if reset.is_some() => Outcome::Reset,
            false if sent => Outcome::Left,
            false => Outcome::Lost,
        };
        self.traffic.note(delivery, target, outcome, Results::default());
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
        let mut reply = wire.reply().await;
        let taken = matches!(reply, Reply::Status { status: 100, .. });
        if taken {
            tokio::time::sleep(pause).await;
            wire.send(&request[end + 2..]).await;
            reply = wire.reply().await;
        }
        let outcome = match outcome(reply) {
            Outcome::Lost if taken => Outcome::Dropped,
            other => other,
        };
        self.traffic.note(delivery, target, outcome, answer_results(reply));
        Some(outcome)
    }

    async fn wire(&mut self, target: Target) -> Option<Wire> {
        if let Some(wire) = self.wires.remove(&target.number).filter(|wire| !wire.is_stale()) {
            return Some(wire);
        }
        // Connections to ended processes.
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

fn answer_results(reply: Reply) -> Results {
    match reply {
        Reply::Status { answered, .. } => answered,
        Reply::Lost | Reply::Silence => Results::default(),
    }
}
