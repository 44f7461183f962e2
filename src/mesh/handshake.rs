//! The route handshake on the control stream, after TLS: both ends present themselves, check each
//! other, prove the route secret, and the node with the lower id decides which connection of the
//! pair stays.
//!
//! ```text
//! dialer                               acceptor
//!   HELLO ------------------------------>   checks
//!   checks   <------------- HELLO, PROOF
//!   verifies, PROOF -------------------->   verifies
//!            lower id: READY or DUPLICATE; opens the message stream
//! ```
//! Either end may send REFUSED with a typed reason instead. The secret never travels: a proof is a
//! keyed hash over this TLS session's exporter and both HELLOs, different for each role.

use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, ConnectionError};
use tokio::time::timeout;
use unibus_proto::NodeId;

use super::PeerClaim;
use super::control::{Control, ControlError, Frame, Hello, Kind, RefusedFrame, encode};
use super::limits::{CLAIM_MEMORY, HANDSHAKE_TIMEOUT, REFUSAL_LINGER};
use super::peer::Peer;
use super::refusals::{RefusalReason, RefusedBy};
use super::registry::{Arbiter, Verdict};
use super::rpc::{self, StreamKind};
use super::secret::{Role, Session};
use super::shared::{CloseCode, Shared};
use super::tls;

const EXPORTER_LABEL: &[u8] = b"EXPERIMENTAL unibus route";
const EXPORTER_BYTES: usize = 32;

/// How a handshake ended, short of failure.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The route stands and is registered: the caller must run it.
    Established {
        peer: Arc<Peer>,
        control: Control,
        arbiter: Arbiter,
    },
    /// The pair is connected already.
    Duplicate(NodeId),
    /// The other end is this node.
    Own,
}

/// Why there is no route.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Failure {
    Refused {
        by: RefusedBy,
        reason: RefusalReason,
        detail: String,
    },
    Lost(String),
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Lost(text) => Self::Lost(text),
            ControlError::Malformed(_) => us(RefusalReason::Handshake, error.to_string()),
        }
    }
}

fn us(reason: RefusalReason, detail: impl Into<String>) -> Failure {
    Failure::Refused {
        by: RefusedBy::Us,
        reason,
        detail: detail.into(),
    }
}

fn peer(reason: RefusalReason, detail: impl Into<String>) -> Failure {
    Failure::Refused {
        by: RefusedBy::Peer,
        reason,
        detail: detail.into(),
    }
}

/// What TLS failures look like, on whichever side: a rejected certificate is a refusal, anything
/// else is a broken line.
pub(crate) fn classify(error: &ConnectionError) -> Failure {
    let is_tls = |code: u64| (0x100..0x200).contains(&code);
    match error {
        ConnectionError::TransportError(e) if is_tls(e.code.into()) => us(
            RefusalReason::Tls,
            format!("its certificate was not accepted: {}", e.reason),
        ),
        ConnectionError::ConnectionClosed(close) if is_tls(close.error_code.into()) => {
            // Its words, of whatever characters: it may be anybody.
            let reason = String::from_utf8_lossy(&close.reason);
            peer(
                RefusalReason::Tls,
                format!(
                    "it did not accept this node's certificate: {reason:?} ({})",
                    close.error_code
                ),
            )
        }
        other => Failure::Lost(other.to_string()),
    }
}

/// The dialing end. `expected` is the name that the route entry gives.
pub(crate) async fn dial(
    shared: &Arc<Shared>,
    connection: &Connection,
    expected: Option<&str>,
) -> Result<Outcome, Failure> {
    bounded(connection, async {
        let name = proven_name(connection)?;
        // Nothing is said to a node that is not the expected one, but the control stream must be
        // open to tell it why.
        let mut control = Control::open(connection).await?;
        let result = match expected.filter(|expected| **expected != *name) {
            Some(expected) => Err(us(
                RefusalReason::Name,
                format!("the route expects {expected:?}, the certificate says {name:?}"),
            )),
            None => dial_steps(shared, connection, &mut control, &name).await,
        };
        conclude(shared, connection, control, name, true, result).await
    })
    .await
}

async fn dial_steps(
    shared: &Arc<Shared>,
    connection: &Connection,
    control: &mut Control,
    name: &str,
) -> Result<Hello, Failure> {
    let ours = encode(&shared.hello())?;
    control.writer.write(Kind::Hello, &ours).await?;
    let frame = expect(control, Kind::Hello).await?;
    let hello: Hello = frame.json()?;
    check(shared, &hello, name)?;
    if is_own(shared, &hello) {
        return Ok(hello);
    }
    let exporter = exporter(connection)?;
    let session = Session {
        exporter: &exporter,
        dialer_hello: &ours,
        acceptor_hello: &frame.body,
    };
    let shown = expect(control, Kind::Proof).await?;
    if !shared.secret.verify(Role::Acceptor, &session, &shown.body) {
        return Err(wrong_secret());
    }
    let proof = shared.secret.proof(Role::Dialer, &session);
    control.writer.write(Kind::Proof, proof.as_bytes()).await?;
    Ok(hello)
}

/// The accepting end.
pub(crate) async fn accept(
    shared: &Arc<Shared>,
    connection: &Connection,
) -> Result<Outcome, Failure> {
    bounded(connection, async {
        let name = proven_name(connection)?;
        let mut control = Control::accept(connection).await?;
        let result = accept_steps(shared, connection, &mut control, &name).await;
        conclude(shared, connection, control, name, false, result).await
    })
    .await
}

async fn accept_steps(
    shared: &Arc<Shared>,
    connection: &Connection,
    control: &mut Control,
    name: &str,
) -> Result<Hello, Failure> {
    let frame = expect(control, Kind::Hello).await?;
    let hello: Hello = frame.json()?;
    check(shared, &hello, name)?;
    let ours = encode(&shared.hello())?;
    control.writer.write(Kind::Hello, &ours).await?;
    if is_own(shared, &hello) {
        return Ok(hello);
    }
    let exporter = exporter(connection)?;
    let session = Session {
        exporter: &exporter,
        dialer_hello: &frame.body,
        acceptor_hello: &ours,
    };
    let proof = shared.secret.proof(Role::Acceptor, &session);
    control.writer.write(Kind::Proof, proof.as_bytes()).await?;
    let shown = expect(control, Kind::Proof).await?;
    if shared.secret.verify(Role::Dialer, &session, &shown.body) {
        Ok(hello)
    } else {
        Err(wrong_secret())
    }
}

/// Everything that one HELLO must satisfy.
fn check(shared: &Shared, hello: &Hello, certificate: &str) -> Result<(), Failure> {
    let own = &shared.own;
    let (own_min, own_max) = (*own.versions.start(), *own.versions.end());
    if hello.protocol_min > own_max || hello.protocol_max < own_min {
        let (min, max) = (hello.protocol_min, hello.protocol_max);
        let detail =
            format!("the peer speaks versions {min} to {max}, this node {own_min} to {own_max}");
        return Err(us(RefusalReason::Protocol, detail));
    }
    if hello.name != certificate {
        let detail = format!(
            "it calls itself {:?}, its certificate {certificate:?}",
            hello.name
        );
        return Err(us(RefusalReason::Name, detail));
    }
    if hello.cluster != own.cluster {
        let detail = format!(
            "it is of cluster {:?}, this node of {:?}",
            hello.cluster, own.cluster
        );
        return Err(us(RefusalReason::Cluster, detail));
    }
    let lacks = hello.posture.lacks(&own.posture);
    if !lacks.is_empty() {
        let detail = format!("{:?} is run without {}", hello.name, lacks.join(", "));
        return Err(us(RefusalReason::Posture, detail));
    }
    if hello.node == own.node_id && !is_own(shared, hello) {
        let detail = format!(
            "{:?} has this node's id {}: one of the two runs on a copy of the other's data folder",
            hello.name, hello.node
        );
        return Err(us(RefusalReason::NodeId, detail));
    }
    check_cluster(shared, hello)
}

/// Whether the peer's cluster is this node's.
fn check_cluster(shared: &Shared, hello: &Hello) -> Result<(), Failure> {
    let claim = PeerClaim {
        id: hello.node,
        name: hello.name.clone(),
        cluster_id: hello.cluster_id.clone(),
        unidentified: hello.unidentified,
    };
    let accepted = shared.hooks.accepts(&claim);
    accepted.map_err(|detail| us(RefusalReason::ClusterId, detail))
}

fn is_own(shared: &Shared, hello: &Hello) -> bool {
    hello.node == shared.own.node_id
        && hello.incarnation == shared.own.incarnation
        && hello.name == shared.own.name
}

fn wrong_secret() -> Failure {
    us(
        RefusalReason::Secret,
        "the peer did not prove the route secret; all nodes need the same one",
    )
}

/// After the mutual checks: the arbiter's decision, or the refusal and its delivery.
async fn conclude(
    shared: &Arc<Shared>,
    connection: &Connection,
    mut control: Control,
    name: String,
    dialed: bool,
    result: Result<Hello, Failure>,
) -> Result<Outcome, Failure> {
    let result = match result {
        Ok(hello) if is_own(shared, &hello) => {
            if dialed {
                connection.close(CloseCode::Own.wire(), b"own address");
            } else {
                connection.closed().await;
            }
            return Ok(Outcome::Own);
        }
        Ok(hello) => arbitrate(shared, connection, &mut control, hello, name, dialed).await,
        Err(failure) => Err(failure),
    };
    match result {
        Ok((Verdict::Admitted, peer, arbiter)) => Ok(Outcome::Established {
            peer,
            control,
            arbiter,
        }),
        Ok((_, peer, _)) => Ok(Outcome::Duplicate(peer.id())),
        Err(failure) => {
            deliver(connection, &mut control, &failure).await;
            Err(failure)
        }
    }
}

type Arbitrated = (Verdict, Arc<Peer>, Arbiter);

/// The lower id decides, so that both ends keep the same connection. No await follows a
/// registration: a route that is registered is always run.
async fn arbitrate(
    shared: &Arc<Shared>,
    connection: &Connection,
    control: &mut Control,
    hello: Hello,
    name: String,
    dialed: bool,
) -> Result<Arbitrated, Failure> {
    let arbiter = if shared.own.node_id < hello.node {
        Arbiter::Us
    } else {
        Arbiter::Peer
    };
    let version_max = *shared.own.versions.end();
    let peer = Peer::new(connection.clone(), hello, name, dialed, version_max);
    let peer = Arc::new(peer);
    let stream = match arbiter {
        // Opened before anything else, so that it is the first stream that the peer accepts.
        Arbiter::Us => open_messages(connection).await?,
        Arbiter::Peer => match read(control).await?.kind {
            Kind::Ready => accept_messages(connection).await?,
            Kind::Duplicate => {
                connection.close(CloseCode::Duplicate.wire(), b"connected already");
                return Ok((Verdict::Duplicate, peer, arbiter));
            }
            _ => {
                return Err(us(
                    RefusalReason::Handshake,
                    "neither READY nor DUPLICATE came",
                ));
            }
        },
    };
    if shared.stop.is_cancelled() {
        return Err(Failure::Lost("this node is stopping".to_owned()));
    }
    match shared
        .registry
        .offer(&peer, arbiter, shared.hooks.as_ref(), stream)
    {
        Verdict::Admitted => Ok((Verdict::Admitted, peer, arbiter)),
        Verdict::Duplicate => {
            control.writer.write(Kind::Duplicate, &[]).await?;
            linger(control).await;
            connection.close(CloseCode::Duplicate.wire(), b"connected already");
            Ok((Verdict::Duplicate, peer, arbiter))
        }
        Verdict::IdTaken => {
            let detail = format!(
                "another connected node has the id {} of {:?}",
                peer.id(),
                peer.name()
            );
            Err(us(RefusalReason::NodeId, detail))
        }
        Verdict::Contested => {
            let detail = format!(
                "two processes run under the id {} of {:?}, one of them on a copy of the other's data \
                 folder: neither is let in. Stop the copy and delete its folder; the other one is let in \
                 within {CLAIM_MEMORY:?}",
                peer.id(),
                peer.name()
            );
            Err(us(RefusalReason::NodeId, detail))
        }
    }
}

async fn open_messages(connection: &Connection) -> Result<super::registry::MessageStream, Failure> {
    let lost = |e: &dyn std::fmt::Display| Failure::Lost(e.to_string());
    let (mut send, recv) = connection.open_bi().await.map_err(|e| lost(&e))?;
    // A stream that is closed already says so at the write below.
    let _closed = send.set_priority(rpc::MESSAGES_PRIORITY);
    send.write_all(&[StreamKind::Messages as u8])
        .await
        .map_err(|e| lost(&e))?;
    Ok((recv, send))
}

async fn accept_messages(
    connection: &Connection,
) -> Result<super::registry::MessageStream, Failure> {
    let lost = |e: &dyn std::fmt::Display| Failure::Lost(e.to_string());
    let (send, mut recv) = connection.accept_bi().await.map_err(|e| lost(&e))?;
    let _closed = send.set_priority(rpc::MESSAGES_PRIORITY);
    let mut kind = [0_u8];
    recv.read_exact(&mut kind).await.map_err(|e| lost(&e))?;
    if kind != [StreamKind::Messages as u8] {
        return Err(us(
            RefusalReason::Handshake,
            "the first stream is not for messages",
        ));
    }
    Ok((recv, send))
}

/// Tells the peer why, if this end refuses, and closes. A connection that failed otherwise stays as
/// it is: closing it would hide the reason why it failed.
async fn deliver(connection: &Connection, control: &mut Control, failure: &Failure) {
    if let Failure::Refused {
        by: RefusedBy::Us,
        reason,
        detail,
    } = failure
    {
        let frame = RefusedFrame {
            reason: *reason,
            detail: detail.clone(),
        };
        if control
            .writer
            .write_json(Kind::Refused, &frame)
            .await
            .is_ok()
        {
            linger(control).await;
        }
        connection.close(CloseCode::Refused.wire(), reason.to_string().as_bytes());
    }
}

async fn linger(control: &mut Control) {
    // What matters is that the peer had its chance to read.
    let _late = timeout(REFUSAL_LINGER, control.writer.flush_and_end()).await;
}

async fn read(control: &mut Control) -> Result<Frame, Failure> {
    let frame = control.reader.read().await?;
    if frame.kind == Kind::Refused {
        let refused: RefusedFrame = frame.json()?;
        return Err(peer(refused.reason, refused.detail));
    }
    Ok(frame)
}

async fn expect(control: &mut Control, kind: Kind) -> Result<Frame, Failure> {
    let frame = read(control).await?;
    if frame.kind == kind {
        Ok(frame)
    } else {
        Err(us(
            RefusalReason::Handshake,
            format!("{:?} came instead of {kind:?}", frame.kind),
        ))
    }
}

fn proven_name(connection: &Connection) -> Result<String, Failure> {
    tls::peer_identity(connection)
        .ok_or_else(|| us(RefusalReason::Name, "its certificate has no DNS name"))
}

fn exporter(connection: &Connection) -> Result<[u8; EXPORTER_BYTES], Failure> {
    let mut material = [0_u8; EXPORTER_BYTES];
    connection
        .export_keying_material(&mut material, EXPORTER_LABEL, &[])
        .map_err(|_| us(RefusalReason::Handshake, "TLS exports no keying material"))?;
    Ok(material)
}

/// Runs the steps within the deadline; a connection that died of TLS says so.
async fn bounded(
    connection: &Connection,
    steps: impl Future<Output = Result<Outcome, Failure>>,
) -> Result<Outcome, Failure> {
    let limit: Duration = HANDSHAKE_TIMEOUT;
    let result = match timeout(limit, steps).await {
        Ok(result) => result,
        Err(_) => Err(Failure::Lost(format!(
            "no complete handshake within {limit:?}"
        ))),
    };
    let result = match result {
        // The client of TLS 1.3 learns only here that the server did not accept its certificate.
        Err(Failure::Lost(text)) => Err(match connection.close_reason().map(|e| classify(&e)) {
            Some(Failure::Lost(_)) | None => Failure::Lost(text),
            Some(refused) => refused,
        }),
        other => other,
    };
    if result.is_err() {
        connection.close(CloseCode::Refused.wire(), b"");
    }
    result
}
