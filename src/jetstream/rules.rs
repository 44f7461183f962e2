//! By which rules the state is changed: the leader raises them once every voter speaks a version that knows
//! them, so that a cluster that is upgraded node by node changes its ways with one entry of the log.

use std::sync::Arc;
use std::time::Duration;

use unibus_state::{Command, Rules, State};

use super::core::Core;

/// Between two looks at who is connected.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Nodes that speak this version of routes know [`Rules::NEWEST`].
const RULES_FROM: u32 = 4;

/// Runs until the newest rules hold, which they do for ever then, or the task is aborted.
pub(super) async fn run(core: Arc<Core>) {
    let mut leadership = core.replica.leadership();
    while core.replica.with_state(State::rules) < Rules::NEWEST {
        if leadership.wait_for(|known| known.is_leader).await.is_err() {
            return;
        }
        if core.all_speak(RULES_FROM) && raise(&core).await {
            return;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Whether the newest rules hold from now on.
async fn raise(core: &Core) -> bool {
    let call = core.ingest.call(&Command::Rules(Rules::NEWEST));
    match call.await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => {
            tracing::debug!(%error, "the rules were not raised");
            false
        }
        Err(_) => false,
    }
}
