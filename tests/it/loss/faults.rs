//! The faults of a run and their times, computed from the seed. A fault is due at a number of acknowledged events,
//! so that it meets traffic on any machine.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::broker::Broker;
use super::fleet::Fleet;
use super::options::Options;
use super::traffic::Traffic;
use crate::support::proxy::{Flow, Way};

/// One fault.
#[derive(Clone, Debug)]
pub enum Fault {
    KillBroker {
        down: Duration,
    },
    Freeze {
        still: Duration,
    },
    RollBrokers,
    MoveLeader,
    KillBridge {
        slot: usize,
        down: Duration,
    },
    Drain {
        slot: usize,
    },
    RollBridges,
    Cut,
    /// Held for a while in the first direction, or in both, and then cut where said.
    Stall {
        ways: Vec<Way>,
        flow: Flow,
        still: Duration,
        cut: bool,
    },
}

/// A fault and the number of acknowledged events that it waits for.
#[derive(Clone, Debug)]
pub struct Due {
    pub at: u64,
    pub fault: Fault,
}

/// A fault that was injected.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Injected {
    pub what: String,
    pub at_seconds: f64,
    pub took_seconds: f64,
    pub acknowledged: u64,
}

/// The last fault is due before this share of the events is acknowledged.
const LAST: f64 = 0.92;

/// All faults of a run in their order.
pub fn schedule(options: &Options) -> Vec<Due> {
    let mut random = fastrand::Rng::with_seed(options.seed ^ 0x6661_756c_7473);
    let counts = &options.faults;
    let mut faults = Vec::with_capacity(counts.total());
    let (least, most) = options.down_ms;
    let mut down = || Duration::from_millis(random.u64(least..=most));
    faults.extend((0..counts.broker_kills).map(|_| Fault::KillBroker { down: down() }));
    faults.extend((0..counts.freezes).map(|_| Fault::Freeze { still: down() * 2 }));
    faults.extend((0..counts.stalls).map(|number| stall(number, down())));
    let mut slot = || random.usize(0..options.replicas);
    faults.extend((0..counts.drains).map(|_| Fault::Drain { slot: slot() }));
    let killed = |slot| Fault::KillBridge { slot, down: Duration::from_millis(50) };
    faults.extend((0..counts.bridge_kills).map(|_| killed(slot())));
    faults.extend((0..counts.rolls).map(|_| Fault::RollBrokers));
    faults.extend((0..counts.moves).map(|_| Fault::MoveLeader));
    faults.extend((0..counts.bridge_rolls).map(|_| Fault::RollBridges));
    faults.extend((0..counts.cuts).map(|_| Fault::Cut));
    random.shuffle(&mut faults);
    let share = LAST * options.events as f64 / faults.len().max(1) as f64;
    let due = |(number, fault)| Due { at: ((number as f64 + random.f64()) * share) as u64, fault };
    faults.into_iter().enumerate().map(due).collect()
}

/// Every step at which a connection can stall, in turn.
fn stall(number: usize, still: Duration) -> Fault {
    let ways = match number % 3 {
        0 => vec![Way::ToClient],
        1 => vec![Way::ToServer],
        _ => vec![Way::ToServer, Way::ToClient],
    };
    let flow = if number % 4 == 3 { Flow::Swallow } else { Flow::Stall };
    // Bytes were dropped, so the connection must not continue.
    Fault::Stall { ways, cut: flow == Flow::Swallow || number.is_multiple_of(2), flow, still }
}

/// Injects them all, or those that still meet traffic.
pub fn inject(
    faults: Vec<Due>,
    broker: &Broker,
    fleet: &Fleet,
    traffic: &Traffic,
    over: impl Fn() -> bool,
) -> Vec<Injected> {
    let (begun, mut injected) = (Instant::now(), Vec::new());
    let times: Vec<u64> = faults.iter().map(|due| due.at).collect();
    for (number, Due { at, fault }) in faults.into_iter().enumerate() {
        // Traffic waits for a fault that is due.
        traffic.hold_at(times.get(number + 1).copied().unwrap_or(u64::MAX));
        while traffic.acknowledged.load(Ordering::Relaxed) < at {
            if over() {
                return injected;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        if over() {
            return injected;
        }
        let acknowledged = traffic.acknowledged.load(Ordering::Relaxed);
        let (what, from) = (format!("{fault:?}"), Instant::now());
        apply(fault, broker, fleet);
        injected.push(Injected {
            what,
            at_seconds: from.duration_since(begun).as_secs_f64(),
            took_seconds: from.elapsed().as_secs_f64(),
            acknowledged,
        });
    }
    injected
}

fn apply(fault: Fault, broker: &Broker, fleet: &Fleet) {
    let proxy = || broker.proxy.as_ref().expect("such a run has a proxy");
    match fault {
        Fault::KillBroker { down } => broker.kill(down),
        Fault::Freeze { still } => broker.freeze(still),
        Fault::RollBrokers => broker.roll(),
        Fault::MoveLeader => broker.move_leader(),
        Fault::KillBridge { slot, down } => fleet.kill(slot, down),
        Fault::Drain { slot } => fleet.drain(slot),
        Fault::RollBridges => fleet.roll(),
        Fault::Cut => proxy().reset(),
        Fault::Stall { ways, flow, still, cut } => {
            ways.into_iter().for_each(|way| proxy().set(way, flow));
            std::thread::sleep(still);
            if cut {
                proxy().reset();
            }
            proxy().pass();
        }
    }
}
