//! What a client's operations mean: one connection's protocol state.
//!
//! Owns the CONNECT handshake, the sid table and the texts of refusals (nats-surface §1). Runs inside a
//! burst: synchronous, no socket in sight. Must never wait.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::sync::watch;
use tokio::time::Instant;
use unibus_proto::decoder::{ClientOp, DecodeError, PubOp};
use unibus_proto::encoder;
use unibus_proto::handshake::{ConnectOptions, ServerInfo};
use unibus_proto::permissions::Permissions;
use unibus_proto::subject;
use unibus_proto::sublist::Walk;

use crate::burst::Burst;
use crate::fanout::{Fanout, Message, Reach};
use crate::meter::Amount;
use crate::outbound::Outbound;
use crate::ports::{Admission, AuthError, AuthRequest, Grant, Origin};
use crate::reason::CloseReason;
use crate::registry::Record;
use crate::report::GLOBAL_ACCOUNT;
use crate::shared::Shared;
use crate::stats::count;
use crate::subscription::{SidTable, Subscription};

/// Replies that clients may not ask for, and subjects they may not publish to (nats-surface §1.9).
const RESERVED_REPLIES: [&[u8]; 3] = [b"_R_.", b"$JS.ACK.", b"_GR_."];
const RESERVED_SUBJECTS: [&[u8]; 3] = [b"$GNR.", b"_GR_.", b"$NRG."];

/// Why a burst ends the connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Violation {
    /// The `-ERR` text; `None` = closed without one.
    pub(crate) text: Option<&'static str>,
    /// For reports.
    pub(crate) reason: CloseReason,
}

impl Violation {
    const fn new(text: &'static str, reason: CloseReason) -> Self {
        Self {
            text: Some(text),
            reason,
        }
    }

    const fn silent(reason: CloseReason) -> Self {
        Self { text: None, reason }
    }
}

impl From<DecodeError> for Violation {
    fn from(error: DecodeError) -> Self {
        let reason = match error {
            DecodeError::UnknownOperation | DecodeError::Malformed => CloseReason::ParseError,
            DecodeError::MaximumPayload => CloseReason::MaxPayloadExceeded,
            DecodeError::MaximumControlLine => CloseReason::MaxControlLineExceeded,
        };
        Self {
            text: error.err_line(),
            reason,
        }
    }
}

impl From<AuthError> for Violation {
    fn from(error: AuthError) -> Self {
        let reason = match error {
            AuthError::Refused => CloseReason::AuthenticationViolation,
            AuthError::Expired => CloseReason::AuthenticationExpired,
            AuthError::Revoked => CloseReason::Revocation,
        };
        Self::new(error.text(), reason)
    }
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) outbound: Arc<Outbound>,
    pub(crate) record: Arc<Record>,
    pub(crate) fanout: Fanout,
    pub(crate) subscriptions: SidTable,
    tls: bool,
    nonce: Option<Box<str>>,
    flags: Flags,
    /// What INFO was when the first PONG was staged.
    told_info: Option<Arc<ServerInfo>>,
    permissions: Option<Arc<Permissions>>,
    origin: Origin,
    /// A grant that the connection has not begun to follow yet.
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
        shared: &Shared,
        outbound: Arc<Outbound>,
        peer: SocketAddr,
        nonce: Option<Box<str>>,
    ) -> Self {
        let origin = Origin {
            connection: outbound.id,
            ..Origin::default()
        };
        Self {
            record: Arc::new(Record::new(Arc::clone(&outbound), peer)),
            outbound,
            fanout: Fanout::new(),
            subscriptions: SidTable::new(),
            tls: shared.options.tls.is_some(),
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
            new_grant: None,
            pings_out: 0,
            pinged_at: None,
            received: Amount::default(),
        }
    }

    pub(crate) const fn is_admitted(&self) -> bool {
        self.flags.admitted
    }

    /// INFO for this connection.
    pub(crate) fn info(&self, shared: &Shared) -> ServerInfo {
        ServerInfo {
            client_id: self.outbound.id,
            client_ip: Some(self.record.peer().ip().to_string()),
            nonce: self.nonce.as_deref().map(str::to_owned),
            ..ServerInfo::clone(&shared.info.load())
        }
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
            } => self.subscribe(subject, queue, sid, burst),
            ClientOp::Unsub { sid, max } => self.unsubscribe(sid, max, burst),
            ClientOp::Info | ClientOp::Ok => {}
            ClientOp::Err(_) => return Err(Violation::silent(CloseReason::ClientClosed)),
        }
        Ok(())
    }

    /// Stages an `-ERR` line.
    pub(crate) fn complain(&mut self, text: &str) {
        encoder::err(self.lines(), text);
    }

    fn lines(&mut self) -> &mut BytesMut {
        self.fanout.lines(&self.outbound)
    }

    fn acknowledge(&mut self) {
        if self.flags.verbose {
            encoder::ok(self.lines());
        }
    }

    fn ping(&mut self, burst: &Burst<'_>) {
        encoder::pong(self.lines());
        if std::mem::take(&mut self.flags.info_owed) {
            self.told_info = Some(burst.shared.info.load_full());
            let info = ServerInfo {
                connect_info: true,
                remote_account: Some(GLOBAL_ACCOUNT.into()),
                ..self.info(burst.shared)
            };
            encoder::info(self.lines(), &info);
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

    /// Where authentication is not required, operations before CONNECT count as an empty CONNECT.
    fn admit_unasked(&mut self, burst: &mut Burst<'_>) -> Result<(), Violation> {
        if burst.shared.options.auth_required {
            return Err(self.refused(AuthError::Refused, burst));
        }
        self.authenticate(&ConnectOptions::default(), burst)
    }

    fn connect(&mut self, json: &[u8], burst: &mut Burst<'_>) -> Result<(), Violation> {
        let options = ConnectOptions::parse(json)
            .map_err(|_| Violation::silent(CloseReason::ProtocolViolation))?;
        if let Some(text) = options.violation() {
            return Err(connect_violation(text));
        }
        self.authenticate(&options, burst)?;
        let owed = options.protocol >= 1 && !self.record.follows_info();
        self.flags = Flags {
            admitted: true,
            verbose: options.verbose,
            pedantic: options.pedantic,
            echo: options.echo,
            headers: options.headers,
            no_responders: options.no_responders,
            info_owed: owed,
            follow_info: false,
        };
        self.outbound.set_headers(options.headers);
        self.acknowledge();
        Ok(())
    }

    fn authenticate(
        &mut self,
        connect: &ConnectOptions,
        burst: &mut Burst<'_>,
    ) -> Result<(), Violation> {
        self.introduce(connect);
        let nonce = self.nonce.as_deref().unwrap_or_default();
        let request = AuthRequest {
            connect,
            nonce,
            peer: self.record.peer(),
            tls: self.tls,
        };
        match burst.shared.auth.authenticate(&request) {
            Ok(admission) => self.admit(admission, burst),
            Err(refusal) => Err(self.refused(refusal, burst)),
        }
    }

    fn admit(&mut self, admission: Admission, burst: &mut Burst<'_>) -> Result<(), Violation> {
        let mut grant = admission.grant;
        let first = grant.borrow_and_update().clone();
        self.record.learn(|client| {
            client.user.clone_from(&admission.user);
            client.nkey.clone_from(&admission.identity);
            client.account.clone_from(&admission.account);
            client.admitted = true;
        });
        self.origin.identity = admission.identity;
        self.origin.internal = admission.internal;
        self.new_grant = Some(grant);
        self.flags.admitted = true;
        burst.release(&mut self.fanout);
        self.regrant(&first, burst.shared)?;
        burst
            .shared
            .tell(|events| events.connected(&self.record.report()));
        Ok(())
    }

    /// Notes what a client says of itself.
    fn introduce(&self, connect: &ConnectOptions) {
        let text = |text: &Option<String>| {
            let text = text.as_deref().filter(|text| !text.is_empty());
            text.map(Arc::from)
        };
        self.record.learn(|client| {
            client.name = text(&connect.name);
            client.lang = text(&connect.lang);
            client.version = text(&connect.version);
            client.user = text(&connect.user);
            client.nkey = text(&connect.nkey);
        });
    }

    fn refused(&mut self, refusal: AuthError, burst: &mut Burst<'_>) -> Violation {
        count(&burst.shared.counters.auth_failures);
        burst.release(&mut self.fanout);
        let report = self.record.report();
        burst
            .shared
            .tell(|events| events.auth_failed(&report, refusal.text()));
        refusal.into()
    }

    /// Applies a grant: the first one and each later one.
    ///
    /// # Errors
    /// [`Violation`] when the identity was revoked.
    pub(crate) fn regrant(&mut self, grant: &Grant, shared: &Shared) -> Result<(), Violation> {
        let permissions = match grant {
            Grant::Revoked => return Err(AuthError::Revoked.into()),
            Grant::Active(permissions) => Arc::clone(permissions),
        };
        self.fanout.forget();
        let restricts = *permissions != Permissions::all();
        self.permissions = restricts.then(|| Arc::clone(&permissions));
        self.outbound.set_permissions(self.permissions.clone());
        if self.subscriptions.len() == 0 {
            return Ok(());
        }
        let refused = shared
            .table
            .write()
            .restrict(&permissions, self.subscriptions.iter());
        for (subscription, filter) in refused {
            self.subscriptions.forget(&subscription);
            let text = subscription_violation(&filter, subscription.queue.as_deref());
            self.complain(&text);
        }
        shared.interest_changed();
        Ok(())
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
        if self.flags.verbose && self.may_publish(op.subject) {
            encoder::ok(self.lines());
        }
        self.route(op, burst);
        Ok(())
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
            services: Some(&self.origin),
            except,
        };
        let (table, services) = burst.tables(&mut self.fanout);
        let permissions = self.permissions.as_deref();
        let internal = self.origin.internal;
        let allowed = |subject: &[u8]| may_publish(permissions, internal, subject);
        match self
            .fanout
            .publish(table, services, &message, &reach, allowed)
        {
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
            encoder::no_responders(self.lines(), reply, &own.sid, subject);
        }
    }

    fn subscribe(
        &mut self,
        filter: &[u8],
        queue: Option<&[u8]>,
        sid: &[u8],
        burst: &mut Burst<'_>,
    ) {
        if !subject::is_valid_filter(filter) {
            return self.complain("Invalid Subject");
        }
        if self
            .permissions
            .as_ref()
            .is_some_and(|p| !p.can_subscribe(filter, queue))
        {
            return self.complain(&subscription_violation(filter, queue));
        }
        if self
            .subscriptions
            .get(sid)
            .is_some_and(|known| !known.is_closed())
        {
            return self.acknowledge();
        }
        let most = burst.shared.limits().subscriptions_max;
        if most != 0 && self.subscriptions.len() >= most {
            return self.complain("maximum subscriptions exceeded");
        }
        let subscription = Arc::new(Subscription::new(Arc::clone(&self.outbound), sid, queue));
        if self
            .permissions
            .as_ref()
            .is_some_and(|p| p.needs_delivery_check(filter))
        {
            subscription.set_checked(true);
        }
        burst.change(&mut self.fanout, |table| {
            table.subscribe(filter, &subscription)
        });
        self.subscriptions.insert(subscription);
        self.acknowledge();
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
            }
        }
        self.acknowledge();
    }
}

/// Why CONNECT's own words end the connection.
fn connect_violation(text: &'static str) -> Violation {
    let reason = match text {
        "invalid client protocol" => CloseReason::BadClientProtocolVersion,
        "no responders requires headers support" => CloseReason::NoRespondersRequiresHeaders,
        _ => CloseReason::AuthenticationViolation,
    };
    Violation::new(text, reason)
}

fn may_publish(permissions: Option<&Permissions>, internal: bool, subject: &[u8]) -> bool {
    (internal || !has_prefix(subject, &RESERVED_SUBJECTS))
        && permissions.is_none_or(|permissions| permissions.can_publish(subject))
}

fn has_prefix(subject: &[u8], prefixes: &[&[u8]]) -> bool {
    prefixes.iter().any(|prefix| subject.starts_with(prefix))
}

fn subscription_violation(filter: &[u8], queue: Option<&[u8]>) -> String {
    let filter = String::from_utf8_lossy(filter);
    let text = format!("Permissions Violation for Subscription to \"{filter}\"");
    match queue {
        None => text,
        Some(queue) => format!("{text} using queue \"{}\"", String::from_utf8_lossy(queue)),
    }
}
