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

use super::{Flags, Session};
use crate::burst::Burst;
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
            Grant::Revoked => return Err(AuthError::Revoked.into()),
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
        let refused = plane
            .table
            .write()
            .restrict(&permissions, self.subscriptions.iter());
        for (subscription, filter) in refused {
            self.forget(&subscription);
            self.complain(&withdrawn_subscription(&filter, &subscription));
        }
        plane.interest_changed();
        Ok(())
    }
}

/// When the clock that never jumps will show `date`: at once when it has passed.
fn instant_of(date: SystemTime) -> Instant {
    let left = date.duration_since(SystemTime::now()).unwrap_or_default();
    let now = Instant::now();
    now.checked_add(left).unwrap_or(now)
}
