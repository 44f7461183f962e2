//! `recover`: a store out of what is left of one, when no majority can replace it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use unibus_raft::SeedError;
use unibus_raft::recover::{Remains, stores_of};

use super::out::{say, tell};
use super::{FAILED, WRONG};

/// `recover`.
#[derive(Args, Debug)]
pub struct RecoverArgs {
    /// Data folder of the node, which must not run
    #[arg(
        long,
        value_name = "DIR",
        default_value = "./unibus-data",
        env = "UNIBUS_DATA_DIR"
    )]
    pub data_dir: PathBuf,
    /// Name of the node, as it will be started; wanted with --accept-data-loss
    #[arg(long, value_name = "NAME", env = "UNIBUS_SERVER_NAME")]
    pub server_name: Option<String>,
    /// The store to recover from [default: the newest that something can be recovered from; see the list
    /// that is printed without --accept-data-loss]
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// Make a new store of it, for a node that is its cluster's only voter. What can't be read is lost, also
    /// what was acknowledged; what was never acknowledged may come to count
    #[arg(long)]
    pub accept_data_loss: bool,
}

pub(super) fn recover(args: &RecoverArgs) -> ExitCode {
    let stores = match &args.from {
        Some(store) => vec![store.clone()],
        None => stores_of(&args.data_dir),
    };
    if stores.is_empty() {
        let folder = args.data_dir.display();
        tell(&format!(
            "unibus-node: {folder} holds no store, nor one that was set aside"
        ));
        return ExitCode::from(FAILED);
    }
    let mut best: Option<Remains> = None;
    for store in stores {
        match Remains::look(&store) {
            Ok(remains) => {
                lines(&store, &remains).iter().for_each(|line| say(line));
                if best.as_ref().is_none_or(|best| remains.last > best.last) {
                    best = Some(remains);
                }
            }
            Err(error) => say(&format!("{}: {error}", store.display())),
        }
    }
    let Some(best) = best.filter(|best| best.last > 0) else {
        tell(
            "unibus-node: nothing can be recovered here; restore a backup: unibus-node backup restore",
        );
        return ExitCode::from(FAILED);
    };
    if !args.accept_data_loss {
        tell(
            "unibus-node: nothing was changed. If no majority of the cluster is left: stop every node, choose \
             the one with the highest entry, run there\n  unibus-node recover --data-dir DIR --server-name NAME \
             --accept-data-loss\nstart it, and start the others with empty data folders: they join it",
        );
        return ExitCode::from(FAILED);
    }
    let Some(name) = &args.server_name else {
        tell(
            "unibus-node: --accept-data-loss wants --server-name NAME, the name that the node is started with",
        );
        return ExitCode::from(WRONG);
    };
    match best.recover(&args.data_dir, name) {
        Ok((seeded, lost)) => {
            for loss in lost {
                say(&format!("  lost: {loss}"));
            }
            say(&format!(
                "recovered: node {name} ({}) has everything that could be read, up to entry {}; its old store is \
                 in {}",
                seeded.id,
                seeded.index,
                args.data_dir.join("damaged").display()
            ));
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &SeedError) -> ExitCode {
    tell(&format!("unibus-node: {error}"));
    ExitCode::from(FAILED)
}

fn lines(store: &std::path::Path, remains: &Remains) -> Vec<String> {
    let members = match remains.members.as_slice() {
        [] => "unknown members".to_owned(),
        members => format!("members {}", members.join(", ")),
    };
    let mut lines = vec![format!(
        "{}: up to entry {} (checkpoint {}), {members}",
        store.display(),
        remains.last,
        remains.checkpoint
    )];
    lines.extend(
        remains
            .damage
            .iter()
            .map(|damage| format!("  damaged: {damage}")),
    );
    lines
}
