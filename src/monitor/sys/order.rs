//! What the system account may tell a server to do: throw one client out, ask it to leave, read the
//! configuration again (nats-surface §4.2). May wait for the latter: for a blocking thread.

use serde::Deserialize;

use crate::monitor::source::Monitor;

/// An order, as the last token of a subject.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Order {
    /// `KICK`: closes a client.
    Kick,
    /// `LDM`: tells a client that the server is about to stop.
    LameDuck,
    /// `RELOAD`: reads the configuration again.
    Reload,
}

/// Which client is meant.
#[derive(Deserialize)]
struct OfClient {
    cid: u64,
}

impl Order {
    /// The order that a token stands for.
    pub(super) fn parse(token: &str) -> Option<Self> {
        match token {
            "KICK" => Some(Self::Kick),
            "LDM" => Some(Self::LameDuck),
            "RELOAD" => Some(Self::Reload),
            _ => None,
        }
    }

    /// Carries it out.
    ///
    /// # Errors
    /// Words about why nothing was done.
    pub(super) fn carry_out(self, body: &str, monitor: &Monitor) -> Result<(), String> {
        match self {
            Self::Kick => about(body, |cid| monitor.broker().kick(cid)),
            Self::LameDuck => about(body, |cid| monitor.broker().announce_lame_duck_to(cid)),
            Self::Reload => monitor.reloader().ask(),
        }
    }
}

fn about(body: &str, act: impl FnOnce(u64) -> bool) -> Result<(), String> {
    let OfClient { cid } = serde_json::from_str(body).map_err(|error| {
        format!("wanted {{\"cid\": NUMBER}}, the client's id in connz: {error}")
    })?;
    if act(cid) {
        Ok(())
    } else {
        Err(format!("no such client id: {cid}"))
    }
}
