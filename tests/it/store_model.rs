//! A model of the shared dedup protocol, explored state by state: two replicas, one event, three attempts of the sender, and
//! faults at any moment. The protocol keeps its laws, and each of its mutants breaks one.

use std::collections::{HashSet, VecDeque};

use crate::support::full_tier;

const ATTEMPTS: usize = 3;
const REPLICAS: usize = 2;

/// What may be wrong with a protocol; all false is ours.
#[derive(Clone, Copy, Default)]
struct Mutant {
    /// The id is remembered before the broker has acknowledged the event.
    remembers_early: bool,
    /// An id in flight at another replica is answered 200.
    busy_is_success: bool,
    /// A release deletes the claim whoever holds it.
    blind_release: bool,
    /// A claim may end while its publish is in flight.
    short_lease: bool,
    /// A commit is written for the broker of today, whichever broker has acknowledged it.
    commits_for_any_broker: bool,
    /// A publish that failed is committed.
    commits_failures: bool,
    /// A bridge that starts takes the generation that the store has, whichever brokers it belongs to.
    ignores_identity: bool,
    /// A replica that finds a new generation in the store goes on with its own memory.
    keeps_memory: bool,
    /// A commit is not written if another replica holds the claim. Harmless, and worse than ours.
    checks_commits: bool,
}

/// How often each fault may happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Faults {
    crashes: u8,
    /// A lease ends early: its replica was frozen, or clocks run apart.
    expiries: u8,
    lost_acks: u8,
    refusals: u8,
    /// The answer to a claim is lost.
    lost_claims: u8,
    /// The store forgets everything.
    flushes: u8,
    /// The broker loses its data.
    replaced_brokers: u8,
    /// The same while no bridge runs; the store is kept.
    replaced_while_down: u8,
}

const NONE: Faults = Faults {
    crashes: 0,
    expiries: 0,
    lost_acks: 0,
    refusals: 0,
    lost_claims: 0,
    flushes: 0,
    replaced_brokers: 0,
    replaced_while_down: 0,
};

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Cell {
    Free,
    Lease(usize),
    Done,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Attempt {
    New,
    /// At a replica that has to claim the id.
    Claiming(usize),
    /// At a replica that awaits the flight of that attempt.
    Waiting(usize, usize),
    Ended,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    None,
    /// Enqueued: it may be stored.
    Enqueued,
    Stored,
    /// Acknowledged, and not committed yet.
    ToCommit,
    ToRelease,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Flight {
    replica: usize,
    phase: Phase,
    /// Its replica is gone.
    dead: bool,
    /// Its claim is not its own any more, or never was: a second copy is excused.
    unprotected: bool,
    generation: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct World {
    copies: u8,
    /// Second copies that a fault explains.
    excused: u8,
    /// By generation.
    store: [Cell; 2],
    remembers: [bool; REPLICAS],
    /// Of the broker, and the one that each replica uses in the store.
    generation: usize,
    known: [usize; REPLICAS],
    /// The broker that each replica has seen: since its start, or since it noticed that it is another.
    sees: [usize; REPLICAS],
    flights: [Flight; ATTEMPTS],
    attempts: [Attempt; ATTEMPTS],
    faults: Faults,
    /// A law was broken.
    lost: bool,
}

impl World {
    fn new(faults: Faults) -> Self {
        let flight =
            Flight { replica: 0, phase: Phase::None, dead: false, unprotected: false, generation: 0 };
        Self {
            copies: 0,
            excused: 0,
            store: [Cell::Free; 2],
            remembers: [false; REPLICAS],
            generation: 0,
            known: [0; REPLICAS],
            sees: [0; REPLICAS],
            flights: [flight; ATTEMPTS],
            attempts: [Attempt::New; ATTEMPTS],
            faults,
            lost: false,
        }
    }

    /// Answers an attempt 200 because of what is remembered.
    fn answer_remembered(&mut self, attempt: usize, replica: usize) {
        self.attempts[attempt] = Attempt::Ended;
        // A replica that has not seen yet that the broker is another answers for the old one.
        self.lost |= self.copies == 0 && self.sees[replica] == self.generation;
    }

    fn end_waiting(&mut self, flight: usize) {
        for attempt in &mut self.attempts {
            if matches!(attempt, Attempt::Waiting(_, of) if *of == flight) {
                *attempt = Attempt::Ended;
            }
        }
    }

    /// The claim of a flight is gone while it lasts.
    fn unprotect(&mut self, flight: usize) {
        let Flight { phase, dead, .. } = self.flights[flight];
        if dead {
            return;
        }
        match phase {
            Phase::Enqueued => self.flights[flight].unprotected = true,
            Phase::Stored | Phase::ToCommit => self.excused += 1,
            Phase::None | Phase::ToRelease => {}
        }
    }

    fn begin_flight(&mut self, attempt: usize, replica: usize, unprotected: bool, mutant: Mutant) {
        let generation = self.known[replica];
        // Between two generations replicas do not share what they claim.
        let unprotected = unprotected || generation != self.generation;
        self.flights[attempt] =
            Flight { replica, phase: Phase::Enqueued, dead: false, unprotected, generation };
        self.attempts[attempt] = Attempt::Waiting(replica, attempt);
        if mutant.remembers_early {
            self.store[generation] = Cell::Done;
        }
    }

    /// Every world that may come next.
    fn next(&self, mutant: Mutant) -> Vec<Self> {
        let mut worlds = Vec::new();
        let mut add = |change: &dyn Fn(&mut Self)| {
            let mut world = *self;
            change(&mut world);
            worlds.push(world);
        };
        for attempt in 0..ATTEMPTS {
            match self.attempts[attempt] {
                Attempt::New => {
                    for replica in 0..REPLICAS {
                        add(&|world| world.arrive(attempt, replica));
                    }
                }
                Attempt::Claiming(replica) => {
                    add(&|world| world.claim(attempt, replica, mutant));
                    // The answer is due.
                    add(&|world| world.attempts[attempt] = Attempt::Ended);
                    if self.faults.lost_claims > 0 {
                        add(&|world| {
                            world.faults.lost_claims -= 1;
                            let cell = &mut world.store[world.known[replica]];
                            let own = *cell == Cell::Free;
                            if own {
                                *cell = Cell::Lease(attempt);
                            }
                            world.begin_flight(attempt, replica, !own, mutant);
                        });
                        // Nor did the claim arrive.
                        add(&|world| {
                            world.faults.lost_claims -= 1;
                            world.begin_flight(attempt, replica, true, mutant);
                        });
                    }
                }
                Attempt::Waiting(..) => add(&|world| world.attempts[attempt] = Attempt::Ended),
                Attempt::Ended => {}
            }
            self.next_of_flight(attempt, mutant, &mut add);
        }
        for generation in 0..2 {
            if let Cell::Lease(owner) = self.store[generation] {
                let flight = self.flights[owner];
                let ended = flight.dead || flight.phase == Phase::None;
                if ended || mutant.short_lease {
                    add(&|world| world.store[generation] = Cell::Free);
                } else if self.faults.expiries > 0 {
                    add(&|world| {
                        world.faults.expiries -= 1;
                        world.store[generation] = Cell::Free;
                        world.unprotect(owner);
                    });
                }
            }
        }
        for replica in 0..REPLICAS {
            if self.faults.crashes > 0 {
                add(&|world| {
                    world.faults.crashes -= 1;
                    world.die(replica);
                });
            }
        }
        if self.faults.flushes > 0 {
            add(&|world| {
                world.faults.flushes -= 1;
                for generation in 0..2 {
                    match world.store[generation] {
                        Cell::Free => {}
                        Cell::Lease(owner) => world.unprotect(owner),
                        Cell::Done => world.excused += 1,
                    }
                    world.store[generation] = Cell::Free;
                }
            });
        }
        if self.faults.replaced_brokers > 0 {
            add(&|world| {
                world.faults.replaced_brokers -= 1;
                world.replace_broker();
            });
        }
        if self.faults.replaced_while_down > 0 {
            add(&|world| {
                world.faults.replaced_while_down -= 1;
                (0..REPLICAS).for_each(|replica| world.die(replica));
                world.replace_broker();
                world.sees = [1; REPLICAS];
                if !mutant.ignores_identity {
                    world.known = [1; REPLICAS];
                }
            });
        }
        // A replica finds the generation that another one has begun.
        for replica in 0..REPLICAS {
            if self.known[replica] == 0 && self.known.contains(&1) {
                add(&|world| {
                    (world.known[replica], world.sees[replica]) = (1, 1);
                    world.remembers[replica] &= mutant.keeps_memory;
                });
            }
        }
        worlds
    }

    fn replace_broker(&mut self) {
        self.generation = 1;
        (self.copies, self.excused) = (0, 0);
        (0..ATTEMPTS).for_each(|flight| self.flights[flight].unprotected = true);
    }

    fn arrive(&mut self, attempt: usize, replica: usize) {
        if self.sees[replica] != self.generation {
            (self.sees[replica], self.known[replica]) = (self.generation, self.generation);
            self.remembers[replica] = false;
        }
        if self.remembers[replica] {
            return self.answer_remembered(attempt, replica);
        }
        let local = (0..ATTEMPTS).find(|flight| {
            let Flight { replica: of, phase, dead, .. } = self.flights[*flight];
            of == replica && !dead && matches!(phase, Phase::Enqueued | Phase::Stored)
        });
        let claiming = self.attempts.contains(&Attempt::Claiming(replica));
        match local {
            Some(flight) => self.attempts[attempt] = Attempt::Waiting(replica, flight),
            // Local flights are first: one of a replica claims. The other shares its fate, and is left out.
            None if claiming => self.attempts[attempt] = Attempt::Ended,
            None => self.attempts[attempt] = Attempt::Claiming(replica),
        }
    }

    fn claim(&mut self, attempt: usize, replica: usize, mutant: Mutant) {
        let cell = &mut self.store[self.known[replica]];
        match *cell {
            Cell::Free => {
                *cell = Cell::Lease(attempt);
                self.begin_flight(attempt, replica, false, mutant);
            }
            Cell::Done => {
                self.remembers[replica] = true;
                self.answer_remembered(attempt, replica);
            }
            Cell::Lease(_) if mutant.busy_is_success => self.answer_remembered(attempt, replica),
            // Asked for again.
            Cell::Lease(_) => {}
        }
    }

    fn next_of_flight(&self, at: usize, mutant: Mutant, add: &mut impl FnMut(&dyn Fn(&mut Self))) {
        let Flight { replica, phase, dead, unprotected, generation } = self.flights[at];
        if dead {
            return;
        }
        let old_broker = generation != self.generation;
        match phase {
            Phase::None => {}
            Phase::Enqueued => {
                add(&|world| {
                    world.flights[at].phase = Phase::Stored;
                    world.copies += 1;
                    world.excused += u8::from(unprotected);
                });
                if self.faults.refusals > 0 {
                    add(&|world| {
                        world.faults.refusals -= 1;
                        world.flights[at].phase =
                            if mutant.commits_failures { Phase::ToCommit } else { Phase::ToRelease };
                        world.end_waiting(at);
                    });
                }
            }
            Phase::Stored => {
                add(&|world| {
                    world.flights[at].phase = Phase::ToCommit;
                    world.remembers[replica] |= world.known[replica] == generation;
                    // What a broker has acknowledged and then lost is no loss of the bridge.
                    world.lost |= world.copies == 0 && !old_broker;
                    world.end_waiting(at);
                });
                if self.faults.lost_acks > 0 {
                    add(&|world| {
                        world.faults.lost_acks -= 1;
                        world.excused += 1;
                        world.flights[at].phase = Phase::ToRelease;
                        world.end_waiting(at);
                    });
                }
            }
            Phase::ToCommit => add(&|world| {
                world.flights[at].phase = Phase::None;
                let of = if mutant.commits_for_any_broker { world.generation } else { generation };
                let held = world.store[of] == Cell::Lease(at);
                if held || !mutant.checks_commits {
                    world.store[of] = Cell::Done;
                }
            }),
            Phase::ToRelease => add(&|world| {
                world.flights[at].phase = Phase::None;
                if mutant.blind_release || world.store[generation] == Cell::Lease(at) {
                    world.store[generation] = Cell::Free;
                }
            }),
        }
    }

    fn die(&mut self, replica: usize) {
        self.remembers[replica] = false;
        for attempt in &mut self.attempts {
            if matches!(attempt, Attempt::Claiming(at) | Attempt::Waiting(at, _) if *at == replica) {
                *attempt = Attempt::Ended;
            }
        }
        for flight in self.flights.iter_mut().filter(|flight| flight.replica == replica && !flight.dead) {
            self.excused += u8::from(matches!(flight.phase, Phase::Stored | Phase::ToCommit));
            flight.dead = true;
        }
    }

    fn verdict(&self) -> Result<(), &'static str> {
        if self.lost {
            return Err("loss: answered 200 without a copy");
        }
        if self.copies > 1 + self.excused { Err("a copy that no fault explains") } else { Ok(()) }
    }
}

/// What was found: the number of worlds, the most copies, and the first broken law.
struct Explored {
    worlds: usize,
    copies: u8,
    broken: Option<&'static str>,
}

fn explore(faults: Faults, mutant: Mutant) -> Explored {
    let first = World::new(faults);
    let (mut seen, mut queue) = (HashSet::from([first]), VecDeque::from([first]));
    let mut copies = 0;
    while let Some(world) = queue.pop_front() {
        if let Err(broken) = world.verdict() {
            return Explored { worlds: seen.len(), copies, broken: Some(broken) };
        }
        copies = copies.max(world.copies);
        queue.extend(world.next(mutant).into_iter().filter(|next| seen.insert(*next)));
    }
    Explored { worlds: seen.len(), copies, broken: None }
}

/// Each fault alone, and in pairs: all pairs in the full tier.
fn faults() -> Vec<Faults> {
    let singles: [fn(&mut Faults); 8] = [
        |faults| faults.crashes += 1,
        |faults| faults.expiries += 1,
        |faults| faults.lost_acks += 1,
        |faults| faults.refusals += 1,
        |faults| faults.lost_claims += 1,
        |faults| faults.flushes += 1,
        |faults| faults.replaced_brokers += 1,
        |faults| faults.replaced_while_down += 1,
    ];
    let with = |faults: &[fn(&mut Faults)]| {
        let mut all = NONE;
        faults.iter().for_each(|fault| fault(&mut all));
        all
    };
    let mut all = vec![NONE, Faults { expiries: 1, refusals: 1, ..NONE }];
    all.extend(singles.map(|fault| with(&[fault])));
    if full_tier() {
        let pairs = singles
            .iter()
            .enumerate()
            .flat_map(|(at, first)| singles[..at].iter().map(|second| [*first, *second]));
        all.extend(pairs.map(|pair| with(&pair)));
    }
    all
}

#[test]
fn the_protocol_loses_nothing_and_every_second_copy_has_its_fault() {
    let mut worlds = 0;
    for faults in faults() {
        let found = explore(faults, Mutant::default());
        assert_eq!(found.broken, None);
        worlds += found.worlds;
    }
    assert!(worlds > 30_000, "only {worlds} worlds");
    assert_eq!(explore(NONE, Mutant::default()).copies, 1, "without a fault there is one copy");
}

#[test]
fn every_broken_protocol_is_found() {
    let ours = Mutant::default();
    let mutants = [
        ("remembers early", Mutant { remembers_early: true, ..ours }, "loss"),
        ("busy is success", Mutant { busy_is_success: true, ..ours }, "loss"),
        ("commits failures", Mutant { commits_failures: true, ..ours }, "loss"),
        ("commits for any broker", Mutant { commits_for_any_broker: true, ..ours }, "loss"),
        ("ignores identity", Mutant { ignores_identity: true, ..ours }, "loss"),
        ("keeps memory", Mutant { keeps_memory: true, ..ours }, "loss"),
        ("blind release", Mutant { blind_release: true, ..ours }, "a copy"),
        ("short lease", Mutant { short_lease: true, ..ours }, "a copy"),
    ];
    for (name, mutant, law) in mutants {
        let broken: Vec<_> =
            faults().into_iter().filter_map(|faults| explore(faults, mutant).broken).collect();
        assert!(broken.iter().any(|broken| broken.starts_with(law)), "{name}: {broken:?}");
    }
}

#[test]
fn a_commit_needs_no_owner_check() {
    for faults in faults() {
        let ours = explore(faults, Mutant::default());
        let checked = explore(faults, Mutant { checks_commits: true, ..Mutant::default() });
        assert_eq!((ours.broken, checked.broken), (None, None));
        assert!(ours.copies <= checked.copies);
    }
}
