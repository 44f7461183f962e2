//! What every call of the control plane shares: the records, the directory, the limits, and the two
//! ways a call is carried out. A read claims its nonce first, which is its read barrier too. A
//! change claims it in the entry that makes the change; where others were faster, it is planned
//! anew from what they left.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::{Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use unibus_proto::jetstream::error::{STREAM_NAME_EXIST, SUBJECT_OVERLAP};
use unibus_raft::Transport;

use super::body::Received;
use super::caller::{Caller, Verdict, replayed};
use super::limits::{Budget, ControlCounters, PerAddress};
use super::records::{Committed, Draft, Records};
use super::refusal::Refusal;
use super::reply::{Body, json};
use crate::access::Directory;
use crate::config::args::BusAuth;
use crate::config::limits::HttpLimits;
use crate::http::{HealthSource, OwnNames};

/// Attempts at a change that others get in the way of.
const ATTEMPTS_MAX: usize = 16;
/// How long a change waits for reachable nodes to act by it before it is acknowledged.
const SETTLE_MAX: Duration = Duration::from_secs(1);

/// The control plane of a node.
pub(crate) struct Plane {
    pub(crate) records: Records,
    pub(crate) directory: Arc<Directory>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) health: Arc<dyn HealthSource>,
    pub(crate) mode: BusAuth,
    /// Rooms in cleartext are refused.
    pub(crate) encrypted_rooms: bool,
    /// By which it may be asked where nobody needs a login.
    pub(crate) names: OwnNames,
    pub(crate) limits: HttpLimits,
    pub(crate) addresses: PerAddress,
    pub(crate) budget: Arc<Budget>,
    pub(crate) counters: Arc<ControlCounters>,
}

impl std::fmt::Debug for Plane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plane")
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// A request that was let through, with what its handler looks at.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) plane: &'a Plane,
    pub(crate) caller: Caller,
    /// The variable parts of the path, in order.
    pub(crate) params: Vec<&'a str>,
    /// The query without its `?`.
    pub(crate) query: &'a str,
    pub(crate) range: Option<&'a str>,
    pub(crate) body: Received,
}

/// What a change came to.
#[derive(Debug)]
pub(crate) struct Changed<T> {
    pub(crate) value: T,
    /// Names of the nodes that act by it.
    applied: Vec<String>,
    /// Names of the members that have not said so.
    pending: Vec<String>,
}

impl Call<'_> {
    /// The variable part number `at`, read as an id.
    pub(crate) fn param<T>(&self, at: usize) -> Result<T, Refusal>
    where
        T: std::str::FromStr,
        Refusal: From<T::Err>,
    {
        let text = self.params.get(at).copied().unwrap_or_default();
        Ok(text.parse::<T>()?)
    }

    /// A value of the query; ids need no decoding.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        let pairs = self
            .query
            .split('&')
            .filter_map(|pair| pair.split_once('='));
        let mut values = pairs
            .filter(|(key, _)| *key == name)
            .map(|(_, value)| value);
        values.next()
    }

    /// The body as JSON.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        let body = self.body.joined();
        serde_json::from_slice(&body)
            .map_err(|error| Refusal::bad(format!("the body is not what this call takes: {error}")))
    }

    /// Claims the nonce on its own. Afterwards this node holds everything acknowledged before.
    pub(crate) async fn claim(&mut self) -> Result<(), Refusal> {
        let records = &self.plane.records;
        if !self.caller.is_unclaimed() {
            return Ok(records.barrier().await?);
        }
        for _ in 0..ATTEMPTS_MAX {
            let mut draft = Draft::default();
            let claim = self.caller.claim(&mut draft);
            match records.commit(draft).await? {
                Committed::Done { .. } => {
                    self.caller.set_claimed();
                    return Ok(());
                }
                Committed::Conflict { check } => match claim.verdict(check) {
                    Verdict::Replayed => return Err(replayed()),
                    _ => self.caller.renew(records)?,
                },
                Committed::Refused(refusal) => return Err(refused(&refusal)),
            }
        }
        Err(contended())
    }

    /// Carries out a read: `look` sees everything acknowledged before the call.
    pub(crate) async fn read<T>(
        &mut self,
        look: impl FnOnce(&Records, &Caller) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        self.claim().await?;
        look(&self.plane.records, &self.caller)
    }

    /// Carries out a change: `plan` reads what it needs, notes what it expects and what is to be
    /// written; it is asked again where an expectation did not hold.
    pub(crate) async fn change<T>(
        &mut self,
        plan: impl Fn(&Records, &Caller, &mut Draft) -> Result<T, Refusal>,
    ) -> Result<Changed<T>, Refusal> {
        let plane = self.plane;
        let records = &plane.records;
        for _ in 0..ATTEMPTS_MAX {
            records.barrier().await?;
            let mut draft = Draft::default();
            let claim = self.caller.claim(&mut draft);
            let value = match plan(records, &self.caller, &mut draft) {
                Ok(value) => value,
                Err(refusal) => {
                    // What was refused once must not be granted to a replay of it later.
                    self.claim().await?;
                    return Err(refusal);
                }
            };
            match records.commit(draft).await? {
                Committed::Done { index } => {
                    ControlCounters::add(&plane.counters.changes);
                    let (applied, pending) = self.settle(index).await;
                    return Ok(Changed {
                        value,
                        applied,
                        pending,
                    });
                }
                Committed::Conflict { check } => match claim.verdict(check) {
                    Verdict::Replayed => return Err(replayed()),
                    Verdict::UserChanged => self.caller.renew(records)?,
                    Verdict::Unrelated => {}
                },
                Committed::Refused(refusal) => {
                    self.claim().await?;
                    return Err(refused(&refusal));
                }
            }
        }
        Err(contended())
    }

    async fn settle(&self, index: u64) -> (Vec<String>, Vec<String>) {
        let within = if self.waits_for_all() {
            self.plane.records.timeout()
        } else {
            SETTLE_MAX
        };
        let reachable = self.plane.transport.connected();
        let (applied, pending) = self.plane.records.settle(index, within, &reachable).await;
        if !pending.is_empty() {
            tracing::warn!(index, nodes = ?pending, "a change is not in force on every node yet");
        }
        (applied, pending)
    }

    fn waits_for_all(&self) -> bool {
        self.query("wait") == Some("all")
    }

    /// The answer to a change: its value, and with `wait=all` which nodes have applied it.
    pub(crate) fn changed<T: Serialize>(
        &self,
        status: StatusCode,
        changed: &Changed<T>,
    ) -> Response<Body> {
        let mut value = serde_json::to_value(&changed.value).unwrap_or_default();
        if let (Value::Object(fields), true) = (&mut value, self.waits_for_all()) {
            fields.insert("applied_on".into(), changed.applied.clone().into());
            fields.insert("pending_on".into(), changed.pending.clone().into());
        }
        json(status, &value)
    }
}

impl Plane {
    /// One token of an address's bucket.
    pub(crate) fn admit(&self, address: IpAddr) -> Result<(), Refusal> {
        self.addresses.take(address).map_err(|wait| {
            ControlCounters::add(&self.counters.rate_limited);
            Refusal {
                retry_after: Some(wait),
                ..Refusal::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "too many requests from this address",
                )
            }
        })
    }

    /// Counts what a request was refused for.
    pub(crate) fn count(&self, refusal: &Refusal) {
        let counters = &self.counters;
        match refusal.status {
            StatusCode::UNAUTHORIZED if *refusal == replayed() => {
                ControlCounters::add(&counters.replayed);
            }
            StatusCode::UNAUTHORIZED => ControlCounters::add(&counters.unauthorized),
            StatusCode::FORBIDDEN => ControlCounters::add(&counters.forbidden),
            StatusCode::PAYLOAD_TOO_LARGE => ControlCounters::add(&counters.bodies_too_large),
            StatusCode::REQUEST_TIMEOUT => ControlCounters::add(&counters.too_slow),
            StatusCode::SERVICE_UNAVAILABLE if refusal.close => {
                ControlCounters::add(&counters.shed);
            }
            StatusCode::SERVICE_UNAVAILABLE => ControlCounters::add(&counters.unavailable),
            _ => {}
        }
    }
}

fn contended() -> Refusal {
    Refusal::unavailable("others keep changing the same records; ask again")
}

/// A change that apply refused: a room's stream that can't be made, or what no request should lead to.
fn refused(refusal: &unibus_state::Refusal) -> Refusal {
    let error = &refusal.error;
    if [SUBJECT_OVERLAP, STREAM_NAME_EXIST]
        .iter()
        .any(|taken| taken.err_code == error.err_code)
    {
        tracing::info!(error = %error.description, "a room's stream was refused");
        return Refusal::conflict("the subject is taken, or overlaps with one that is");
    }
    tracing::error!(error = %error.description, "a control change was refused");
    Refusal::unavailable("the change can't be stored")
}
