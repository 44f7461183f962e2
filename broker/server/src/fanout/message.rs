//! What is delivered, and to whom it may go.

use crate::ports::Origin;

/// What the reply subjects of consumers' deliveries begin with; no client may publish with such a one.
const DELIVERY_REPLY: &[u8] = b"$JS.ACK.";

/// A message on its way out.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) subject: &'a [u8],
    pub(crate) shown: Option<&'a [u8]>,
    pub(crate) reply: Option<&'a [u8]>,
    pub(crate) header_len: usize,
    pub(crate) data: &'a [u8],
}

impl<'a> Message<'a> {
    /// Of a consumer's delivery: whose it is (`<stream>.<consumer>`), and the subject it was stored under.
    pub(super) fn delivered(&self) -> Option<(&'a [u8], &'a [u8])> {
        let place = self.reply?.strip_prefix(DELIVERY_REPLY)?;
        let names = memchr::memchr_iter(b'.', place)
            .nth(1)
            .unwrap_or(place.len());
        Some((&place[..names], self.shown?))
    }
}

/// Whom a message may reach besides this node's subscribers.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Reach<'a> {
    /// Peers too, and queue groups are served from anywhere. False for messages from a route.
    pub(crate) peers: bool,
    /// The account, for peers; `None` = `$G`.
    pub(crate) account: Option<&'a str>,
    /// Services too, which see this origin.
    pub(crate) services: Option<&'a Origin>,
    /// The outbound that must not get it (a publisher without echo).
    pub(crate) except: Option<u64>,
}
