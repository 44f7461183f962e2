//! Who a client is and what it may do: CONNECT, and each grant after it.
//!
//! Owns the way from CONNECT to a grant. Must never decide who is admitted: the authenticator does.

use std::sync::Arc;
use std::time::SystemTime;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use unibus_proto::handshake::ConnectOptions;
use unibus_proto::permissions::Permissions;

use super::{CHANGED_AT_ONCE, Flags, Session};
use crate::burst::Burst;
use crate::outbound::Close;
use crate::places::Seat;
use crate::plane::Plane;
use crate::ports::{Admission, AuthError, AuthRequest, Decision, Grant};
use crate::reason::CloseReason;
use crate::shared::Shared;
use crate::stats::count;
use crate::violation::{Violation, connect_violation, withdrawn_subscription};

/// Grants applied in a row before a burst goes on: each one is newer than the last.
const REGRANTS_MAX: usize = 8;

/// A CONNECT whose decision takes time.
pub(crate) struct Deciding {
    /// What CONNECT said.
    connect: ConnectOptions,
    /// The decision; the connection awaits it and hands it to [`Session::conclude`]. Behind a lock
    /// that is never contended, so that a session can be shared between threads.
    pub(crate) decision: Mutex<BoxFuture<'static, Result<Admission, AuthError>>>,
}

impl std::fmt::Debug for Deciding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Deciding")
    }
}

impl Session {
    /// Where authentication is not required, operations before CONNECT count as an empty CONNECT.
    pub(crate) fn admit_unasked(&mut self, burst: &mut Burst<'_>) -> Result<(), Violation> {
        if burst.shared.is_auth_required() {
            return Err(self.refused(AuthError::Refused, burst));
        }
        match self.ask(&ConnectOptions::default(), burst) {
            Decision::Now(Ok(admission)) => self.admit(admission, burst),
            Decision::Now(Err(refusal)) => Err(self.refused(refusal, burst)),
            // Without credentials there is nothing that could take long.
            Decision::Later(_) => Err(self.refused(AuthError::Refused, burst)),
        }
    }

    pub(super) fn connect(&mut self, json: &[u8], burst: &mut Burst<'_>) -> Result<(), Violation> {
        let options = ConnectOptions::parse(json)
            .map_err(|_| Violation::silent(CloseReason::ProtocolViolation))?;
        if let Some(text) = options.violation() {
            return Err(connect_violation(text));
        }
        self.introduce(&options);
        match self.ask(&options, burst) {
            Decision::Now(decided) => self.decided(&options, decided, burst),
            Decision::Later(decision) => {
                self.deciding = Some(Box::new(Deciding {
                    connect: options,
                    decision: Mutex::new(decision),
                }));
                Ok(())
            }
        }
    }

    /// Takes the decision that a CONNECT waited for.
    ///
    /// # Errors
    /// [`Violation`]: the connection ends.
    pub(crate) fn conclude(
        &mut self,
        deciding: &Deciding,
        decided: Result<Admission, AuthError>,
        burst: &mut Burst<'_>,
    ) -> Result<(), Violation> {
        self.decided(&deciding.connect, decided, burst)
    }

    fn decided(
        &mut self,
        options: &ConnectOptions,
        decided: Result<Admission, AuthError>,
        burst: &mut Burst<'_>,
    ) -> Result<(), Violation> {
        match decided {
            Ok(admission) => self.admit(admission, burst)?,
            Err(refusal) => return Err(self.refused(refusal, burst)),
        }
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

    fn ask(&self, connect: &ConnectOptions, burst: &Burst<'_>) -> Decision {
        let nonce = self.nonce.as_deref().unwrap_or_default();
        let request = AuthRequest {
            connect,
            nonce,
            peer: self.record.peer(),
            tls: self.tls,
            certificate: self.certificate.as_deref(),
            kind: self.record.kind(),
        };
        burst.shared.auth.authenticate(&request)
    }

    fn admit(&mut self, admission: Admission, burst: &mut Burst<'_>) -> Result<(), Violation> {
        // Making an account's plane takes locks that must not be asked for under a table's.
        burst.release(&mut self.fanout);
        self.take_place(&admission, burst.shared)?;
        let plane = self.take_seat(&admission, burst)?;
        self.record.learn(|client| {
            client.user.clone_from(&admission.user);
            client.nkey.clone_from(&admission.identity);
            client.account.clone_from(&admission.account);
            client.admitted = true;
        });
        self.origin.identity = admission.identity;
        self.origin.internal = admission.internal;
        self.limits = admission.limits.within(plane.exchange.load().limits);
        self.origin.account.clone_from(&plane.account);
        self.expires_at = admission.expires_at.map(instant_of);
        self.pings_out = 0;
        self.follow(admission.grant);
        self.flags.admitted = true;
        if !Arc::ptr_eq(&plane, burst.plane) {
            // What was subscribed to belongs to the account before.
            self.unsubscribe_all(burst.plane);
            self.fanout.forget();
            self.next_plane = Some(Arc::clone(&plane));
        }
        self.regrant(burst.shared, &plane)?;
        burst
            .shared
            .tell(|events| events.connected(&self.record.report()));
        Ok(())
    }

    fn take_place(&mut self, admission: &Admission, shared: &Shared) -> Result<(), Violation> {
        self.place = None;
        let user = admission.user.as_ref().or(admission.identity.as_ref());
        let (Some(most), Some(user)) = (admission.limits.connections_max, user) else {
            return Ok(());
        };
        let account = admission.account.as_deref().unwrap_or_default();
        self.place = shared.places.take(&format!("{account}\n{user}"), most);
        match self.place {
            Some(_) => Ok(()),
            None => Err(Violation::new(
                "maximum account active connections exceeded",
                CloseReason::MaxAccountConnectionsExceeded,
            )),
        }
    }

    /// The plane of the client's account, which counts the connection from now on.
    fn take_seat(
        &mut self,
        admission: &Admission,
        burst: &Burst<'_>,
    ) -> Result<Arc<Plane>, Violation> {
        let account = admission.account.as_deref();
        let Some(plane) = burst.shared.planes.of(account) else {
            return Err(Violation::new(
                "Failed Account Registration",
                CloseReason::MissingAccount,
            ));
        };
        if self.seat.as_ref().is_some_and(|seat| seat.is_in(&plane)) {
            return Ok(plane);
        }
        self.seat = None;
        self.seat = Seat::take(&plane);
        match self.seat {
            Some(_) => Ok(plane),
            None => Err(Violation::new(
                "maximum account active connections exceeded",
                CloseReason::MaxAccountConnectionsExceeded,
            )),
        }
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

    /// Takes over a grant; [`Self::regrant`] applies what it says now.
    fn follow(&mut self, grant: watch::Receiver<Grant>) {
        self.record.follow(grant.clone());
        self.new_grant = Some(grant.clone());
        self.grant = Some(grant);
    }

    /// Whether a grant waits to be applied: one atomic load.
    pub(super) fn has_new_grant(&self) -> bool {
        let grant = self.grant.as_ref();
        // An error says that it will never change again.
        grant.is_some_and(|grant| grant.has_changed().unwrap_or(false))
    }

    /// Applies the grant in force, if it is news: the first one and each later one.
    ///
    /// # Errors
    /// [`Violation`] when the identity was revoked.
    pub(crate) fn regrant(&mut self, shared: &Shared, plane: &Plane) -> Result<(), Violation> {
        let Some(grant) = &mut self.grant else {
            return Ok(());
        };
        self.record.begin_regrant();
        let grant = grant.borrow_and_update().clone();
        let result = self.apply(&grant, plane);
        self.record.end_regrant();
        shared.regranted.notify_waiters();
        result
    }

    /// Opens the table for publishing under the grant in force: what was granted or revoked before the
    /// table was locked holds for everything that follows.
    pub(super) fn open_table(&mut self, burst: &mut Burst<'_>) -> Result<(), Violation> {
        for _ in 0..REGRANTS_MAX {
            if burst.is_open() {
                return Ok(());
            }
            burst.tables(&mut self.fanout);
            if !self.has_new_grant() {
                return Ok(());
            }
            burst.release(&mut self.fanout);
            self.regrant(burst.shared, burst.plane)?;
        }
        Ok(())
    }

    fn apply(&mut self, grant: &Grant, plane: &Plane) -> Result<(), Violation> {
        let permissions = match grant {
            Grant::Revoked => return Err(self.end_revoked()),
            Grant::Anew => {
                return Err(Violation::new(
                    "Stale Connection",
                    CloseReason::StaleConnection,
                ));
            }
            Grant::Active(permissions) => Arc::clone(permissions),
        };
        self.fanout.forget();
        let restricts = *permissions != Permissions::all();
        self.permissions = restricts.then(|| Arc::clone(&permissions));
        self.origin.permissions.clone_from(&self.permissions);
        self.outbound.set_permissions(self.permissions.clone());
        if self.subscriptions.len() == 0 {
            return Ok(());
        }
        let mut refused = Vec::new();
        let subscriptions: Vec<_> = self.subscriptions.iter().collect();
        for some in subscriptions.chunks(CHANGED_AT_ONCE) {
            let mut table = plane.table.write();
            refused.extend(table.restrict(&permissions, some.iter().copied()));
        }
        for (subscription, filter) in refused {
            self.forget(&subscription);
            self.complain(&withdrawn_subscription(&filter, &subscription));
        }
        plane.interest_changed();
        Ok(())
    }
}

impl Session {
    /// Closes the connection with its last word. Whoever waits for the revocation hears of it only after
    /// that, so that nothing is delivered any more then.
    fn end_revoked(&mut self) -> Violation {
        let Violation { text, reason } = AuthError::Revoked.into();
        if let Some(text) = text {
            self.complain(text);
        }
        self.fanout.hand_over();
        self.outbound.close_quietly(Close::AfterFlush(reason));
        Violation::silent(reason)
    }
}

/// When the clock that never jumps will show `date`: at once when it has passed.
fn instant_of(date: SystemTime) -> Instant {
    let left = date.duration_since(SystemTime::now()).unwrap_or_default();
    let now = Instant::now();
    now.checked_add(left).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

    use super::*;
    use crate::options::BrokerOptions;
    use crate::outbound::Outbound;
    use crate::ports::{Authenticator, Publication};
    use crate::subscription::Subscription;

    struct Nobody;

    impl Authenticator for Nobody {
        fn authenticate(&self, _: &AuthRequest<'_>) -> Decision {
            Decision::Now(Err(AuthError::Refused))
        }
    }

    #[tokio::test]
    async fn ending_very_many_subscriptions_leaves_turns_to_others() {
        let plane = Arc::clone(
            &Shared::new(BrokerOptions::default(), Arc::new(Nobody))
                .planes
                .global,
        );
        let outbound = Arc::new(Outbound::for_client(1, 1_000_000, None));
        let peer = "127.0.0.1:1".parse().unwrap();
        let mut session = Session::new(Arc::clone(&outbound), peer, Arc::default(), None);
        for number in 0..10 * CHANGED_AT_ONCE {
            let sid = number.to_string();
            let one = Arc::new(Subscription::new(
                Arc::clone(&outbound),
                sid.as_bytes(),
                None,
            ));
            plane.table.write().subscribe(b"same", &one);
            session.subscriptions.insert(one);
        }
        let left = || plane.table.read().local.sublist().len();
        let mut leaving = std::pin::pin!(session.leave(&plane));
        let mut turns = 0;
        while futures::poll!(leaving.as_mut()).is_pending() {
            turns += 1;
            assert_eq!(left(), (10 - turns) * CHANGED_AT_ONCE);
        }
        assert_eq!((turns, left()), (9, 0));
    }

    #[test]
    fn whoever_hears_of_a_revocation_hears_it_after_the_last_delivery() {
        let shared = Shared::new(BrokerOptions::default(), Arc::new(Nobody));
        let plane = Arc::clone(&shared.planes.global);
        let outbound = Arc::new(Outbound::for_client(1, 1_000_000, None));
        let peer = "127.0.0.1:1".parse().unwrap();
        let mut session = Session::new(Arc::clone(&outbound), peer, Arc::default(), None);
        let (grants, grant) = watch::channel(Grant::Active(Arc::new(Permissions::all())));
        session.follow(grant);
        let subscription = Arc::new(Subscription::new(Arc::clone(&outbound), b"1", None));
        plane.table.write().subscribe(b"news", &subscription);
        let publish = || {
            let publication = Publication {
                subject: b"news",
                data: b"secret",
                ..Publication::default()
            };
            plane.with_engine(|engine| engine.publish(publication))
        };
        assert_eq!(publish(), 1);
        let mut written = outbound.take_chunk().unwrap();
        let before = written.len();
        written.clear();
        outbound.wrote(written, before, Ok(()));

        grants.send_replace(Grant::Revoked);
        assert!(session.record.is_behind_its_grant());
        assert!(session.regrant(&shared, &plane).is_err());
        assert!(!session.record.is_behind_its_grant());

        assert_eq!(publish(), 0);
        let last = outbound.take_chunk().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&last),
            "-ERR 'User Authentication Revoked'\r\n"
        );
    }
}
