//! Whether the brokers that a client is connected to belong to the cluster that gave it its producer id.
//!
//! librdkafka reconnects by itself and resends at once what is in flight. If a cluster was formatted anew behind
//! the same address, another producer may have the same producer id there. Where their sequence numbers meet, the
//! broker takes one message for a repeat of the other and answers with the offset of that one: an ack for
//! a message that is not stored. So an ack counts only while every connected broker is confirmed: since it was
//! connected it has answered a request with the cluster id that the client knows, and no topic has another id.
//! Until then acks are held.
//!
//! A cluster that was restored from an old copy has the same ids, and gives producer ids away again. So a client that
//! was cut off from every broker is replaced by one with a new producer id, once none of its messages is pending. And
//! the end offset of a partition is behind every acknowledged message, and a new ack has a higher offset than the
//! ones before.
//!
//! rdkafka has no callback for a new connection. librdkafka logs it, in the thread of that broker and before
//! anything is sent, and rdkafka hands out log lines before acks ([`DEBUG`]). If librdkafka changes these lines, no
//! broker is ever confirmed and no ack counts, which every test notices.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::end_offsets::{EndOffsets, KnownEndOffsets};
use super::record::Pending;
use super::told::Told;
use crate::pipeline::publish::BrokerIdentity;

/// The contexts of librdkafka's debug log that hold the lines read here; few lines, none for each message.
pub(super) const DEBUG: &str = "broker,metadata";
/// How long a connected broker may take to answer.
const CONFIRMATION: Duration = Duration::from_secs(10);

/// An id that librdkafka does not know.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

#[derive(Default)]
pub(super) struct ClusterIdentity(Mutex<State>);

#[derive(Default)]
struct State {
    cluster: Option<String>,
    /// The id of every topic that was published to.
    topics: HashMap<String, String>,
    end_offsets: KnownEndOffsets,
    /// The end offsets were asked for.
    has_baseline: bool,
    brokers: HashMap<String, Connection>,
    round: u64,
    /// Since when a broker is not confirmed.
    since: Option<Instant>,
    /// A broker has been confirmed.
    confirmed: bool,
    /// When the last broker was lost after that.
    cut_off: Option<Instant>,
    /// Acknowledged while a broker was not confirmed.
    held: Vec<Acknowledged>,
    invalid: Option<Invalid>,
    told: Told,
}

/// A message, and where it was acknowledged.
pub(super) struct Acknowledged {
    pub pending: Pending,
    pub partition: i32,
    pub offset: i64,
}

#[derive(Clone, Copy)]
struct Connection {
    /// The last round that began before it was open.
    opened: u64,
    /// The last round that it answered.
    answered: u64,
}

impl Connection {
    const fn is_confirmed(self) -> bool {
        self.answered > self.opened
    }
}

/// Why no ack of this client counts any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Invalid {
    pub reason: Arc<str>,
    /// Whether another cluster or topic was seen, and not only a connection that came and went.
    pub changed: bool,
}

/// What a log line changed.
pub(super) enum Change {
    /// A broker was connected and is to be confirmed.
    Connected,
    /// Every broker is confirmed: these are acknowledged.
    Confirmed(Vec<Acknowledged>),
    /// No ack counts any more, not those of these messages either.
    Invalid(Invalid, Vec<Pending>),
}

/// What to make of an ack.
pub(super) enum AckVerdict {
    /// The message is stored.
    Accept(Acknowledged),
    /// Whether it is stored is not known yet: the ack is held.
    Hold,
    /// The ack may be another message's. The change is not reported yet.
    Reject(Pending, Arc<str>, Option<Change>),
}

impl ClusterIdentity {
    /// That of a client which takes over from another one: what that one knew holds for it too, unless it is
    /// known to be of another cluster.
    pub(super) fn after(previous: &Self) -> Self {
        let previous = previous.0.lock();
        if previous.invalid.as_ref().is_some_and(|invalid| invalid.changed) {
            return Self::default();
        }
        let (cluster, topics) = (previous.cluster.clone(), previous.topics.clone());
        Self(Mutex::new(State {
            cluster,
            topics,
            end_offsets: previous.end_offsets.clone(),
            told: previous.told.clone(),
            ..State::default()
        }))
    }

    /// Reads a line of librdkafka's log. `unsettled`: some message has no ack yet.
    pub(super) fn read(&self, facility: &str, line: &str, unsettled: bool) -> Option<Change> {
        let line =
            line.strip_prefix("[thrd:").and_then(|line| line.split_once("]: ")).map_or(line, |(_, l)| l);
        let mut state = self.0.lock();
        match facility {
            "STATE" => {
                let (broker, states) = line.split_once(": Broker changed state ")?;
                match states.split_once(" -> ")?.1 {
                    // A login that is renewed passes other states on the same connection.
                    "UP" if state.brokers.contains_key(broker) => None,
                    "UP" => state.connection_changed(broker, true, unsettled),
                    "DOWN" | "INIT" | "TRY_CONNECT" => state.connection_changed(broker, false, unsettled),
                    _ => None,
                }
            }
            "UPDATE" => {
                let (before, now) = line.split_once(": Name changed from ")?.1.split_once(" to ")?;
                let connection = state.brokers.remove(before)?;
                state.brokers.insert(now.to_owned(), connection);
                None
            }
            "METADATA" => {
                if let Some((_, id)) = line.split_once(": ClusterId: ") {
                    state.answered(id.split_once(", ControllerId: ")?.0)
                } else if let Some((broker, topic)) = line.split_once(":   Topic ?") {
                    state.probe_answered(broker, topic.split(' ').next()?.parse().ok()?)
                } else {
                    let (topic, ids) = line.strip_prefix("Topic ")?.split_once(" changed id from ")?;
                    state.topic(topic, ids.split_once(" to ")?.1)
                }
            }
            _ => None,
        }
    }

    /// Judges an ack with the offset that the broker named.
    pub(super) fn verdict_on(&self, pending: Pending, partition: i32, offset: i64) -> AckVerdict {
        let mut state = self.0.lock();
        if let Some(invalid) = &state.invalid {
            return AckVerdict::Reject(pending, Arc::clone(&invalid.reason), None);
        }
        let topic = &*pending.destination.address;
        let end = state.end_offsets.get(topic, partition);
        if offset < end {
            let reason: Arc<str> = format!(
                "topic {topic}, partition {partition}: a message was acknowledged at \
                 offset {offset}, but the partition had ended at {end}"
            )
            .into();
            let change = state.invalidate(Arc::clone(&reason), true);
            return AckVerdict::Reject(pending, reason, change);
        }
        if state.are_confirmed() {
            state.end_offsets.acknowledged(topic, partition, offset);
            return AckVerdict::Accept(Acknowledged { pending, partition, offset });
        }
        state.held.push(Acknowledged { pending, partition, offset });
        AckVerdict::Hold
    }

    /// These topics exist, and the answers that tell their ids were read.
    pub(super) fn found(&self, topics: &[Arc<str>]) {
        let State { told, cluster, topics: ids, .. } = &mut *self.0.lock();
        told.found(cluster.as_deref(), topics, ids);
    }

    /// Which cluster and topics these are, unless others were seen meanwhile.
    pub(super) fn told(&self) -> Option<Arc<BrokerIdentity>> {
        let state = self.0.lock();
        let changed = state.invalid.as_ref().is_some_and(|invalid| invalid.changed);
        if changed { None } else { state.told.identity() }
    }

    /// Those of the topics that are to be asked for now, because it is not known what they are.
    pub(super) fn unknown(&self, topics: &[Arc<str>]) -> Vec<Arc<str>> {
        self.0.lock().told.unknown(topics)
    }

    /// The topics whose ids are known.
    pub(super) fn topics(&self) -> Vec<String> {
        self.0.lock().topics.keys().cloned().collect()
    }

    /// Begins a round of requests that confirms brokers: its number, and the topics to ask for first.
    pub(super) fn begin_round(&self) -> (u64, BTreeSet<String>) {
        let mut state = self.0.lock();
        state.round += 1;
        (state.round, state.topics.keys().chain(state.end_offsets.topics()).cloned().collect())
    }

    /// The partitions that were acknowledged last, each with its end: these are not in an old copy.
    pub(super) fn latest(&self) -> HashMap<(String, i32), i64> {
        self.0.lock().end_offsets.latest()
    }

    /// Whether a connected broker is not confirmed for so short a time that all it was asked for can be waited for.
    pub(super) fn is_recent(&self) -> bool {
        self.0.lock().since.is_none_or(|since| since.elapsed() < CONFIRMATION / 3)
    }

    /// Whether the end offsets of the partitions were asked for.
    pub(super) fn has_baseline(&self) -> bool {
        self.0.lock().has_baseline
    }

    /// Sets the end offsets of partitions, if the brokers told them while no message was unsettled.
    pub(super) fn set_baseline(&self, end_offsets: Option<EndOffsets>) {
        let mut state = self.0.lock();
        state.has_baseline = true;
        if let Some(end_offsets) = end_offsets {
            state.end_offsets.told(end_offsets);
        }
    }

    /// A partition ends here, before messages that were acknowledged.
    pub(super) fn truncated(&self, topic: &str, partition: i32, end: i64) -> Option<Change> {
        let mut state = self.0.lock();
        let known = state.end_offsets.get(topic, partition);
        let reason = format!("topic {topic}, partition {partition} ended at {known} and now ends at {end}");
        state.invalidate(reason.into(), true)
    }

    /// Whether at least one broker is connected, and every connected one is confirmed.
    pub(super) fn is_confirmed(&self) -> bool {
        let state = self.0.lock();
        state.invalid.is_none() && !state.brokers.is_empty() && state.are_confirmed()
    }

    /// When the last connection to a broker was lost, if one had been confirmed.
    pub(super) fn cut_off(&self) -> Option<Instant> {
        self.0.lock().cut_off
    }

    /// Whether every connected broker has answered this round.
    pub(super) fn has_answered(&self, round: u64) -> bool {
        let state = self.0.lock();
        !state.brokers.is_empty() && state.brokers.values().all(|connection| connection.answered >= round)
    }

    /// Whether the broker with this id is connected and is to be confirmed.
    pub(super) fn is_to_confirm(&self, broker: i32) -> bool {
        let is_it = |name: &str| name.rsplit_once('/').is_some_and(|(_, id)| id.parse() == Ok(broker));
        let state = self.0.lock();
        state.brokers.iter().any(|(name, connection)| !connection.is_confirmed() && is_it(name))
    }

    /// Whether a connected broker is to be confirmed.
    pub(super) fn is_unconfirmed(&self) -> bool {
        let state = self.0.lock();
        state.invalid.is_none() && !state.brokers.values().all(|connection| connection.is_confirmed())
    }

    /// Whether a connected broker has not answered for too long.
    pub(super) fn is_overdue(&self) -> bool {
        self.0.lock().since.is_some_and(|since| since.elapsed() > CONFIRMATION)
    }

    /// Why no ack counts any more.
    pub(super) fn invalid(&self) -> Option<Invalid> {
        self.0.lock().invalid.clone()
    }

    /// Lets no ack count from now on; returns the messages that were held.
    pub(super) fn invalidate(&self, reason: &str) -> Vec<Pending> {
        let mut state = self.0.lock();
        state.invalid.get_or_insert_with(|| Invalid { reason: reason.into(), changed: false });
        state.take_held()
    }
}

/// The name of a round, as a topic that cannot exist: a reply that contains it answers a request of that round.
pub(super) fn probe_topic(round: u64) -> String {
    format!("?{round}")
}

impl State {
    fn take_held(&mut self) -> Vec<Pending> {
        std::mem::take(&mut self.held).into_iter().map(|held| held.pending).collect()
    }

    fn are_confirmed(&self) -> bool {
        self.confirmed && self.brokers.values().all(|connection| connection.is_confirmed())
    }

    fn connection_changed(&mut self, broker: &str, up: bool, unsettled: bool) -> Option<Change> {
        if up {
            self.brokers.insert(broker.to_owned(), Connection { opened: self.round, answered: 0 });
            self.since.get_or_insert_with(Instant::now);
            return Some(Change::Connected);
        }
        let unconfirmed = self.brokers.remove(broker).is_some_and(|connection| !connection.is_confirmed());
        // The client gives up its connection to a configured server when it knows the brokers.
        if self.confirmed && self.brokers.is_empty() && !broker.ends_with("/bootstrap") {
            self.cut_off = Some(Instant::now());
        }
        // It may have acknowledged messages whose acks are still to come. To a configured server the client
        // publishes nothing: a broker has named the ones that it publishes to.
        if unconfirmed && unsettled && !broker.ends_with("/bootstrap") {
            let reason = format!("{broker} was connected and gone again before it named its cluster");
            return self.invalidate(reason.into(), false);
        }
        // Acks may be held for this connection alone.
        let holds = !self.held.is_empty();
        self.release().filter(|_| holds)
    }

    fn answered(&mut self, cluster: &str) -> Option<Change> {
        // Brokers before Kafka 0.10.1 have none.
        if cluster.is_empty() {
            return None;
        }
        let known = self.cluster.get_or_insert_with(|| cluster.to_owned());
        if known == cluster {
            return None;
        }
        let reason = format!("the cluster was {known} and is now {cluster}");
        self.invalidate(reason.into(), true)
    }

    fn topic(&mut self, topic: &str, id: &str) -> Option<Change> {
        if id == NO_ID {
            return None;
        }
        let known = self.topics.entry(topic.to_owned()).or_insert_with(|| id.to_owned());
        if known == id {
            self.told.has_id(topic, id);
            return None;
        }
        let reason = format!("topic {topic} was created anew: its id was {known} and is now {id}");
        self.invalidate(reason.into(), true)
    }

    /// A broker has answered a request of this round.
    fn probe_answered(&mut self, broker: &str, round: u64) -> Option<Change> {
        let connection = self.brokers.get_mut(broker)?;
        connection.answered = connection.answered.max(round);
        self.confirmed |= connection.is_confirmed();
        self.release()
    }

    /// Releases the acks that are held, once every connected broker is confirmed.
    fn release(&mut self) -> Option<Change> {
        if self.brokers.values().all(|connection| connection.is_confirmed()) {
            self.since = None;
        }
        if !self.are_confirmed() || self.invalid.is_some() {
            return None;
        }
        let held = std::mem::take(&mut self.held);
        for Acknowledged { pending, partition, offset } in &held {
            self.end_offsets.acknowledged(&pending.destination.address, *partition, *offset);
        }
        Some(Change::Confirmed(held))
    }

    /// Lets no ack count from now on. Only the first reason is reported.
    fn invalidate(&mut self, reason: Arc<str>, changed: bool) -> Option<Change> {
        if self.invalid.is_some() {
            return None;
        }
        let invalid = Invalid { reason, changed };
        self.invalid = Some(invalid.clone());
        Some(Change::Invalid(invalid, self.take_held()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;
    use crate::bus::kafka::tests::{TOPIC, handle};
    use crate::pipeline::publish::Destination;

    const BROKER: &str = "k:1/1";

    /// The offset of the next ack.
    static NEXT: AtomicI64 = AtomicI64::new(0);

    fn pending() -> Pending {
        let destination = Arc::new(Destination { address: TOPIC.into(), subject: TOPIC.into() });
        Pending { handle: handle().0, destination }
    }

    /// What a line changed, in a word.
    fn read(identity: &ClusterIdentity, facility: &str, line: &str) -> &'static str {
        match identity.read(facility, line, true) {
            None => "nothing",
            Some(Change::Connected) => "connected",
            Some(Change::Confirmed(_)) => "confirmed",
            Some(Change::Invalid(invalid, _)) if invalid.changed => "changed",
            Some(Change::Invalid(..)) => "invalid",
        }
    }

    fn state(identity: &ClusterIdentity, broker: &str, from: &str, to: &str) -> &'static str {
        read(identity, "STATE", &format!("[thrd:{broker}]: {broker}: Broker changed state {from} -> {to}"))
    }

    fn answer(identity: &ClusterIdentity, broker: &str, round: u64, cluster: &str) -> &'static str {
        let line = format!("[thrd:main]: {broker}: ClusterId: {cluster}, ControllerId: 1");
        match read(identity, "METADATA", &line) {
            "nothing" => {}
            other => return other,
        }
        let line = format!(
            "[thrd:main]: {broker}:   Topic {} with 0 partitions: Broker: Invalid",
            probe_topic(round)
        );
        read(identity, "METADATA", &line)
    }

    fn topic(identity: &ClusterIdentity, before: &str, now: &str) -> &'static str {
        let line = format!("[thrd:main]: Topic {TOPIC} changed id from {before} to {now}");
        read(identity, "METADATA", &line)
    }

    fn verdict(identity: &ClusterIdentity) -> &'static str {
        match identity.verdict_on(pending(), 0, NEXT.fetch_add(1, Ordering::Relaxed)) {
            AckVerdict::Accept(_) => "stored",
            AckVerdict::Hold => "held",
            AckVerdict::Reject(..) => "nothing",
        }
    }

    /// Connected to [`BROKER`] of cluster `a`.
    fn confirmed() -> ClusterIdentity {
        let identity = ClusterIdentity::default();
        assert_eq!(state(&identity, BROKER, "APIVERSION_QUERY", "UP"), "connected");
        let (round, _) = identity.begin_round();
        assert_eq!(answer(&identity, BROKER, round, "a"), "confirmed");
        identity
    }

    #[test]
    fn no_ack_counts_before_a_broker_is_confirmed() {
        let identity = ClusterIdentity::default();
        assert_eq!(verdict(&identity), "held");
        assert_eq!(state(&identity, BROKER, "AUTH_REQ", "UP"), "connected");
        assert_eq!(verdict(&identity), "held");
        assert!(identity.is_unconfirmed() && !identity.is_confirmed());
        let identity = confirmed();
        assert!(identity.is_confirmed() && identity.has_answered(1) && !identity.has_answered(2));
        assert_eq!(verdict(&identity), "stored");
    }

    #[test]
    fn acks_after_a_reconnection_are_held_until_the_same_cluster_answers() {
        let identity = confirmed();
        assert!(identity.cut_off().is_none());
        state(&identity, BROKER, "UP", "DOWN");
        let cut_off = identity.cut_off();
        assert!(cut_off.is_some() && ClusterIdentity::after(&identity).cut_off().is_none());
        assert_eq!(verdict(&identity), "stored", "from before the loss");
        state(&identity, BROKER, "APIVERSION_QUERY", "UP");
        assert_eq!(verdict(&identity), "held");
        assert_eq!(answer(&identity, BROKER, 1, "a"), "nothing", "a request from before the connection");
        let (round, _) = identity.begin_round();
        assert_eq!(answer(&identity, BROKER, round, "a"), "confirmed");
        assert_eq!(verdict(&identity), "stored");
        state(&identity, BROKER, "UP", "DOWN");
        assert!(identity.cut_off() > cut_off, "it was cut off again");
    }

    #[test]
    fn no_ack_counts_after_another_cluster_answered() {
        let identity = confirmed();
        state(&identity, BROKER, "UP", "DOWN");
        state(&identity, BROKER, "APIVERSION_QUERY", "UP");
        assert_eq!(verdict(&identity), "held");
        let (round, _) = identity.begin_round();
        assert_eq!(answer(&identity, BROKER, round, "b"), "changed");
        assert_eq!(verdict(&identity), "nothing");
        assert_eq!(
            answer(&identity, BROKER, round, "a"),
            "nothing",
            "not even if the first one answers again"
        );
        assert_eq!(verdict(&identity), "nothing");
        assert!(!identity.is_confirmed() && identity.invalid().unwrap().reason.contains("is now b"));
    }

    #[test]
    fn no_ack_counts_after_a_topic_was_created_anew() {
        let identity = confirmed();
        assert_eq!(topic(&identity, NO_ID, "first"), "nothing");
        assert!(identity.begin_round().1.contains(TOPIC));
        assert_eq!(topic(&identity, "first", NO_ID), "nothing");
        assert_eq!(topic(&identity, NO_ID, "first"), "nothing");
        assert_eq!(topic(&identity, "first", "second"), "changed");
        assert_eq!(verdict(&identity), "nothing");
    }

    #[test]
    fn login_that_is_renewed_is_the_same_connection() {
        let identity = confirmed();
        for (from, to) in [("UP", "REAUTH"), ("REAUTH", "AUTH_REQ"), ("AUTH_REQ", "UP")] {
            assert_eq!(state(&identity, BROKER, from, to), "nothing");
        }
        assert!(identity.is_confirmed() && identity.cut_off().is_none());
    }

    #[test]
    fn connection_that_is_lost_before_it_is_confirmed_invalidates_what_is_pending() {
        let identity = confirmed();
        state(&identity, BROKER, "UP", "DOWN");
        state(&identity, BROKER, "APIVERSION_QUERY", "UP");
        assert_eq!(state(&identity, BROKER, "UP", "DOWN"), "invalid");
        let identity = confirmed();
        state(&identity, "k:2/2", "APIVERSION_QUERY", "UP");
        let line = "k:2/2: Broker changed state UP -> DOWN";
        assert!(identity.read("STATE", line, false).is_none(), "nothing is pending");
        assert_eq!(verdict(&identity), "stored");
    }

    #[test]
    fn ack_at_an_offset_that_is_taken_counts_for_nothing_and_later_ones_neither() {
        let identity = confirmed();
        identity.set_baseline(Some(EndOffsets::from([(TOPIC.to_owned(), vec![0, 7])])));
        assert!(matches!(identity.verdict_on(pending(), 1, 7), AckVerdict::Accept(_)));
        assert_eq!(identity.latest(), HashMap::from([((TOPIC.to_owned(), 1), 8)]));
        let AckVerdict::Reject(_, reason, Some(Change::Invalid(invalid, _))) =
            identity.verdict_on(pending(), 1, 7)
        else {
            panic!("the offset is another message's");
        };
        assert!(
            invalid.changed && reason.contains("partition 1") && reason.contains("ended at 8"),
            "{reason}"
        );
        assert!(matches!(identity.verdict_on(pending(), 1, 9), AckVerdict::Reject(_, _, None)));
        assert!(ClusterIdentity::after(&identity).latest().is_empty(), "of other data nothing is known");
    }

    #[test]
    fn client_that_takes_over_knows_the_cluster_of_the_one_before() {
        let first = confirmed();
        topic(&first, NO_ID, "first");
        first.invalidate("its connection was lost");
        let second = ClusterIdentity::after(&first);
        assert_eq!(verdict(&second), "held");
        state(&second, BROKER, "APIVERSION_QUERY", "UP");
        let (round, topics) = second.begin_round();
        assert_eq!(topics.into_iter().collect::<Vec<_>>(), [TOPIC]);
        assert_eq!(answer(&second, BROKER, round, "b"), "changed");
        let third = ClusterIdentity::after(&second);
        state(&third, BROKER, "APIVERSION_QUERY", "UP");
        assert_eq!(answer(&third, BROKER, third.begin_round().0, "b"), "confirmed");
    }

    #[test]
    fn every_connected_broker_is_to_be_confirmed() {
        let identity = confirmed();
        state(&identity, "b:1/bootstrap", "APIVERSION_QUERY", "UP");
        read(&identity, "UPDATE", "b:1/2: Name changed from b:1/bootstrap to b:1/2");
        assert!(identity.is_to_confirm(2) && !identity.is_to_confirm(1) && !identity.is_to_confirm(3));
        let (round, _) = identity.begin_round();
        assert_eq!(answer(&identity, BROKER, round, "a"), "nothing");
        assert_eq!(verdict(&identity), "held");
        assert_eq!(answer(&identity, "b:1/2", round, "a"), "confirmed");
        assert_eq!(verdict(&identity), "stored");
    }

    #[test]
    fn acks_that_are_held_for_a_configured_server_alone_are_released_when_its_connection_ends() {
        let identity = confirmed();
        state(&identity, "b:1/bootstrap", "APIVERSION_QUERY", "UP");
        assert_eq!(verdict(&identity), "held");
        assert_eq!(state(&identity, "b:1/bootstrap", "UP", "DOWN"), "confirmed");
        assert_eq!(verdict(&identity), "stored");
    }
}
