//! Sends the claims of many deliveries to a server in one request, and settlements along with them.
//!
//! For a backend with one connection ([`Connection`]). Both are sent at once, unless enough requests are under way: then
//! they wait for the end of one, with all others that come meanwhile. So a bridge that is busy sends few requests of
//! many claims and settlements. If the server is slow to reply, more requests may be under way.
//!
//! No settlement waits for a timer: until a commit is stored, a bridge that is killed leaves an event that another one
//! publishes again.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::backend::{Connection, Replies, Reply, Settlement, no_answer_within};
use super::settle::{BATCH, Ledger, RETRY_INTERVAL};
use crate::pipeline::publish::BoxFuture;
use crate::pipeline::store::Held;

/// The most requests under way while the server replies soon.
const UNDER_WAY: usize = 2;
/// The most at any time. Each beyond the first ones is sent when the last one has waited for an eighth of its time.
const UNDER_WAY_IF_SLOW: usize = 8;
/// The most claims of one request, unless one delivery has more.
const CLAIMS: usize = 512;
/// Later than anything.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Where claims are handed in. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Batches(Arc<Queue>);

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Default)]
struct Waiting {
    requests: VecDeque<Request>,
    /// The task has ended.
    closed: bool,
    /// Whether there are settlements to be sent.
    settlements: bool,
    /// Set while nothing can be sent: then the task looks at all this by itself, at this time at the latest.
    looked_at_by: Option<Instant>,
}

/// The claims of one delivery, or of a part of it.
struct Request {
    claims: Vec<Held>,
    count: usize,
    began: Instant,
    deadline: Instant,
    /// None once it is answered.
    answer: Option<oneshot::Sender<Vec<Reply>>>,
}

impl Request {
    fn is_awaited(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| !answer.is_closed())
    }

    fn answer(&mut self, replies: Vec<Reply>) {
        if let Some(answer) = self.answer.take() {
            // A delivery that stopped waiting is not sent anything.
            let _ = answer.send(replies);
        }
    }

    /// Its time is over. Its claims may have been stored.
    fn fail(&mut self) {
        let reason = no_answer_within(self.deadline.saturating_duration_since(self.began));
        self.answer(vec![Reply::Failed(reason); self.count]);
    }
}

impl Batches {
    /// One reply for each claim, in their order, by the deadline.
    pub(super) async fn claim(&self, claims: Vec<Held>, deadline: Instant) -> Vec<Reply> {
        let (count, began) = (claims.len(), Instant::now());
        let (answer, replies) = oneshot::channel();
        let request = Request { claims, count, began, deadline, answer: Some(answer) };
        self.hand_in(request);
        replies.await.unwrap_or_else(|_| vec![Reply::Failed("its task has ended".into()); count])
    }

    fn hand_in(&self, request: Request) {
        let deadline = request.deadline;
        let mut waiting = self.0.waiting.lock();
        if waiting.closed {
            return;
        }
        waiting.requests.push_back(request);
        let is_looked_at = waiting.looked_at_by.is_some_and(|by| by <= deadline);
        drop(waiting);
        if !is_looked_at {
            self.0.wake.notify_one();
        }
    }

    /// A settlement was added to the queue.
    pub(super) fn settled(&self) {
        let mut waiting = self.0.waiting.lock();
        let is_seen = mem::replace(&mut waiting.settlements, true) || waiting.looked_at_by.is_some();
        drop(waiting);
        if !is_seen {
            self.0.wake.notify_one();
        }
    }
}

/// One request to the server.
struct Batch<'a> {
    requests: Vec<Request>,
    settlements: Vec<Settlement>,
    sent: Instant,
    /// When no reply is expected any more.
    ends: Instant,
    replies: BoxFuture<'a, Replies>,
}

/// The task.
pub(super) struct Batcher {
    pub(super) batches: Batches,
    pub(super) connection: Arc<dyn Connection>,
    pub(super) ledger: Ledger,
    /// How long a request may take.
    pub(super) limit: Duration,
}

/// Nobody waits for a task that has ended.
impl Drop for Batcher {
    fn drop(&mut self) {
        let mut waiting = self.batches.0.waiting.lock();
        waiting.closed = true;
        waiting.requests.clear();
    }
}

/// What the task is at.
struct Work<'a> {
    under_way: Vec<Batch<'a>>,
    queue: mpsc::Receiver<Settlement>,
    /// Settlements that were not stored, to be tried again.
    left: Vec<Settlement>,
    /// When settlements that are left are to be sent.
    settle_by: Option<Instant>,
    /// Not later than the first time at which something is to be done.
    alarm: Instant,
}

impl Work<'_> {
    fn wake_by(&mut self, at: Instant) {
        self.alarm = self.alarm.min(at);
    }
}

impl Batcher {
    /// Sends requests for ever.
    pub(super) async fn run(self, queue: mpsc::Receiver<Settlement>) {
        let alarm = Instant::now() + NEVER;
        let mut timer = pin!(sleep_until(alarm));
        let (under_way, left) = (Vec::with_capacity(UNDER_WAY), Vec::new());
        let mut work = Work { under_way, queue, left, settle_by: None, alarm };
        loop {
            let full_until = loop {
                let full_until = self.full_until(&work.under_way);
                if full_until.is_some() {
                    break full_until;
                }
                let Some(batch) = self.next(&mut work) else { break None };
                work.under_way.push(batch);
            };
            if let Some(full_until) = full_until {
                work.wake_by(full_until);
                self.let_wait(&mut work);
            }
            if work.alarm < timer.deadline() {
                timer.as_mut().reset(work.alarm);
            }
            tokio::select! {
                biased;
                (at, replies) = replied(&mut work.under_way) => {
                    let batch = work.under_way.remove(at);
                    self.distribute(batch, replies, &mut work);
                }
                () = self.batches.0.wake.notified() => {}
                () = timer.as_mut() => {
                    self.expire(&mut work);
                    timer.as_mut().reset(work.alarm);
                }
            }
        }
    }

    /// Until when nothing can be sent, unless a reply comes; none if it can.
    fn full_until(&self, under_way: &[Batch<'_>]) -> Option<Instant> {
        let youngest = under_way.last().filter(|_| under_way.len() >= UNDER_WAY)?;
        if under_way.len() >= UNDER_WAY_IF_SLOW {
            return Some(youngest.ends);
        }
        Some(youngest.sent + self.limit / 8).filter(|at| *at > Instant::now())
    }

    /// The next request, if there is one to be sent now.
    fn next<'a>(&'a self, work: &mut Work<'a>) -> Option<Batch<'a>> {
        let now = Instant::now();
        let mut waiting = self.batches.0.waiting.lock();
        waiting.looked_at_by = None;
        let (requests, claims) = claims_of(&mut waiting.requests);
        let has_claims = !requests.is_empty();
        let is_due = has_claims || waiting.settlements || work.settle_by.is_some_and(|by| by <= now);
        if is_due {
            waiting.settlements = false;
            work.settle_by = None;
        }
        drop(waiting);
        let settlements = if is_due { self.settlements(work, now) } else { Vec::new() };
        if let Some(by) = work.settle_by {
            work.wake_by(by);
        }
        if !has_claims && settlements.is_empty() {
            return None;
        }
        let ends = now + self.limit;
        requests.iter().map(|request| request.deadline).chain([ends]).for_each(|at| work.wake_by(at));
        let replies = self.connection.exchange(settlements.clone(), claims);
        Some(Batch { requests, settlements, sent: now, ends, replies })
    }

    /// Nothing can be sent now: nobody needs to wake this task.
    fn let_wait(&self, work: &mut Work<'_>) {
        let mut waiting = self.batches.0.waiting.lock();
        waiting.requests.iter().for_each(|request| work.wake_by(request.deadline));
        waiting.looked_at_by = Some(work.alarm);
    }

    /// The settlements that can be stored now.
    fn settlements(&self, work: &mut Work<'_>, now: Instant) -> Vec<Settlement> {
        let can_be_stored = self.ledger.fill(&mut work.left, &mut work.queue);
        if !can_be_stored {
            work.settle_by = Some(now + RETRY_INTERVAL);
            return Vec::new();
        }
        let settlements = work.left.drain(..work.left.len().min(BATCH)).collect();
        if !work.left.is_empty() || !work.queue.is_empty() {
            work.settle_by = Some(now);
        }
        settlements
    }

    /// Hands the replies to those who wait for them.
    fn distribute(&self, batch: Batch<'_>, replies: Replies, work: &mut Work<'_>) {
        let (Batch { requests, mut settlements, .. }, Replies { settled, claimed }) = (batch, replies);
        let mut claimed = claimed.into_iter();
        for mut request in requests {
            let mut of_request: Vec<_> = claimed.by_ref().take(request.count).collect();
            of_request.resize_with(request.count, || Reply::Failed("no reply to this command".into()));
            request.answer(of_request);
        }
        self.ledger.settled(&mut settlements, settled);
        self.again(settlements, work);
    }

    /// Settlements are tried again later.
    fn again(&self, settlements: Vec<Settlement>, work: &mut Work<'_>) {
        if !settlements.is_empty() {
            work.left.extend(settlements);
            work.settle_by = Some(Instant::now() + RETRY_INTERVAL);
        }
    }

    /// Ends what waits for too long, and sets the alarm for the others.
    fn expire(&self, work: &mut Work<'_>) {
        let now = Instant::now();
        work.alarm = now + NEVER;
        let over: Vec<_> = work.under_way.extract_if(.., |batch| batch.ends <= now).collect();
        let hangs = !over.is_empty();
        let reason = no_answer_within(self.limit);
        for batch in over {
            let Batch { mut requests, mut settlements, .. } = batch;
            requests.iter_mut().for_each(Request::fail);
            self.ledger.breaker.open(self.ledger.part, Arc::clone(&reason));
            let failed = settlements.iter().map(|_| Err(Arc::clone(&reason))).collect();
            self.ledger.settled(&mut settlements, failed);
            self.again(settlements, work);
        }
        work.under_way.iter().for_each(|batch| work.alarm = work.alarm.min(batch.ends));
        // One that is over is sent as soon as a request may be.
        if let Some(by) = work.settle_by.filter(|by| *by > now) {
            work.wake_by(by);
        }
        let mut waiting = self.batches.0.waiting.lock();
        if hangs {
            // What waits would hang as well.
            waiting.requests.iter_mut().for_each(Request::fail);
        }
        let sent = work.under_way.iter_mut().flat_map(|batch| &mut batch.requests);
        for request in sent.chain(&mut waiting.requests) {
            if request.deadline <= now {
                request.fail();
            } else if request.answer.is_some() {
                work.alarm = work.alarm.min(request.deadline);
            }
        }
        waiting.requests.retain(Request::is_awaited);
    }
}

/// The requests that go together, and their claims.
fn claims_of(waiting: &mut VecDeque<Request>) -> (Vec<Request>, Vec<Held>) {
    let (mut requests, mut claims) = (Vec::with_capacity(waiting.len()), Vec::new());
    while waiting.front().is_some_and(|next| claims.is_empty() || claims.len() + next.count <= CLAIMS)
        && let Some(mut request) = waiting.pop_front()
    {
        // A claim that nobody waits for would keep its id in flight until its lease ends.
        if !request.is_awaited() {
            continue;
        }
        match claims.is_empty() {
            true => claims = mem::take(&mut request.claims),
            false => claims.append(&mut request.claims),
        }
        requests.push(request);
    }
    (requests, claims)
}

/// Awaits the replies to any of these, and tells which one it is. Without one it never ends.
async fn replied(under_way: &mut [Batch<'_>]) -> (usize, Replies) {
    poll_fn(|cx| {
        for (at, batch) in under_way.iter_mut().enumerate() {
            if let Poll::Ready(replies) = batch.replies.as_mut().poll(cx) {
                return Poll::Ready((at, replies));
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use tokio::task::yield_now;
    use tokio::time::sleep;

    use super::*;
    use crate::bus::recording::RecordingBus;
    use crate::metrics::{Labels, Metrics};
    use crate::pipeline::identify::DedupKey;
    use crate::store::breaker::Breaker;
    use crate::store::generation::Generations;
    use crate::store::options::OnFailure;
    use crate::store::settle::Settlements;
    use crate::supervise::Supervisor;

    const LIMIT: Duration = Duration::from_millis(100);
    const REPLY: Duration = Duration::from_millis(2);

    /// A server that claims everything.
    #[derive(Default)]
    struct Server {
        /// Of each request, the keys that it settled, and those that it claimed.
        requests: Mutex<Vec<[Vec<u128>; 2]>>,
        hangs: AtomicBool,
        /// Milliseconds; none: as soon as others.
        slow: AtomicU64,
    }

    impl Server {
        fn replies_in(&self, time: Duration) {
            self.slow.store(time.as_millis().try_into().unwrap(), Ordering::Relaxed);
        }
    }

    impl Connection for Server {
        fn exchange(&self, settlements: Vec<Settlement>, claims: Vec<Held>) -> BoxFuture<'_, Replies> {
            let settled = settlements.iter().map(|settlement| settlement.held.key.0).collect();
            let claimed = claims.iter().map(|held| held.key.0).collect();
            Box::pin(async move {
                self.requests.lock().push([settled, claimed]);
                sleep(REPLY.max(Duration::from_millis(self.slow.load(Ordering::Relaxed)))).await;
                if self.hangs.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
                Replies {
                    settled: settlements.iter().map(|_| Ok(())).collect(),
                    claimed: claims.iter().map(|_| Reply::Claimed).collect(),
                }
            })
        }
    }

    struct Store {
        server: Arc<Server>,
        batches: Batches,
        settlements: Settlements,
        breaker: Arc<Breaker>,
    }

    impl Store {
        fn start() -> Self {
            let metrics = Metrics::new(Labels::default()).store();
            let (settlements, mut queues) = Settlements::new(1, metrics.clone());
            let breaker = Arc::new(Breaker::new("test", OnFailure::Degrade, 1, metrics));
            breaker.found(0, [None]);
            let store = Self { server: Arc::default(), batches: Batches::default(), settlements, breaker };
            let ledger = Ledger {
                part: 0,
                breaker: Arc::clone(&store.breaker),
                generations: Arc::new(Generations::first_of(RecordingBus::new(None))),
                settlements: store.settlements.clone(),
            };
            let (batches, connection) = (store.batches.clone(), Arc::clone(&store.server));
            let batcher = Batcher { batches, connection, ledger, limit: LIMIT };
            Supervisor::detached().spawn("test", batcher.run(queues.remove(0)));
            store
        }

        fn claim(&self, keys: impl IntoIterator<Item = u128>) -> tokio::task::JoinHandle<Vec<Reply>> {
            self.claim_by(keys, Instant::now() + LIMIT)
        }

        fn claim_by(
            &self,
            keys: impl IntoIterator<Item = u128>,
            deadline: Instant,
        ) -> tokio::task::JoinHandle<Vec<Reply>> {
            let (batches, keys) = (self.batches.clone(), keys.into_iter().map(held).collect());
            tokio::spawn(async move { batches.claim(keys, deadline).await })
        }

        fn settle(&self, key: u128, acknowledged: bool) {
            self.settlements.add(0, Settlement { held: held(key), acknowledged });
            self.batches.settled();
        }

        /// What was sent since the last call.
        async fn sent(&self) -> Vec<[Vec<u128>; 2]> {
            for _ in 0..10 {
                yield_now().await;
            }
            mem::take(&mut self.server.requests.lock())
        }
    }

    fn held(key: u128) -> Held {
        Held { key: DedupKey(key), owner: 1, generation: Some(0) }
    }

    #[tokio::test(start_paused = true)]
    async fn commits_and_releases_are_sent_at_once_or_with_the_claims_that_wait() {
        let store = Store::start();
        assert_eq!(store.claim([1]).await.unwrap(), [Reply::Claimed]);
        assert_eq!(store.sent().await, [[vec![], vec![1]]]);
        store.settle(1, true);
        assert_eq!(store.sent().await, [[vec![1], vec![]]]);
        store.settle(2, false);
        assert_eq!(store.sent().await, [[vec![2], vec![]]]);
        // As many as may be are under way.
        store.settle(3, true);
        let claims = store.claim([4, 5]);
        store.settle(6, false);
        assert!(store.sent().await.is_empty());
        claims.await.unwrap();
        assert_eq!(store.sent().await, [[vec![3, 6], vec![4, 5]]]);
        sleep(REPLY * 2).await;
        assert_eq!(store.settlements.pending(), [0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn claims_that_come_while_requests_are_under_way_go_together() {
        let store = Store::start();
        let first: Vec<_> = (0..UNDER_WAY as u128).collect();
        for key in &first {
            store.claim([*key]);
            assert_eq!(store.sent().await, [[vec![], vec![*key]]]);
        }
        let waiting: Vec<_> = (10..50).map(|key| store.claim([key, 100 + key])).collect();
        assert!(store.sent().await.is_empty());
        for claim in waiting {
            assert_eq!(claim.await.unwrap(), [Reply::Claimed, Reply::Claimed]);
        }
        let together: Vec<_> = (10..50).flat_map(|key| [key, 100 + key]).collect();
        assert_eq!(store.sent().await, [[vec![], together]]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_slow_answers_in_time_however_many_deliveries_come() {
        let store = Store::start();
        store.server.replies_in(LIMIT * 6 / 10);
        let claims = (0..30).map(async |key| {
            sleep(Duration::from_millis(3) * key).await;
            store.claim([u128::from(key)]).await.unwrap()
        });
        for replies in futures_util::future::join_all(claims).await {
            assert_eq!(replies, [Reply::Claimed]);
        }
        assert!(store.sent().await.len() <= UNDER_WAY + UNDER_WAY_IF_SLOW);
        assert_eq!(store.breaker.reason_of(0), None);
    }

    /// Of a claim that waits behind commits that hang.
    #[tokio::test(start_paused = true)]
    async fn a_claim_that_is_over_is_not_looked_at_again_and_again() {
        let store = Store::start();
        for key in 0..UNDER_WAY_IF_SLOW as u128 {
            store.claim([key]).await.unwrap();
        }
        store.server.hangs.store(true, Ordering::Relaxed);
        for key in 0..UNDER_WAY_IF_SLOW as u128 {
            store.settle(key, false);
            sleep(LIMIT / 8).await;
        }
        let late = store.claim_by([99], Instant::now() + Duration::from_millis(1));
        // With a task that never rests, time would stand still here.
        assert_eq!(late.await.unwrap(), [Reply::Failed("no answer within 1ms".into())]);
        sleep(Duration::from_secs(1)).await;
        assert!(store.breaker.reason_of(0).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_hangs_fails_claims_in_time_and_no_claim_is_sent_later() {
        let store = Store::start();
        store.claim([0]).await.unwrap();
        store.settle(0, true);
        store.server.hangs.store(true, Ordering::Relaxed);
        let mut claims = Vec::new();
        for key in 1..=UNDER_WAY as u128 + 3 {
            claims.push(store.claim([key]));
            yield_now().await;
        }
        let abandoned = store.claim([99]);
        yield_now().await;
        abandoned.abort();
        let began = Instant::now();
        for claim in claims {
            let failed = Reply::Failed("no answer within 100ms".into());
            assert_eq!(claim.await.unwrap(), [failed]);
        }
        assert!(began.elapsed() <= LIMIT + Duration::from_millis(2), "{:?}", began.elapsed());
        let sent: Vec<_> = store.sent().await.into_iter().flat_map(|[_, claims]| claims).collect();
        assert_eq!(
            sent,
            (0..=UNDER_WAY as u128 + 3).collect::<Vec<_>>(),
            "but for the one that nobody waits for"
        );
        // The commit has failed with the request that it was in, and is tried again when the store is back.
        assert!(store.breaker.reason_of(0).is_some());
        store.server.hangs.store(false, Ordering::Relaxed);
        sleep(LIMIT).await;
        assert_eq!((store.sent().await, store.settlements.pending()), (vec![], [1, 0]));
        store.breaker.found(u64::MAX, [None]);
        sleep(2 * RETRY_INTERVAL).await;
        assert_eq!((store.sent().await, store.settlements.pending()), (vec![[vec![0], vec![]]], [0, 0]));
    }
}
