//! A model of the shared dedup protocol, explored state by state: two replicas, one event, three attempts of the sender, and
//! faults at any moment. The protocol keeps its laws, and each of its mutants breaks one.
//!
//! Brokers are replaced up to twice; the third are the first ones, restored from a copy without the event. A replica
//! notices other brokers some time, and then learns from the register which generation is theirs.

use std::collections::{HashSet, VecDeque};

use crate::support::full_tier;

const ATTEMPTS: usize = 3;
const REPLICAS: usize = 2;
/// Numbers of generations.
const GENERATIONS: usize = 5;

/// Which brokers these are, as they tell it.
const fn identity(brokers: usize) -> usize {
    brokers % 2
}

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
    /// A commit is written under the generation of today, whichever brokers have acknowledged it.
    commits_for_any_broker: bool,
    /// A publish that failed is committed.
    commits_failures: bool,
    /// There is one generation for all brokers.
    ignores_identity: bool,
    /// A replica that finds a new generation in the store goes on with its own memory.
    keeps_memory: bool,
    /// A bridge that runs takes the generation that former brokers had.
    goes_back: bool,
    /// A loss counts only if a generation was known before it.
    forgets_early_losses: bool,
    /// The next number is that behind those of the register, also if it was lost.
    reuses_numbers: bool,
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
    /// The brokers are replaced by others, under running bridges.
    replaced_brokers: u8,
    /// They lose their data, and stay the same brokers.
    truncations: u8,
    /// They are replaced while no bridge runs; the store is kept.
    replaced_while_down: u8,
    /// The store loses the register alone, while bridges run.
    lost_registers: u8,
}

const NONE: Faults = Faults {
    crashes: 0,
    expiries: 0,
    lost_acks: 0,
    refusals: 0,
    lost_claims: 0,
    flushes: 0,
    replaced_brokers: 0,
    truncations: 0,
    replaced_while_down: 0,
    lost_registers: 0,
};

impl Faults {
    fn of_brokers(self) -> u8 {
        self.replaced_brokers + self.truncations + self.replaced_while_down + self.lost_registers
    }
}

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
    /// Its claim is not its own any more, or never was: a second copy is excused.
    unprotected: bool,
    /// None where it was published without the store.
    generation: Option<usize>,
    brokers: usize,
}

impl Flight {
    /// None, or one that has ended.
    const NONE: Self =
        Self { replica: 0, phase: Phase::None, unprotected: false, generation: None, brokers: 0 };
}

/// What a replica knows of the register.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Known {
    generation: usize,
    identity: usize,
    newest: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct World {
    copies: u8,
    /// Second copies that a fault explains.
    excused: u8,
    /// By generation.
    store: [Cell; GENERATIONS],
    /// The generation of each identity, and the greatest number that was given.
    register: [Option<usize>; 2],
    given: usize,
    remembers: [bool; REPLICAS],
    brokers: usize,
    /// Those that each replica has seen: since its start, or since it noticed others.
    sees: [usize; REPLICAS],
    /// Those that it has to answer for: it has seen them, or found a generation that was begun for them.
    held_to: [usize; REPLICAS],
    /// The brokers for which each generation was begun.
    begun_for: [usize; GENERATIONS],
    /// None since its start.
    known: [Option<Known>; REPLICAS],
    /// A loss was noticed since it was learned.
    stale: [bool; REPLICAS],
    flights: [Flight; ATTEMPTS],
    attempts: [Attempt; ATTEMPTS],
    /// Those that run.
    replicas: usize,
    faults: Faults,
    /// A law was broken.
    lost: bool,
}

impl World {
    fn new(faults: Faults) -> Self {
        let mut attempts = [Attempt::New; ATTEMPTS];
        if faults.of_brokers() > 0 {
            // Two are enough, and there are too many worlds with three. The same of two replicas.
            attempts[ATTEMPTS - 1] = Attempt::Ended;
        }
        let replicas = if faults.of_brokers() > 1 { 1 } else { REPLICAS };
        Self {
            copies: 0,
            excused: 0,
            store: [Cell::Free; GENERATIONS],
            register: [Some(0), None],
            given: 0,
            remembers: [false; REPLICAS],
            brokers: 0,
            sees: [0; REPLICAS],
            held_to: [0; REPLICAS],
            begun_for: [0; GENERATIONS],
            known: [Some(Known { generation: 0, identity: 0, newest: 0 }); REPLICAS],
            stale: [false; REPLICAS],
            flights: [Flight::NONE; ATTEMPTS],
            attempts,
            replicas,
            faults,
            lost: false,
        }
    }

    /// Answers an attempt 200 because of what is remembered.
    fn answer_remembered(&mut self, attempt: usize, replica: usize) {
        self.attempts[attempt] = Attempt::Ended;
        // A replica that has not seen yet that the broker is another answers for the old one.
        self.lost |= self.copies == 0 && self.held_to[replica] == self.brokers;
    }

    fn end_waiting(&mut self, flight: usize) {
        for attempt in &mut self.attempts {
            if matches!(attempt, Attempt::Waiting(_, of) if *of == flight) {
                *attempt = Attempt::Ended;
            }
        }
    }

    /// A fault explains one more copy; more than there are attempts are as good as these.
    fn excuse(&mut self) {
        self.excused = (self.excused + 1).min(ATTEMPTS as u8);
    }

    /// The claim of a flight is gone while it lasts.
    fn unprotect(&mut self, flight: usize) {
        match self.flights[flight].phase {
            Phase::Enqueued => self.flights[flight].unprotected = true,
            Phase::Stored | Phase::ToCommit => self.excuse(),
            Phase::None | Phase::ToRelease => {}
        }
    }

    /// The generation that a replica uses, while it knows it.
    fn present(&self, replica: usize) -> Option<usize> {
        self.known[replica].filter(|_| !self.stale[replica]).map(|known| known.generation)
    }

    fn begin_flight(&mut self, attempt: usize, replica: usize, unprotected: bool, mutant: Mutant) {
        let generation = self.present(replica);
        // Where replicas use different generations they do not share what they claim.
        let shared =
            (0..self.replicas).all(|other| self.present(other) == generation) && generation.is_some();
        self.flights[attempt] = Flight {
            replica,
            phase: Phase::Enqueued,
            unprotected: unprotected || !shared,
            generation,
            brokers: self.brokers,
        };
        self.attempts[attempt] = Attempt::Waiting(replica, attempt);
        if let Some(generation) = generation
            && mutant.remembers_early
        {
            self.store[generation] = Cell::Done;
        }
    }

    /// Reads the register, and begins a generation where that is needed.
    fn learn(&mut self, replica: usize, mutant: Mutant) {
        let (known, is_lost) = (self.known[replica], self.stale[replica]);
        let identity = if mutant.ignores_identity { 0 } else { identity(self.sees[replica]) };
        let stored = self.register[identity];
        let next = match mutant.reuses_numbers {
            true => self.register.iter().flatten().max().map_or(0, |last| last + 1),
            false if known.is_none() && self.register == [None; 2] => 0,
            false => self.given + 1,
        };
        let same = known.filter(|known| known.identity == identity);
        let since = same.map(|known| known.generation).or(known.map(|known| known.newest));
        let generation = match (since, stored) {
            (Some(_), Some(stored)) if mutant.goes_back && same.is_none() => stored,
            (Some(since), Some(stored)) if stored > since => stored,
            (Some(_), _) => same.filter(|_| !is_lost).map_or(next, |known| known.generation),
            (None, Some(stored)) if !is_lost || mutant.forgets_early_losses => stored,
            (None, _) => next,
        };
        if generation >= GENERATIONS {
            return;
        }
        if self.register[identity] != Some(generation) && generation > self.given {
            (self.given, self.begun_for[generation]) = (generation, self.sees[replica]);
        }
        self.register[identity] = Some(generation);
        let newest = self.register.iter().flatten().copied().max().unwrap_or(generation);
        self.stale[replica] = false;
        self.known[replica] = Some(Known { generation, identity, newest });
        if known.is_some_and(|known| known.generation == generation) {
            return;
        }
        self.remembers[replica] &= mutant.keeps_memory;
        self.held_to[replica] = self.held_to[replica].max(self.begun_for[generation]);
        // What was remembered under another generation is published again.
        self.excuse();
        for flight in 0..ATTEMPTS {
            if self.flights[flight].generation != Some(generation) {
                self.unprotect(flight);
            }
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
                    for replica in 0..self.replicas {
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
                            let present = world.present(replica);
                            let own = present.is_some_and(|at| world.store[at] == Cell::Free);
                            if let Some(at) = present.filter(|_| own) {
                                world.store[at] = Cell::Lease(attempt);
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
        for generation in 0..GENERATIONS {
            if let Cell::Lease(owner) = self.store[generation] {
                let ended = self.flights[owner].phase == Phase::None;
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
        for replica in 0..self.replicas {
            // One that starts after a restore cannot tell: replicas.md says what to do.
            if self.faults.crashes > 0 && self.brokers < 2 {
                add(&|world| {
                    world.faults.crashes -= 1;
                    world.die(replica);
                });
            }
        }
        if self.faults.flushes > 0 {
            add(&|world| {
                world.faults.flushes -= 1;
                for generation in 0..GENERATIONS {
                    match world.store[generation] {
                        Cell::Free => {}
                        Cell::Lease(owner) => world.unprotect(owner),
                        Cell::Done => world.excuse(),
                    }
                    world.store[generation] = Cell::Free;
                }
                world.register = [None; 2];
            });
        }
        if self.faults.lost_registers > 0 {
            add(&|world| {
                world.faults.lost_registers -= 1;
                world.register = [None; 2];
            });
        }
        if self.faults.replaced_brokers > 0 {
            add(&|world| {
                world.faults.replaced_brokers -= 1;
                world.replace_brokers();
            });
        }
        if self.faults.truncations > 0 {
            add(&|world| {
                world.faults.truncations -= 1;
                world.replace_brokers();
                world.brokers += 1;
            });
        }
        if self.faults.replaced_while_down > 0 {
            add(&|world| {
                world.faults.replaced_while_down -= 1;
                (0..REPLICAS).for_each(|replica| world.die(replica));
                world.replace_brokers();
                world.sees = [world.brokers; REPLICAS];
                world.held_to = world.sees;
            });
        }
        for replica in 0..self.replicas {
            let learns = || {
                let mut world = *self;
                world.learn(replica, mutant);
                world.known != self.known || world.stale != self.stale || world.register != self.register
            };
            if learns() {
                add(&|world| world.learn(replica, mutant));
            }
            if self.sees[replica] != self.brokers {
                add(&|world| world.notice(replica));
            }
        }
        worlds
    }

    fn replace_brokers(&mut self) {
        self.brokers += 1;
        (self.copies, self.excused) = (0, 0);
        let lasting = self.flights.iter_mut().filter(|flight| flight.phase != Phase::None);
        lasting.for_each(|flight| flight.unprotected = true);
    }

    fn notice(&mut self, replica: usize) {
        if self.sees[replica] != self.brokers {
            (self.sees[replica], self.stale[replica]) = (self.brokers, true);
            self.held_to[replica] = self.brokers;
            self.remembers[replica] = false;
        }
    }

    fn arrive(&mut self, attempt: usize, replica: usize) {
        if self.remembers[replica] {
            return self.answer_remembered(attempt, replica);
        }
        let local = (0..ATTEMPTS).find(|flight| {
            let Flight { replica: of, phase, .. } = self.flights[*flight];
            of == replica && matches!(phase, Phase::Enqueued | Phase::Stored)
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
        let Some(generation) = self.present(replica) else {
            // Published on its own memory alone.
            return self.begin_flight(attempt, replica, true, mutant);
        };
        match self.store[generation] {
            Cell::Free => {
                self.store[generation] = Cell::Lease(attempt);
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
        let Flight { replica, phase, unprotected, generation, brokers } = self.flights[at];
        let old_broker = brokers != self.brokers;
        match phase {
            Phase::None => {}
            Phase::Enqueued => {
                add(&|world| {
                    world.flights[at].phase = Phase::Stored;
                    // It goes to the brokers that are there now.
                    world.flights[at].brokers = world.brokers;
                    world.copies += 1;
                    if unprotected {
                        world.excuse();
                    }
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
                    world.remembers[replica] |= world.present(replica) == generation && !old_broker;
                    // What a broker has acknowledged and then lost is no loss of the bridge.
                    world.lost |= world.copies == 0 && !old_broker;
                    world.end_waiting(at);
                });
                if self.faults.lost_acks > 0 {
                    add(&|world| {
                        world.faults.lost_acks -= 1;
                        world.excuse();
                        world.flights[at].phase = Phase::ToRelease;
                        world.end_waiting(at);
                    });
                }
            }
            Phase::ToCommit => add(&|world| {
                world.flights[at] = Flight::NONE;
                let present = world.present(replica);
                let of = if mutant.commits_for_any_broker { present } else { generation };
                // What belongs to another generation than the present one is dropped.
                if let Some(of) = of.filter(|of| present == Some(*of)) {
                    let held = world.store[of] == Cell::Lease(at);
                    if held || !mutant.checks_commits {
                        world.store[of] = Cell::Done;
                    }
                }
            }),
            Phase::ToRelease => add(&|world| {
                world.flights[at] = Flight::NONE;
                if let Some(generation) = generation
                    && (mutant.blind_release || world.store[generation] == Cell::Lease(at))
                {
                    world.store[generation] = Cell::Free;
                }
            }),
        }
    }

    fn die(&mut self, replica: usize) {
        (self.known[replica], self.stale[replica]) = (None, false);
        (self.sees[replica], self.held_to[replica]) = (self.brokers, self.brokers);
        self.remembers[replica] = false;
        for attempt in &mut self.attempts {
            if matches!(attempt, Attempt::Claiming(at) | Attempt::Waiting(at, _) if *at == replica) {
                *attempt = Attempt::Ended;
            }
        }
        for at in 0..ATTEMPTS {
            let Flight { replica: of, phase, .. } = self.flights[at];
            if of == replica {
                if matches!(phase, Phase::Stored | Phase::ToCommit) {
                    self.excuse();
                }
                self.flights[at] = Flight::NONE;
            }
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
    let singles: [fn(&mut Faults); 10] = [
        |faults| faults.crashes += 1,
        |faults| faults.expiries += 1,
        |faults| faults.lost_acks += 1,
        |faults| faults.refusals += 1,
        |faults| faults.lost_claims += 1,
        |faults| faults.flushes += 1,
        |faults| faults.replaced_brokers += 1,
        |faults| faults.truncations += 1,
        |faults| faults.replaced_while_down += 1,
        |faults| faults.lost_registers += 1,
    ];
    let with = |faults: &[fn(&mut Faults)]| {
        let mut all = NONE;
        faults.iter().for_each(|fault| fault(&mut all));
        all
    };
    let mut all = vec![
        NONE,
        Faults { expiries: 1, refusals: 1, ..NONE },
        Faults { replaced_brokers: 2, ..NONE },
        Faults { replaced_brokers: 2, crashes: 1, ..NONE },
        Faults { replaced_brokers: 1, lost_registers: 1, ..NONE },
    ];
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
        ("goes back", Mutant { goes_back: true, ..ours }, "loss"),
        ("forgets early losses", Mutant { forgets_early_losses: true, ..ours }, "loss"),
        ("reuses numbers", Mutant { reuses_numbers: true, ..ours }, "loss"),
        ("keeps memory", Mutant { keeps_memory: true, ..ours }, "loss"),
        ("blind release", Mutant { blind_release: true, ..ours }, "a copy"),
        ("short lease", Mutant { short_lease: true, ..ours }, "a copy"),
    ];
    for (name, mutant, law) in mutants {
        let breaks = |faults| explore(faults, mutant).broken.is_some_and(|broken| broken.starts_with(law));
        assert!(faults().into_iter().any(breaks), "{name} is not found");
    }
}

#[test]
fn a_commit_needs_no_owner_check() {
    for faults in faults().into_iter().filter(|faults| faults.of_brokers() == 0) {
        let ours = explore(faults, Mutant::default());
        let checked = explore(faults, Mutant { checks_commits: true, ..Mutant::default() });
        assert_eq!((ours.broken, checked.broken), (None, None));
        assert!(ours.copies <= checked.copies);
    }
}
