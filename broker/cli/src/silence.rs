//! How long a command that listens waits for the next thing to come.

use std::time::Duration;

/// Resolves when `wait` is over; never without one.
pub(crate) async fn silence(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
