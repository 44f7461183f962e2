//! The leader's clock: proposes a `Tick` when something in the state is due. It never expires
//! anything itself; that happens in apply, by the stamp of the entry.

use std::sync::Arc;
use std::time::Duration;

use unibus_state::Command;

use super::core::Core;

/// Between two looks at the state, so that a busy node does not look after every entry.
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Longest sleep; an upper bound for clocks that were set back.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// Runs until the task is aborted.
pub(super) async fn run(core: Arc<Core>) {
    let mut leadership = core.replica.leadership();
    loop {
        if leadership.wait_for(|known| known.is_leader).await.is_err() {
            return;
        }
        let deadline = core.replica.with_state(|state| state.next_deadline_ns());
        let sleep = match deadline.map(|due| due.saturating_sub(Core::now().0)) {
            Some(0) => {
                tick(&core).await;
                LOOK_INTERVAL_MIN
            }
            Some(wait_ns) => Duration::from_nanos(wait_ns).clamp(LOOK_INTERVAL_MIN, SLEEP_MAX),
            None => SLEEP_MAX,
        };
        let early = async {
            core.hooks.wake_clock.notified().await;
            tokio::time::sleep(LOOK_INTERVAL_MIN).await;
        };
        tokio::select! {
            () = tokio::time::sleep(sleep) => {}
            () = early => {}
        }
    }
}

async fn tick(core: &Core) {
    let call = core.ingest.call(&Command::Tick);
    if let Ok(Err(error)) = call.await {
        tracing::debug!(%error, "a tick was not applied");
    }
}
