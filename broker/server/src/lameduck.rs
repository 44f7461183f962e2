//! Leaving without breaking anybody: lame duck mode (nats-surface §1.15).
//!
//! Owns the pace at which a node that is about to stop closes its clients, so that they don't all arrive
//! at the others at once. Must never close a route.

use std::time::Duration;

use crate::options::ConnectUrls;
use crate::outbound::Close;
use crate::rng::Rng;
use crate::shared::Shared;

/// Longest pause between two clients: few clients don't wait for the whole duration.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Shortest pause: with more clients than fit, several are closed at once.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// How a node leaves.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LameDuck {
    /// Where the other nodes are reached, told to the clients.
    pub other_urls: ConnectUrls,
    /// From the announcement to the first close: time to find another node.
    pub grace: Duration,
    /// From the first close to the last.
    pub duration: Duration,
}

impl Default for LameDuck {
    /// As nats-server: two minutes, of which ten seconds are grace.
    fn default() -> Self {
        Self {
            other_urls: ConnectUrls::default(),
            grace: Duration::from_secs(10),
            duration: Duration::from_secs(110),
        }
    }
}

/// Announces, waits, closes one client after the other. Ends early when nobody is left.
pub(crate) async fn leave(shared: &Shared, plan: LameDuck) {
    shared.closing.send_replace(true);
    let LameDuck {
        other_urls,
        grace,
        duration,
    } = plan;
    shared.announce(|info| {
        info.ldm = true;
        other_urls.tell(info);
    });
    let _ = tokio::time::timeout(grace, shared.nobody()).await;
    let mut left = shared.registry.records();
    let (pause, at_once) = pace(left.len(), duration);
    let mut rng = Rng::new();
    while !left.is_empty() {
        for _ in 0..at_once {
            if left.is_empty() {
                break;
            }
            let next = rng.below(left.len());
            left.swap_remove(next).outbound.close(Close::Shutdown);
        }
        if !left.is_empty() {
            // Nodes that leave together don't close in step.
            let jitter = pause.mul_f64(0.5 + rng.below(1000) as f64 / 1000.0);
            let _ = tokio::time::timeout(jitter, shared.nobody()).await;
        }
    }
    // Who connected before the listener stopped, and who takes long to be told.
    shared.close_all();
}

/// The pause between two closings, and how many clients each one closes.
fn pace(clients: usize, duration: Duration) -> (Duration, usize) {
    let Ok(count) = u32::try_from(clients.max(1)) else {
        return (Duration::ZERO, clients);
    };
    let pause = duration / count;
    if pause >= PAUSE_MIN {
        return (pause.min(PAUSE_MAX), 1);
    }
    let steps = (duration.as_nanos() / PAUSE_MIN.as_nanos()).max(1);
    let at_once = (clients as u128).div_ceil(steps);
    (PAUSE_MIN, usize::try_from(at_once).unwrap_or(clients))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_follows_the_number_of_clients() {
        let two_minutes = Duration::from_secs(120);
        assert_eq!(pace(10, two_minutes), (PAUSE_MAX, 1));
        assert_eq!(pace(1200, two_minutes), (Duration::from_millis(100), 1));
        assert_eq!(pace(240_000, two_minutes), (PAUSE_MIN, 2));
        assert_eq!(pace(7, Duration::ZERO), (PAUSE_MIN, 7));
        assert_eq!(pace(0, two_minutes), (PAUSE_MAX, 1));
    }
}
