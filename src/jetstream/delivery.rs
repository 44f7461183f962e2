//! The delivery engine: on the leader, serves the consumers of all streams.
//!
//! One task, a queue of consumers with something to do, bounded work per turn. Where a consumer
//! stands is the pure core's affair; this file owns when it is looked at ([`super::table`]), when what
//! it did is replicated ([`super::settle`]), and what else the leader has to do for it. On other nodes
//! the table is empty and batches of inputs are refused. What was delivered and not replicated is
//! delivered again by a new leader; nothing is ever skipped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};
use unibus_raft::Leadership;
use unibus_state::command::ConsumerDelete;
use unibus_state::{Command, CursorInfo, State, Status};

use super::advisory;
use super::core::Core;
use super::ingest::answer_to;
use super::inputs::Verdict;
use super::intake::Parked;
use super::letters;
use super::orders::{Answer, Orders};
use super::runner::{Aftermath, Runner, Turn};
use super::settle::{Flush, Outflow, Void};
use super::table::{Key, Table};
use super::ticker::Ticker;

/// Consumers served between two looks at what else happened.
const TURNS_PER_ROUND: usize = 64;
/// Batches of inputs taken between two rounds.
const BATCHES_PER_ROUND: usize = 16;
/// Shortest time between two looks at who still listens.
const SWEEP_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// A sweep may take this share of the time.
const SWEEP_SHARE: u32 = 20;
/// Changes are proposed so long after the first of them, unless somebody waits for an answer.
const FLUSH_DELAY: Duration = Duration::from_millis(5);
/// How often positions alone are put into the replicated state.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// Consumers whose changes are proposed at once.
const FLUSH_CONSUMERS_MAX: usize = 512;
/// Deliveries rest when changes have waited for so long to be proposed.
const STUCK_AFTER: Duration = Duration::from_secs(1);
/// Requests remembered that waited when this node stopped leading; clients of others ask again when
/// theirs expire.
const FORSAKEN_MAX: usize = 65_536;
/// Sleep when nothing is due.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// What other tasks reach of the engine.
#[derive(Debug, Default)]
pub(super) struct Engine {
    /// Always locked before the state and before the broker's table, never after them.
    pub(super) table: Mutex<Table>,
    orders: Orders,
    /// Consumers whose changes were not applied.
    failed: Mutex<Vec<(Key, Void)>>,
    /// What became of dead letters.
    pub(super) letters: Mutex<Vec<letters::Told>>,
    pub(super) wake: Notify,
    /// Counts the looks at what happened to streams and consumers, as they begin and as they end.
    begun: AtomicU64,
    looks: watch::Sender<u64>,
}

impl Engine {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Takes a batch of inputs. The answer is its verdict, or an error when this node stopped leading
    /// meanwhile. `local`: the clients are this node's own.
    pub(super) fn accept(&self, batch: Bytes, local: bool) -> oneshot::Receiver<Verdict> {
        let verdict = self.orders.push(batch, local);
        self.wake.notify_one();
        verdict
    }

    /// A flush came to its end; the changes of these consumers were not applied.
    pub(super) fn settled(&self, failed: Vec<(Key, Void)>) {
        if !failed.is_empty() {
            self.failed.lock().extend(failed);
        }
        self.wake.notify_one();
    }

    /// What only the leader knows of a consumer; `None` while that is nothing.
    pub(super) fn info(&self, core: &Core, stream: &str, consumer: &str) -> Option<CursorInfo> {
        let mut table = self.table.lock();
        let key = table.key_of(stream, consumer)?;
        let runner = table.runner(&key)?;
        core.replica.with_state(|state| runner.info(state))
    }

    /// Takes the pin of a priority group away. `None`: no such consumer; false: no such group.
    pub(super) fn unpin(
        &self,
        core: &Core,
        stream: &str,
        consumer: &str,
        group: &str,
    ) -> Option<bool> {
        let mut table = self.table.lock();
        let key = table.key_of(stream, consumer)?;
        let runner = table.runner(&key)?;
        let done = core.replica.with_state(|state| {
            let held = state.stream(stream)?;
            let consumer = held.consumer(consumer)?;
            Some(runner.unpin((held, consumer), group, Core::now().0))
        })?;
        table.queue(&key);
        table.set_dirty(&key);
        drop(table);
        self.wake.notify_one();
        Some(done)
    }

    /// A copy was made of what the consumer delivered, up to `seq`.
    pub(super) fn taken(&self, key: &Key, seq: u64) {
        let mut table = self.table.lock();
        if let Some(runner) = table.runner(key) {
            runner.taken(seq, Core::now().0);
            table.set_dirty(key);
            table.queue(key);
            drop(table);
            self.wake.notify_one();
        }
    }

    /// A copy begins or ends to be made through the consumer.
    pub(super) fn look_at(&self, core: &Core, key: &Key) {
        let mut table = self.table.lock();
        if let Some(runner) = table.runner(key) {
            runner.look_for_interest(core, 0, Core::now().0);
            table.queue(key);
            drop(table);
            self.wake.notify_one();
        }
    }

    /// Resolves when the engine has followed everything that is applied now, or does not lead.
    pub(super) async fn followed(&self, core: &Core, longest: Duration) {
        if !core.is_leader() {
            return;
        }
        let wanted = self.begun.load(Ordering::Acquire) + 1;
        let mut looks = self.looks.subscribe();
        core.hooks.wake_delivery.notify_one();
        // A look in progress may be too early; the next one to begin is not.
        let seen = looks.wait_for(|ended| *ended >= wanted);
        let _ = tokio::time::timeout(longest, seen).await;
    }
}

/// Runs until the task is aborted.
pub(super) async fn run(core: Arc<Core>) {
    let mut leadership = core.replica.leadership();
    let (outflow, work) = Outflow::new(Arc::clone(&core));
    let settling = tokio::spawn(work);
    let _aborted_with_this = AbortOnDrop(settling);
    let mut forsaken = Forsaken::default();
    loop {
        tokio::select! {
            leads = leadership.wait_for(|known| known.is_leader) => {
                if leads.is_err() {
                    return;
                }
            }
            // Nobody reads the news of a node that does not lead: they must not pile up.
            () = core.hooks.wake_delivery.notified() => {
                drop(core.hooks.take_news());
                continue;
            }
        }
        outflow.landed().await;
        tracing::debug!("delivery starts");
        let term = leadership.borrow().term;
        let mut lead = Lead::new(&core, &outflow);
        lead.begin();
        std::mem::take(&mut forsaken).tell(&core, term);
        lead.run(&mut leadership).await;
        forsaken = Forsaken {
            term,
            ended: lead.end(),
        };
        tracing::debug!("delivery ends");
    }
}

/// Requests that waited when this node stopped leading. In a later term, or under another leader, the
/// nodes that their clients are connected to have answered them; a node that leads again in the same term,
/// as after a pause of its process, may have stopped unnoticed.
#[derive(Debug, Default)]
struct Forsaken {
    term: u64,
    ended: Vec<(Bytes, Status)>,
}

impl Forsaken {
    fn tell(self, core: &Core, term: u64) {
        if self.term == term {
            tell_ended(core, &self.ended);
        }
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One leadership of this node.
pub(super) struct Lead<'a> {
    pub(super) core: &'a Arc<Core>,
    outflow: &'a Outflow,
    clock: Ticker,
    sweep: Sweep,
    interest: watch::Receiver<u64>,
    /// Who waits for the next flush.
    pub(super) answers: Vec<(Void, Answer)>,
    /// Requests whose clients' interest has not arrived here yet.
    pub(super) parked: Parked,
    /// Since when changes wait to be proposed.
    dirty_since: Option<Instant>,
    progress_at: Instant,
    aftermath: Aftermath,
}

impl<'a> Lead<'a> {
    fn new(core: &'a Arc<Core>, outflow: &'a Outflow) -> Self {
        Self {
            core,
            outflow,
            clock: Ticker::new(),
            sweep: Sweep::new(),
            interest: core.broker.interest_changed(),
            answers: Vec::new(),
            parked: Parked::default(),
            dirty_since: None,
            progress_at: Instant::now() + PROGRESS_INTERVAL,
            aftermath: Aftermath::default(),
        }
    }

    fn begin(&mut self) {
        let core = self.core;
        drop(core.hooks.take_news());
        core.engine.failed.lock().clear();
        core.engine.letters.lock().clear();
        let now_ns = self.clock.now_ns();
        {
            let mut table = core.engine.table.lock();
            core.replica
                .with_state(|state| table.adopt_all(state, now_ns));
        }
        core.engine.orders.open(true);
        advisory::tell_leader(core);
    }

    async fn run(&mut self, leadership: &mut watch::Receiver<Leadership>) {
        let core = self.core;
        while leadership.borrow_and_update().is_leader {
            let now_ns = self.clock.now_ns();
            self.take_news(now_ns);
            self.take_results(now_ns);
            let more_inputs = self.take_inputs(now_ns);
            if self.sweep.is_due() {
                self.sweep_interest(now_ns);
            }
            self.flush(now_ns);
            let more_turns = self.round(now_ns);
            self.finish_round();
            if more_inputs || more_turns {
                tokio::task::yield_now().await;
                continue;
            }
            let until = self.sleep_until();
            tokio::select! {
                () = core.hooks.wake_delivery.notified() => {}
                () = core.engine.wake.notified() => {}
                _ = leadership.changed() => {}
                changed = self.interest.changed(), if !self.sweep.asked => {
                    if changed.is_err() {
                        return;
                    }
                    self.sweep.asked = true;
                }
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
    }

    /// Hands on what is known, so that the next leader repeats less, and forgets everything. The requests
    /// that wait come back: their clients are answered by the nodes that they are connected to, if these
    /// notice.
    fn end(&mut self) -> Vec<(Bytes, Status)> {
        self.core.engine.orders.open(false);
        // Whoever waits is served by the next leader.
        self.answers.clear();
        if self.outflow.has_room() {
            self.propose(Vec::new());
        }
        let parked = self.parked.close().into_iter();
        let mut ended: Vec<_> = parked
            .map(|reply| (reply, Status::LEADERSHIP_CHANGE))
            .collect();
        let mut table = std::mem::take(&mut *self.core.engine.table.lock());
        for (_, runner) in table.runners() {
            ended.extend(runner.close(&Status::LEADERSHIP_CHANGE));
        }
        ended.truncate(FORSAKEN_MAX);
        ended
    }

    /// Follows what happened to streams and consumers.
    fn take_news(&mut self, now_ns: u64) {
        let core = self.core;
        let look = core.engine.begun.fetch_add(1, Ordering::AcqRel) + 1;
        let news = core.hooks.take_news();
        let mut table = core.engine.table.lock();
        if !news.reshaped.is_empty() || !news.consumers.is_empty() {
            let mut fresh = Vec::new();
            let gone: Vec<Runner> = core.replica.with_state(|state: &State| {
                let mut gone = Vec::new();
                for stream in &news.reshaped {
                    gone.extend(table.adopt(state, stream, now_ns, &mut fresh));
                }
                for (stream, consumer) in &news.consumers {
                    let name = (stream.as_str(), consumer.as_str());
                    gone.extend(table.adopt_consumer(state, name, now_ns, &mut fresh));
                }
                gone
            });
            say_goodbye(core, gone);
            // Whoever comes to listen after this look is told by the broker, and found by a sweep.
            let generation = *self.interest.borrow();
            for key in &fresh {
                let wanted = table.runner(key).is_some_and(|runner| {
                    runner.look_for_interest(core, generation, now_ns)
                        || runner.wants_a_turn()
                        || runner.has_cursor()
                });
                if wanted {
                    table.queue(key);
                }
            }
        }
        if !news.advanced.is_empty() {
            table.wake_streams(&news.advanced);
        }
        drop(table);
        core.engine.looks.send_replace(look);
    }

    /// Follows what became of proposals.
    fn take_results(&mut self, now_ns: u64) {
        let core = self.core;
        let failed = std::mem::take(&mut *core.engine.failed.lock());
        let letters = std::mem::take(&mut *core.engine.letters.lock());
        if failed.is_empty() && letters.is_empty() {
            return;
        }
        let mut table = core.engine.table.lock();
        for (key, void) in failed {
            // One of several failures of the same cursor is enough.
            if let Some(runner) = table.runner(&key)
                && Arc::ptr_eq(&runner.void(), &void)
            {
                core.replica
                    .with_state(|state| runner.start_over(state, now_ns));
                table.queue(&key);
            }
        }
        for told in letters {
            if let Some(runner) = table.runner(&told.key)
                && runner.created_ns() == told.created_ns
            {
                runner.letter(told.seq, told.fate, now_ns);
                table.queue(&told.key);
            }
        }
    }

    /// Works off batches of inputs. True: there are more.
    fn take_inputs(&mut self, now_ns: u64) -> bool {
        for _ in 0..BATCHES_PER_ROUND {
            let Some((batch, order)) = self.core.engine.orders.take() else {
                return false;
            };
            // A consumer that an input is for may have been made since the last look.
            if self.core.hooks.has_news() {
                self.take_news(now_ns);
            }
            self.work_off(&batch, &order, now_ns);
        }
        true
    }

    fn sweep_interest(&mut self, now_ns: u64) {
        let start = Instant::now();
        let core = self.core;
        let generation = *self.interest.borrow();
        {
            let mut table = core.engine.table.lock();
            let mut woken = Vec::new();
            for (key, runner) in table.runners() {
                if runner.look_for_interest(core, generation, now_ns) {
                    woken.push(key);
                }
            }
            for key in &woken {
                table.queue(key);
            }
        }
        self.try_parked(now_ns);
        self.sweep.done(start);
    }

    /// Proposes what changed, when it is time.
    fn flush(&mut self, now_ns: u64) {
        let has_dirty = self.core.engine.table.lock().has_dirty();
        if has_dirty && self.dirty_since.is_none() {
            self.dirty_since = Some(Instant::now());
        }
        let _ = now_ns;
        let progress = Instant::now() >= self.progress_at;
        let due = self
            .dirty_since
            .is_some_and(|since| since.elapsed() >= FLUSH_DELAY);
        if !(due || progress || !self.answers.is_empty()) || !self.outflow.has_room() {
            return;
        }
        let answers = std::mem::take(&mut self.answers);
        self.propose(answers);
    }

    fn propose(&mut self, answers: Vec<(Void, Answer)>) {
        let core = self.core;
        let mut flush = Flush {
            calls: Vec::new(),
            answers,
        };
        let mut table = core.engine.table.lock();
        // Answers wait for everything that changed before them.
        let count = if flush.answers.is_empty() {
            FLUSH_CONSUMERS_MAX
        } else {
            usize::MAX
        };
        let mut keys = table.take_dirty(count);
        if Instant::now() >= self.progress_at {
            self.progress_at = Instant::now() + PROGRESS_INTERVAL;
            keys.extend(table.take_leisurely(FLUSH_CONSUMERS_MAX));
        }
        for key in keys {
            let Some(runner) = table.runner(&key) else {
                continue;
            };
            runner.dirty = false;
            if let Some(update) = runner.take_changes() {
                let void = runner.void();
                let call = core.ingest.call(&Command::ConsumerUpdate(update));
                flush.calls.push((key.clone(), void, call));
                // Deliveries that waited for changes to leave may go on.
                table.queue(&key);
            }
        }
        self.dirty_since = table.has_dirty().then(Instant::now);
        drop(table);
        if !flush.calls.is_empty() || !flush.answers.is_empty() {
            self.outflow.send(flush);
        }
    }

    /// Changes can't be replicated: what would be delivered now would only be delivered again.
    fn is_stuck(&self) -> bool {
        self.dirty_since
            .is_some_and(|since| since.elapsed() >= STUCK_AFTER)
    }

    /// Serves some consumers. True: more are waiting.
    fn round(&mut self, now_ns: u64) -> bool {
        if self.is_stuck() {
            return false;
        }
        let core = self.core;
        let generation = *self.interest.borrow();
        core.engine.table.lock().fire_timers(now_ns);
        for _ in 0..TURNS_PER_ROUND {
            let mut table = core.engine.table.lock();
            let Some(key) = table.next_ready() else {
                return false;
            };
            let Some(runner) = table.runner(&key) else {
                continue;
            };
            match runner.turn(core, generation, now_ns, &mut self.aftermath) {
                Turn::More => table.queue(&key),
                Turn::Wait(until) => {
                    table.set_hungry(&key);
                    if let Some(at_ns) = until {
                        table.set_timer(&key, at_ns);
                    }
                }
            }
            table.set_dirty(&key);
        }
        core.engine.table.lock().has_ready()
    }

    /// What turns asked for, now that nothing is locked.
    fn finish_round(&mut self) {
        let aftermath = std::mem::take(&mut self.aftermath);
        for event in &aftermath.events {
            advisory::tell(self.core, event);
        }
        for ((stream, consumer), created_ns) in aftermath.abandoned {
            tracing::debug!(%stream, %consumer, "unused consumer");
            let command = Command::ConsumerDelete(ConsumerDelete {
                stream: stream.to_string(),
                name: consumer.to_string(),
                privileged: true,
                created_ns: Some(created_ns),
            });
            let call = self.core.ingest.call(&command);
            advisory::tell_removed(self.core, &stream, &consumer, call);
        }
        for (key, created_ns, letter) in aftermath.letters {
            letters::store(self.core, key, created_ns, letter);
        }
    }

    fn sleep_until(&mut self) -> Instant {
        let (timer, has_ready) = {
            let table = self.core.engine.table.lock();
            (table.next_timer(), table.has_ready())
        };
        let timer = timer.map_or_else(
            || Instant::now() + SLEEP_MAX,
            |at_ns| self.clock.instant(at_ns, SLEEP_MAX),
        );
        let flush = match self.dirty_since {
            // A flush that comes to its end wakes the engine.
            Some(_) if !self.outflow.has_room() => Instant::now() + SLEEP_MAX,
            Some(since) => since + FLUSH_DELAY,
            None if self.core.engine.table.lock().has_dirty() => Instant::now() + FLUSH_DELAY,
            None => self.progress_at,
        };
        let stuck = has_ready && self.is_stuck();
        let timer = if stuck { flush } else { timer };
        timer
            .min(flush)
            .min(self.sweep.due())
            .min(self.parked.due())
    }
}

/// Tells clients that the consumers which they wait for are gone.
fn say_goodbye(core: &Core, gone: Vec<Runner>) {
    let mut ended = Vec::new();
    for mut runner in gone {
        ended.extend(runner.close(&Status::CONSUMER_DELETED));
    }
    tell_ended(core, &ended);
}

/// Tells clients how their requests ended.
fn tell_ended(core: &Core, ended: &[(Bytes, Status)]) {
    if ended.is_empty() {
        return;
    }
    core.broker.batch(|out| {
        let mut block = Vec::new();
        for (reply, status) in ended {
            block.clear();
            status.write(&mut block);
            out.publish(answer_to(reply, block.len(), &block));
        }
    });
}

/// Looks at who still listens, not more often than it is worth.
#[derive(Debug)]
struct Sweep {
    asked: bool,
    not_before: Instant,
}

impl Sweep {
    fn new() -> Self {
        Self {
            asked: true,
            not_before: Instant::now(),
        }
    }

    fn due(&self) -> Instant {
        if self.asked {
            self.not_before
        } else {
            Instant::now() + SLEEP_MAX
        }
    }

    fn is_due(&self) -> bool {
        self.asked && Instant::now() >= self.not_before
    }

    fn done(&mut self, start: Instant) {
        self.asked = false;
        let pause = (start.elapsed() * SWEEP_SHARE).max(SWEEP_INTERVAL_MIN);
        self.not_before = Instant::now() + pause;
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use serde_json::json;

    use super::{Forsaken, Lead, Outflow};
    use crate::jetstream::tests::{Node, ask, soon};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_leader_that_begins_again_in_its_term_answers_what_it_forgot() {
        let node = Node::start().await;
        let client = node.client().await;
        let config = json!({ "name": "S", "subjects": ["s"] });
        ask(&client, "$JS.API.STREAM.CREATE.S", &config).await;
        let config = json!({ "stream_name": "S", "config": { "name": "c", "ack_policy": "none" } });
        ask(&client, "$JS.API.CONSUMER.CREATE.S.c", &config).await;
        let mut inbox = soon(client.subscribe("waiting.here")).await.unwrap();
        let body = r#"{"batch":1,"expires":600000000000}"#;
        let asked =
            client.publish_with_reply("$JS.API.CONSUMER.MSG.NEXT.S.c", "waiting.here", body.into());
        soon(asked).await.unwrap();
        let info = json!({});
        let waiting = async || {
            let info = ask(&client, "$JS.API.CONSUMER.INFO.S.c", &info).await;
            info["num_waiting"].as_u64()
        };
        while waiting().await != Some(1) {}

        let core = &node.jetstream.core;
        let (outflow, _work) = Outflow::new(core.clone());
        let ended = Lead::new(core, &outflow).end();
        let forsaken = || Forsaken {
            term: 3,
            ended: ended.clone(),
        };
        // In a later term the client's node has answered already.
        forsaken().tell(core, 4);
        soon(client.publish("waiting.here", "nothing before".into()))
            .await
            .unwrap();
        let first = soon(inbox.next()).await.unwrap();
        assert_eq!(&first.payload[..], b"nothing before");
        forsaken().tell(core, 3);
        let told = soon(inbox.next()).await.unwrap();
        assert_eq!(told.status.unwrap().as_u16(), 409);
        assert_eq!(told.description.as_deref(), Some("Leadership Change"));
        node.stop().await;
    }
}
