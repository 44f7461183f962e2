//! Who sent a request, and in which order that is found out (control-plane.md, Authentication of
//! requests): headers, clock, signature, active user, nonce. Fails closed: whatever can't be
//! decided is denied.

use std::time::{SystemTime, UNIX_EPOCH};

use hyper::HeaderMap;
use unibus_proto::control::EndpointId;
use unibus_proto::nkey::NkeyPublic;
use unibus_proto::signing::{BodyHash, RequestProof};

use super::buckets::Bucket;
use super::records::{Draft, Entry, Records};
use super::refusal::Refusal;
use crate::access::{Directory, Role, Status, UserRecord};
use crate::config::args::BusAuth;

/// Value of a claimed nonce: nothing.
const CLAIMED: &[u8] = b"{}";

/// A request as far as authentication looks at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    pub(crate) method: &'a str,
    /// Path and query exactly as sent.
    pub(crate) uri: &'a str,
    pub(crate) headers: &'a HeaderMap,
}

/// Somebody who has proven to be an active user.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) key: NkeyPublic,
    pub(crate) endpoint: EndpointId,
    pub(crate) role: Role,
    /// Of the user's record; every change of this request expects it.
    revision: u64,
    nonce: String,
}

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// `None`: nobody was asked (`off`), or the proof failed (`soft`).
    identity: Option<Identity>,
    mode: BusAuth,
    /// The nonce is claimed already.
    claimed: bool,
}

/// Places of a caller's expectations in a draft.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Claim {
    user: Option<usize>,
    nonce: Option<usize>,
}

/// What a failed expectation says about the caller.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// Its record has changed: look again.
    UserChanged,
    /// The nonce was seen.
    Replayed,
    /// Nothing: the failed expectation is another.
    Unrelated,
}

impl Caller {
    /// What `off` knows of a caller, and `soft` of one without a proof.
    pub(crate) fn nobody(mode: BusAuth) -> Self {
        Self {
            identity: None,
            mode,
            claimed: false,
        }
    }

    /// Who it is; `None` = unknown, and let through.
    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Refuses with 403 unless `holds` for the caller's identity. Under `off` and `soft` everything
    /// passes; `soft` logs what it lets through.
    pub(crate) fn require(
        &self,
        words: &'static str,
        holds: impl FnOnce(&Identity) -> bool,
    ) -> Result<(), Refusal> {
        match (&self.identity, self.mode) {
            (Some(identity), _) if holds(identity) => Ok(()),
            (_, BusAuth::Enforce) => Err(Refusal::forbidden(words)),
            (_, BusAuth::Soft) => {
                tracing::warn!(
                    %words,
                    "let through under soft; enforce would forbid this request"
                );
                Ok(())
            }
            (_, BusAuth::Off) => Ok(()),
        }
    }

    /// Adds to a draft what makes it this caller's: the user is still active, the nonce unseen.
    pub(crate) fn claim(&self, draft: &mut Draft) -> Claim {
        let Some(identity) = &self.identity else {
            return Claim::default();
        };
        let hex = identity.key.to_hex();
        let user = Some(draft.expect(Bucket::Users, &hex, identity.revision));
        if self.claimed {
            return Claim { user, nonce: None };
        }
        let nonce = Some(draft.expect(Bucket::Nonces, &identity.nonce, 0));
        draft.put_bytes(Bucket::Nonces, &identity.nonce, CLAIMED.into());
        Claim { user, nonce }
    }

    /// Whether the nonce is still to be claimed.
    pub(crate) fn is_unclaimed(&self) -> bool {
        self.identity.is_some() && !self.claimed
    }

    pub(crate) fn set_claimed(&mut self) {
        self.claimed = true;
    }

    /// Reads the caller's record again after it has changed.
    pub(crate) fn renew(&mut self, records: &Records) -> Result<(), Refusal> {
        if let Some(identity) = &mut self.identity {
            let (record, revision) = active_user(records, &identity.key)?;
            identity.revision = revision;
            identity.role = record.role;
        }
        Ok(())
    }
}

impl Claim {
    pub(crate) fn verdict(self, failed: usize) -> Verdict {
        if self.user == Some(failed) {
            Verdict::UserChanged
        } else if self.nonce == Some(failed) {
            Verdict::Replayed
        } else {
            Verdict::Unrelated
        }
    }
}

/// Whether it is worth keeping the body of this request: who sends it may be an active user, as far
/// as memory knows.
pub(crate) fn is_promising(head: &Head<'_>, mode: BusAuth, directory: &Directory) -> bool {
    if mode != BusAuth::Enforce {
        return true;
    }
    let Ok(proof) = proof(head) else {
        return false;
    };
    proof.check_clock(now_ms()).is_ok() && directory.is_authorized(&proof.key)
}

/// Finds out who sent a request whose body has this hash.
pub(crate) async fn authenticate(
    head: &Head<'_>,
    body: &BodyHash,
    mode: BusAuth,
    records: &Records,
) -> Result<Caller, Refusal> {
    if mode == BusAuth::Off {
        return Ok(Caller::nobody(mode));
    }
    match prove(head, body, records).await {
        Ok(identity) => Ok(Caller {
            identity: Some(identity),
            mode,
            claimed: false,
        }),
        Err(refusal) if mode == BusAuth::Soft => {
            tracing::warn!(
                words = %refusal.words,
                "let through under soft; enforce would refuse this request"
            );
            Ok(Caller::nobody(mode))
        }
        Err(refusal) => Err(refusal),
    }
}

async fn prove(head: &Head<'_>, body: &BodyHash, records: &Records) -> Result<Identity, Refusal> {
    let told = |error: unibus_proto::signing::ProofError| Refusal::unauthorized(error.to_string());
    let proof = proof(head).map_err(told)?;
    proof.check_clock(now_ms()).map_err(told)?;
    proof
        .check_signature(head.method, head.uri, body)
        .map_err(told)?;
    let (record, revision) = match active_user(records, &proof.key) {
        Ok(found) => found,
        // Somebody may have been added elsewhere a moment ago.
        Err(_) => {
            records.barrier().await?;
            active_user(records, &proof.key)?
        }
    };
    let nonce = proof.nonce_key();
    if records.revision_of(Bucket::Nonces, &nonce)? > 0 {
        return Err(replayed());
    }
    Ok(Identity {
        key: proof.key,
        endpoint: EndpointId::of(&proof.key),
        role: record.role,
        revision,
        nonce,
    })
}

/// What is told of a nonce that was seen.
pub(crate) fn replayed() -> Refusal {
    Refusal::unauthorized("replayed: this nonce was seen before; sign every request anew")
}

fn active_user(records: &Records, key: &NkeyPublic) -> Result<(UserRecord, u64), Refusal> {
    let found: Entry<UserRecord> = records.get(Bucket::Users, &key.to_hex())?;
    match found.value {
        Some(record)
            if record.status == Status::Active
                && record.sign_pub == key.to_hex()
                && record.check().is_ok() =>
        {
            Ok((record, found.revision))
        }
        _ => Err(Refusal::unauthorized(
            "not authorized: the signer is no active user",
        )),
    }
}

fn proof(head: &Head<'_>) -> Result<RequestProof, unibus_proto::signing::ProofError> {
    RequestProof::read(|name| {
        // Two values would leave it open which one was meant.
        let mut values = head.headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => value.to_str().ok(),
            _ => None,
        }
    })
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
