//! What a client's operations mean: one connection's protocol state.
//!
//! Owns the CONNECT handshake, the sid table and the texts of refusals (nats-surface §1). Runs inside a
//! burst: synchronous, no socket in sight. Must never wait.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::sync::watch;
use tokio::time::Instant;
use unibus_proto::decoder::{self, ClientOp, PubOp};
use unibus_proto::encoder;
use unibus_proto::handshake::ServerInfo;
use unibus_proto::permissions::Permissions;
use unibus_proto::subject;
use unibus_proto::sublist::Walk;

pub(crate) use self::admission::Deciding;
use crate::burst::Burst;
use crate::certificate::CertificateIdentity;
use crate::fanout::{Fanout, Message, Reach};
use crate::meter::Amount;
use crate::outbound::Outbound;
use crate::places::{Place, Seat};
use crate::plane::Plane;
use crate::ports::{Grant, Origin, UserLimits};
use crate::reason::CloseReason;
use crate::registry::Record;
use crate::settings::Greeting;
use crate::shared::Shared;
use crate::subscription::{SidTable, Subscription};
use crate::violation::{Violation, subscription_violation, too_many_tokens};

mod admission;
mod shadows;

use shadows::Shadows;

/// Subscriptions that end or change under one locking of a table: publishers wait for no more.
const CHANGED_AT_ONCE: usize = 256;

/// Interest that may wait for a peer, in bytes, while a connection that ends takes out more.
const LEAVING_BYTES: usize = 8 * 1024 * 1024;

/// Replies that clients may not ask for, and subjects they may not publish to (nats-surface §1.9).
const RESERVED_REPLIES: [&[u8]; 3] = [b"_R_.", b"$JS.ACK.", b"_GR_."];
const RESERVED_SUBJECTS: [&[u8]; 3] = [b"$GNR.", b"_GR_.", b"$NRG."];

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) outbound: Arc<Outbound>,
    pub(crate) record: Arc<Record>,
    pub(crate) fanout: Fanout,
    pub(crate) subscriptions: SidTable,
    tls: bool,
    /// The names in the client's certificate, where users are looked up by them.
    certificate: Option<Arc<CertificateIdentity>>,
    nonce: Option<Box<str>>,
    flags: Flags,
    /// What INFO was when the first PONG was staged.
    told_info: Option<Arc<ServerInfo>>,
    permissions: Option<Arc<Permissions>>,
    origin: Origin,
    /// A CONNECT that is still being decided: nothing after it may be looked at before.
    pub(crate) deciding: Option<Box<Deciding>>,
    grant: Option<watch::Receiver<Grant>>,
    limits: UserLimits,
    place: Option<Place>,
    /// Counts the connection for its account.
    seat: Option<Seat>,
    /// The plane that CONNECT has chosen; what follows it belongs there.
    pub(crate) next_plane: Option<Arc<Plane>>,
    shadows: Shadows,
    /// When the credentials end.
    pub(crate) expires_at: Option<Instant>,
    /// A grant whose changes the connection's task doesn't await yet.
    pub(crate) new_grant: Option<watch::Receiver<Grant>>,
    pub(crate) pings_out: u32,
    /// Published in the burst in hand.
    pub(crate) received: Amount,
    /// When the last PING without a PONG went out.
    pub(crate) pinged_at: Option<Instant>,
}

#[derive(Copy, Clone, Debug)]
struct Flags {
    admitted: bool,
    verbose: bool,
    pedantic: bool,
    echo: bool,
    headers: bool,
    no_responders: bool,
    /// INFO with `connect_info` is owed after the first PONG.
    info_owed: bool,
    /// It has been staged: the client takes INFO at any time from its end on.
    follow_info: bool,
}

impl Session {
    pub(crate) fn new(
        outbound: Arc<Outbound>,
        peer: SocketAddr,
        greeting: Arc<Greeting>,
        nonce: Option<Box<str>>,
    ) -> Self {
        let origin = Origin {
            connection: outbound.id,
            ..Origin::default()
        };
        Self {
            record: Arc::new(Record::new(Arc::clone(&outbound), peer, greeting)),
            outbound,
            fanout: Fanout::new(),
            subscriptions: SidTable::new(),
            certificate: None,
            tls: false,
            nonce,
            flags: Flags {
                admitted: false,
                verbose: true,
                pedantic: true,
                echo: true,
                headers: false,
                no_responders: false,
                info_owed: false,
                follow_info: false,
            },
            told_info: None,
            permissions: None,
            origin,
            deciding: None,
            grant: None,
            limits: UserLimits::default(),
            place: None,
            seat: None,
            next_plane: None,
            shadows: Shadows::default(),
            expires_at: None,
            new_grant: None,
            pings_out: 0,
            pinged_at: None,
            received: Amount::default(),
        }
    }

    /// The largest message the client may publish, in bytes: the smaller of the node's limit and its own.
    pub(crate) fn payload_bytes_max(&self, shared: &Shared) -> usize {
        let most = shared.limits().payload_bytes_max;
        self.limits
            .payload_bytes_max
            .map_or(most, |own| own.min(most))
    }

    /// The connection is inside TLS.
    pub(crate) fn secured(&mut self, certificate: Option<Arc<CertificateIdentity>>) {
        self.tls = true;
        self.certificate = certificate;
    }

    pub(crate) const fn is_admitted(&self) -> bool {
        self.flags.admitted
    }

    /// INFO for this connection.
    pub(crate) fn info(&self, shared: &Shared) -> ServerInfo {
        let mut info = ServerInfo {
            client_id: self.outbound.id,
            client_ip: Some(self.record.peer().ip().to_string()),
            nonce: self.nonce.as_deref().map(str::to_owned),
            ..ServerInfo::clone(&shared.info.load())
        };
        self.record.greeting().dress(&mut info);
        info
    }

    /// Acts on one operation. What it answers or delivers is staged.
    ///
    /// # Errors
    /// [`Violation`]: the connection ends.
    pub(crate) fn handle(
        &mut self,
        op: ClientOp<'_>,
        burst: &mut Burst<'_>,
    ) -> Result<(), Violation> {
        if !self.flags.admitted && !matches!(op, ClientOp::Connect(_)) {
            self.admit_unasked(burst)?;
        }
        match op {
            ClientOp::Pub(message) => return self.publish(&message, burst),
            ClientOp::Connect(json) => return self.connect(json, burst),
            ClientOp::Ping => self.ping(burst),
            ClientOp::Pong => self.pong(),
            ClientOp::Sub {
                subject,
                queue,
                sid,
            } => return self.subscribe(subject, queue, sid, burst),
            ClientOp::Unsub { sid, max } => self.unsubscribe(sid, max, burst),
            ClientOp::Info | ClientOp::Ok => {}
            ClientOp::Err(_) => return Err(Violation::silent(CloseReason::ClientClosed)),
        }
        Ok(())
    }

    /// Stages an `-ERR` line.
    pub(crate) fn complain(&mut self, text: &str) {
        self.lines(|out| encoder::err(out, text));
    }

    fn lines(&mut self, write: impl FnOnce(&mut BytesMut)) {
        self.fanout.lines(&self.outbound, write);
    }

    fn acknowledge(&mut self) {
        if self.flags.verbose {
            self.lines(encoder::ok);
        }
    }

    fn ping(&mut self, burst: &Burst<'_>) {
        self.lines(encoder::pong);
        if std::mem::take(&mut self.flags.info_owed) {
            self.told_info = Some(burst.shared.info.load_full());
            let system = burst.shared.system.load();
            let is_system = system
                .as_ref()
                .is_some_and(|plane| Arc::ptr_eq(plane, burst.plane));
            let info = ServerInfo {
                connect_info: true,
                remote_account: Some(burst.plane.name().into()),
                acc_is_sys: is_system,
                ..self.info(burst.shared)
            };
            self.lines(|out| encoder::info(out, &info));
            self.flags.follow_info = true;
        }
    }

    fn pong(&mut self) {
        self.pings_out = 0;
        if let Some(at) = self.pinged_at.take() {
            self.outbound.meter.set_rtt(at.elapsed());
        }
    }

    /// Once the first PONG is on its way, INFO may be written at any time; before it never
    /// (nats-surface §8, trap 1). To be called when nothing is staged any more.
    pub(crate) fn settle_info(&mut self, shared: &Shared) {
        if !std::mem::take(&mut self.flags.follow_info) {
            return;
        }
        let (told, now) = (self.told_info.take(), shared.info.load_full());
        self.record.follow_info();
        if told.is_some_and(|told| !Arc::ptr_eq(&told, &now)) {
            shared.send_info(&self.record, &now);
        }
    }

    fn publish(&mut self, op: &PubOp<'_>, burst: &mut Burst<'_>) -> Result<(), Violation> {
        if op.has_headers && !self.flags.headers {
            return Err(Violation::silent(CloseReason::MsgHeaderViolation));
        }
        self.received.msgs += 1;
        self.received.bytes += op.data.len() as u64;
        let tally = self.fanout.tally();
        tally.in_msgs += 1;
        tally.in_bytes += op.data.len() as u64;
        if self.flags.pedantic && !subject::is_literal(op.subject) {
            self.complain("Invalid Publish Subject");
        }
        if let Some(reply) = op.reply
            && !self.origin.internal
            && has_prefix(reply, &RESERVED_REPLIES)
        {
            let reply = String::from_utf8_lossy(reply);
            self.complain(&format!(
                "Permissions Violation for Publish with Reply of \"{reply}\""
            ));
            return Ok(());
        }
        self.open_table(burst)?;
        if self.flags.verbose && self.may_publish(op.subject) {
            self.lines(encoder::ok);
        }
        self.route(op, burst);
        Ok(())
    }

    /// Acts on what follows `op`, which was handled last and takes the first `op_len` bytes of `data`: all
    /// that only repeats it while nobody hears it and nobody is to be told. Returns the bytes of that.
    pub(crate) fn skip_unheard(&mut self, op: &PubOp<'_>, op_len: usize, data: &[u8]) -> usize {
        let told = self.flags.verbose || self.flags.pedantic || op.reply.is_some();
        if told || !self.fanout.is_unheard() {
            return 0;
        }
        let count = decoder::repeats(data, op_len, op.data.len());
        let (msgs, bytes) = (count as u64, (count * op.data.len()) as u64);
        self.received.msgs += msgs;
        self.received.bytes += bytes;
        let tally = self.fanout.tally();
        tally.in_msgs += msgs;
        tally.in_bytes += bytes;
        count * op_len
    }

    fn route(&mut self, op: &PubOp<'_>, burst: &mut Burst<'_>) {
        let message = Message {
            subject: op.subject,
            shown: None,
            reply: op.reply,
            header_len: op.header_len,
            data: op.data,
        };
        let except = (!self.flags.echo).then_some(self.outbound.id);
        let reach = Reach {
            peers: true,
            account: burst.plane.account.as_deref(),
            services: Some(&self.origin),
            except,
        };
        let (table, services) = burst.tables(&mut self.fanout);
        let permissions = self.permissions.as_deref();
        let internal = self.origin.internal;
        let allowed = |subject: &[u8]| may_publish(permissions, internal, subject);
        let mut receivers = self
            .fanout
            .publish(table, services, &message, &reach, allowed);
        if receivers.is_none() && self.outbound.may_owe_answers() && self.is_answer(op.subject) {
            if self.flags.verbose {
                self.fanout.lines(&self.outbound, encoder::ok);
            }
            let (table, services) = burst.tables(&mut self.fanout);
            let fanout = &mut self.fanout;
            receivers = Some(fanout.publish_once(table, services, &message, &reach));
        }
        match receivers {
            None => {
                let subject = String::from_utf8_lossy(op.subject);
                self.complain(&format!(
                    "Permissions Violation for Publish to \"{subject}\""
                ));
            }
            Some(0) => {
                if let Some(reply) = op.reply {
                    self.no_responders(op.subject, reply, burst);
                }
            }
            Some(_) => {}
        }
        if self.fanout.is_full() {
            burst.release(&mut self.fanout);
            self.fanout.flush();
        }
    }

    fn is_answer(&self, subject: &[u8]) -> bool {
        !has_prefix(subject, &RESERVED_SUBJECTS) && self.outbound.may_answer(subject)
    }

    fn may_publish(&self, subject: &[u8]) -> bool {
        may_publish(self.permissions.as_deref(), self.origin.internal, subject)
    }

    /// The 503 status, to the publisher's own plain subscription on the reply (nats-surface §1.5).
    fn no_responders(&mut self, subject: &[u8], reply: &[u8], burst: &mut Burst<'_>) {
        if !self.flags.no_responders {
            return;
        }
        let (table, _) = burst.tables(&mut self.fanout);
        let mut own: Option<Arc<Subscription>> = None;
        table
            .local
            .sublist()
            .for_each_match(reply, &mut Walk::default(), |found| {
                if found.queue.is_none() && own.is_none() {
                    let mine = |s: &&Arc<Subscription>| s.outbound.id == self.outbound.id;
                    own = found.members.iter().find(mine).cloned();
                }
            });
        if let Some(own) = own {
            self.lines(|out| encoder::no_responders(out, reply, &own.sid, subject));
        }
    }

    fn subscribe(
        &mut self,
        filter: &[u8],
        queue: Option<&[u8]>,
        sid: &[u8],
        burst: &mut Burst<'_>,
    ) -> Result<(), Violation> {
        if let Err(text) = self.may_subscribe(filter, queue, sid, burst.shared) {
            match text {
                Some(text) => self.complain(&text),
                None => self.acknowledge(),
            }
            return Ok(());
        }
        let subscription = Arc::new(Subscription::new(Arc::clone(&self.outbound), sid, queue));
        if let Some(permissions) = &self.permissions {
            subscription.check_by(permissions, filter);
        }
        burst.change(&mut self.fanout, |table| {
            table.subscribe(filter, &subscription);
        });
        self.shadows.add(burst.plane, filter, &subscription);
        self.subscriptions.insert(subscription);
        // A grant that came meanwhile may refuse it.
        if self.has_new_grant() {
            self.regrant(burst.shared, burst.plane)?;
        }
        if self.subscriptions.get(sid).is_some() {
            self.acknowledge();
        }
        Ok(())
    }

    /// Refused with this text, or there already when there is none.
    fn may_subscribe(
        &self,
        filter: &[u8],
        queue: Option<&[u8]>,
        sid: &[u8],
        shared: &Shared,
    ) -> Result<(), Option<String>> {
        // In nats-server's order: permissions speak first, and a filter's form last.
        let permissions = self.permissions.as_ref();
        if permissions.is_some_and(|p| !p.can_subscribe(filter, queue)) {
            return Err(Some(subscription_violation(filter, queue)));
        }
        let limits = shared.limits();
        let tokens_max = limits.subscription_tokens_max;
        if tokens_max != 0 && subject::tokens(filter).count() > tokens_max {
            return Err(Some(too_many_tokens(filter)));
        }
        let known = self.subscriptions.get(sid);
        if known.is_some_and(|known| !known.is_closed()) {
            return Err(None);
        }
        let own = self.limits.subscriptions_max.unwrap_or(usize::MAX);
        let most = match limits.subscriptions_max {
            0 => own,
            most => own.min(most),
        };
        if self.subscriptions.len() >= most {
            return Err(Some("maximum subscriptions exceeded".into()));
        }
        if !subject::is_valid_filter(filter) {
            return Err(Some("Invalid Subject".into()));
        }
        Ok(())
    }

    /// Takes a subscription out that is no longer in the table.
    pub(crate) fn forget(&mut self, subscription: &Arc<Subscription>) {
        self.subscriptions.forget(subscription);
        self.shadows.drop_of(subscription);
    }

    /// Ends all subscriptions.
    pub(crate) fn unsubscribe_all(&mut self, plane: &Plane) {
        self.shadows.drop_all();
        let mut left = self.subscriptions.take();
        while unsubscribe_some(&mut left, plane) {}
    }

    /// The same, with turns for others in between, and about as fast as peers hear of it.
    pub(crate) async fn leave(&mut self, plane: &Plane) {
        let mut left = self.subscriptions.take();
        while self.shadows.drop_some(CHANGED_AT_ONCE) || unsubscribe_some(&mut left, plane) {
            let lagging = plane.table.read().lagging_peer(LEAVING_BYTES);
            match lagging {
                Some(peer) => peer.caught_up(peer.patience().unwrap_or_default()).await,
                None => tokio::task::yield_now().await,
            }
        }
    }

    /// Follows changed imports of the account.
    pub(crate) fn renew_shadows(&mut self, plane: &Arc<Plane>) {
        self.shadows.renew(plane, self.subscriptions.iter());
    }

    fn unsubscribe(&mut self, sid: &[u8], max: Option<u64>, burst: &mut Burst<'_>) {
        if let Some(subscription) = self.subscriptions.get(sid).cloned() {
            let kept = burst.change(&mut self.fanout, |table| {
                let kept = max.is_some_and(|max| max > 0 && subscription.limit(max));
                if !kept {
                    table.unsubscribe(&subscription);
                }
                kept
            });
            if !kept {
                self.subscriptions.remove(sid);
                self.shadows.drop_of(&subscription);
            }
        }
        self.acknowledge();
    }
}

/// Ends some of what is left. Returns whether there are more.
fn unsubscribe_some(left: &mut Vec<Arc<Subscription>>, plane: &Plane) -> bool {
    let some = left.split_off(left.len().saturating_sub(CHANGED_AT_ONCE));
    if some.is_empty() {
        return false;
    }
    {
        let mut table = plane.table.write();
        for subscription in &some {
            table.unsubscribe(subscription);
        }
    }
    plane.interest_changed();
    !left.is_empty()
}

fn may_publish(permissions: Option<&Permissions>, internal: bool, subject: &[u8]) -> bool {
    (internal || !has_prefix(subject, &RESERVED_SUBJECTS))
        && permissions.is_none_or(|permissions| permissions.can_publish(subject))
}

fn has_prefix(subject: &[u8], prefixes: &[&[u8]]) -> bool {
    prefixes.iter().any(|prefix| subject.starts_with(prefix))
}
