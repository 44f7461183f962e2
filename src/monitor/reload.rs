//! A reload of the configuration that was asked for over `$SYS`: the question on its way to whoever runs
//! the node and knows its configuration, and the answer on its way back.

use std::sync::mpsc as answers;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};

/// Questions that wait; a further one is refused.
const WAITING_MAX: usize = 4;
/// Longest wait for the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Somebody wants the configuration to be read again.
#[derive(Debug)]
pub struct ReloadRequest(answers::SyncSender<Result<(), String>>);

/// Where whoever runs the node hears of it.
#[derive(Debug)]
pub struct ReloadRequests(Mutex<mpsc::Receiver<ReloadRequest>>);

/// Where it is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Reloader(mpsc::Sender<ReloadRequest>);

/// Both ends.
pub(crate) fn channel() -> (Reloader, ReloadRequests) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    (Reloader(sender), ReloadRequests(Mutex::new(receiver)))
}

impl ReloadRequest {
    /// Says what came of it: nothing, or words about what is wrong.
    pub fn answer(self, outcome: Result<(), String>) {
        // Whoever asked may have given up.
        let _told = self.0.try_send(outcome);
    }
}

impl ReloadRequests {
    /// The next one; waits for ever where nobody can ask any more.
    pub async fn next(&self) -> ReloadRequest {
        let next = self.0.lock().await.recv().await;
        match next {
            Some(request) => request,
            None => std::future::pending().await,
        }
    }
}

impl Reloader {
    /// Asks and waits: for a blocking thread.
    ///
    /// # Errors
    /// Words about why the configuration in force is still the one before.
    pub(crate) fn ask(&self) -> Result<(), String> {
        let (sender, receiver) = answers::sync_channel(1);
        self.0.try_send(ReloadRequest(sender)).map_err(|_| {
            "too many reloads are asked for at once, or the server stops".to_owned()
        })?;
        receiver.recv_timeout(PATIENCE).map_err(|_| {
            "the server did not answer in time: it is leaving or stopping".to_owned()
        })?
    }
}
