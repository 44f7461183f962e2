//! What a client's operations mean: one connection's protocol state.
//!
//! Owns the CONNECT handshake, the sid table and the texts of refusals (nats-surface §1). Runs inside a
//! burst: synchronous, no socket in sight. Must never wait.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use parking_lot::RwLockReadGuard;
use tokio::sync::watch;
use unibus_proto::decoder::{ClientOp, PubOp};
use unibus_proto::encoder;
use unibus_proto::handshake::{ConnectOptions, ServerInfo};
use unibus_proto::permissions::Permissions;
use unibus_proto::subject;
use unibus_proto::sublist::Walk;

use crate::fanout::{Fanout, Message, Reach};
use crate::outbound::Outbound;
use crate::ports::{AuthRequest, Grant, Origin};
use crate::service::ServiceTable;
use crate::shared::Shared;
use crate::stats::count;
use crate::subscription::{SidTable, Subscription};
use crate::table::Table;

/// Replies that clients may not ask for, and subjects they may not publish to (nats-surface §1.9).
const RESERVED_REPLIES: [&[u8]; 3] = [b"_R_.", b"$JS.ACK.", b"_GR_."];
const RESERVED_SUBJECTS: [&[u8]; 3] = [b"$GNR.", b"_GR_.", b"$NRG."];

/// Why a burst ends the connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Violation {
    /// After this `-ERR` text.
    Text(&'static str),
    /// Without a text.
    Silent,
}

#[derive(Debug)]
pub(crate) struct Session {
    shared: Arc<Shared>,
    pub(crate) outbound: Arc<Outbound>,
    pub(crate) fanout: Fanout,
    pub(crate) subscriptions: SidTable,
    peer: SocketAddr,
    tls: bool,
    nonce: Option<Box<str>>,
    flags: Flags,
    permissions: Option<Arc<Permissions>>,
    origin: Origin,
    /// A grant that the connection has not begun to follow yet.
    pub(crate) new_grant: Option<watch::Receiver<Grant>>,
    pub(crate) pings_out: u32,
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
}

/// The table's read lock over a run of publishes; let go for each change of the table.
pub(crate) struct Burst<'a> {
    table: Option<RwLockReadGuard<'a, Table>>,
    services: arc_swap::Guard<Arc<ServiceTable>>,
}

impl Session {
    pub(crate) fn new(
        shared: Arc<Shared>,
        outbound: Arc<Outbound>,
        peer: SocketAddr,
        nonce: Option<Box<str>>,
    ) -> Self {
        let origin = Origin { connection: outbound.id, ..Origin::default() };
        let tls = shared.options.tls.is_some();
        let flags = Flags {
            admitted: false,
            verbose: true,
            pedantic: true,
            echo: true,
            headers: false,
            no_responders: false,
            info_owed: false,
        };
        Self {
            shared,
            outbound,
            fanout: Fanout::new(),
            subscriptions: SidTable::new(),
            peer,
            tls,
            nonce,
            flags,
            permissions: None,
            origin,
            new_grant: None,
            pings_out: 0,
        }
    }

    pub(crate) const fn is_admitted(&self) -> bool {
        self.flags.admitted
    }

    /// INFO for this connection.
    pub(crate) fn info(&self) -> ServerInfo {
        ServerInfo {
            client_id: self.outbound.id,
            client_ip: Some(self.peer.ip().to_string()),
            nonce: self.nonce.as_deref().map(str::to_owned),
            ..ServerInfo::clone(&self.shared.info.load())
        }
    }

    pub(crate) fn handle(
        &mut self,
        op: ClientOp<'_>,
        burst: &mut Burst<'_>,
        shared: &'_ Shared,
    ) -> Result<(), Violation>
    where
    {
        let _ = shared;
        if !self.flags.admitted && !matches!(op, ClientOp::Connect(_)) {
            self.admit_unasked()?;
        }
        match op {
            ClientOp::Pub(message) => return Err(Violation::Silent).or_else(|_: Violation| {
                self.publish(&message, burst)
            }),
            ClientOp::Connect(json) => return self.connect(json, burst),
            ClientOp::Ping => self.ping(),
            ClientOp::Pong => self.pings_out = 0,
            ClientOp::Sub { subject, queue, sid } => self.subscribe(subject, queue, sid, burst),
            ClientOp::Unsub { sid, max } => self.unsubscribe(sid, max, burst),
            ClientOp::Info | ClientOp::Ok => {}
            ClientOp::Err(_) => return Err(Violation::Silent),
        }
        Ok(())
    }
}
