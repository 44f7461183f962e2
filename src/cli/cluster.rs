//! `cluster status`, `add`, `remove`, `replace`: the members of the running cluster.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::asker::{AskError, Asker};
use super::link::Target;
use super::out::{say, tell};
use super::users::TargetArgs;
use super::{FAILED, WRONG, quiet_logging};
use crate::operate::{Answer, ClusterStatus, Request};

/// The members' commands.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Print the members, who leads, and which connected nodes are no members
    Status(StatusArgs),
    /// Wait until a connected node votes (a new node joins by itself; this says when, or what is missing)
    Add(OneNodeArgs),
    /// Remove a member, dead or alive; refused where the others could write nothing any more
    Remove(OneNodeArgs),
    /// Put a connected node in the place of a dead member, in one step
    Replace(ReplaceArgs),
}

/// `cluster status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The cluster.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// A command about one node.
#[derive(Args, Debug)]
pub struct OneNodeArgs {
    /// The node's name, or its id where a name is not enough
    #[arg(value_name = "NODE")]
    pub node: String,
    /// How it is done.
    #[command(flatten)]
    pub how: HowArgs,
}

/// `cluster replace`.
#[derive(Args, Debug)]
pub struct ReplaceArgs {
    /// The dead member: its name, or its id
    #[arg(value_name = "OLD")]
    pub node: String,
    /// The node that takes its place [default: the connected node of the same name]
    #[arg(
        long,
        value_name = "NEW",
        default_value = "",
        hide_default_value = true
    )]
    pub with: String,
    /// How it is done.
    #[command(flatten)]
    pub how: HowArgs,
}

/// How a change is made.
#[derive(Args, Debug)]
pub struct HowArgs {
    /// Do it even if nothing can be written afterwards because too few of the voters that stay are
    /// connected
    #[arg(long)]
    pub accept_quorum_loss: bool,
    /// Longest wait until it is done, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub wait: u64,
    /// The cluster.
    #[command(flatten)]
    pub target: TargetArgs,
}

pub(super) async fn cluster(command: &ClusterCommand) -> ExitCode {
    let done = match command {
        ClusterCommand::Status(args) => status(args).await,
        ClusterCommand::Add(args) => {
            change("ADD", request(&args.node, "", &args.how), &args.how).await
        }
        ClusterCommand::Remove(args) => {
            change("REMOVE", request(&args.node, "", &args.how), &args.how).await
        }
        ClusterCommand::Replace(args) => {
            let asked = request(&args.node, &args.with, &args.how);
            change("REPLACE", asked, &args.how).await
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("unibus-node: {error}"));
            ExitCode::from(if error.is_usage() { WRONG } else { FAILED })
        }
    }
}

fn request(node: &str, with: &str, how: &HowArgs) -> Request {
    Request {
        node: node.to_owned(),
        with: with.to_owned(),
        accept_quorum_loss: how.accept_quorum_loss,
        ..Request::default()
    }
}

async fn change(verb: &str, request: Request, how: &HowArgs) -> Result<(), AskError> {
    quiet_logging(how.target.debug);
    let asker = Asker::open(&Target::from(&how.target), Duration::from_secs(how.wait)).await?;
    let mut told = String::new();
    loop {
        match asker.ask(&format!("CLUSTER.{verb}"), &request).await? {
            Answer::Done(words) => {
                say(&words);
                return Ok(());
            }
            Answer::Refused(words) => return Err(AskError::Refused(words)),
            Answer::Working(words) => {
                if words != told {
                    tell(&format!("unibus-node: {words}"));
                    told.clone_from(&words);
                }
                asker.pause(words).await?;
            }
            Answer::Cluster(_) | Answer::Backup(_) => {
                return Err(AskError::Strange);
            }
        }
    }
}

async fn status(args: &StatusArgs) -> Result<(), AskError> {
    quiet_logging(args.target.debug);
    let asker = Asker::open(&Target::from(&args.target), super::link::PATIENCE).await?;
    match asker.ask("CLUSTER.STATUS", &Request::default()).await? {
        Answer::Cluster(status) if args.json => {
            say(&serde_json::to_string_pretty(&*status).unwrap_or_default());
        }
        Answer::Cluster(status) => lines(&status).iter().for_each(|line| say(line)),
        Answer::Refused(words) | Answer::Working(words) | Answer::Done(words) => {
            return Err(AskError::Refused(words));
        }
        Answer::Backup(_) => return Err(AskError::Strange),
    }
    Ok(())
}

fn lines(status: &ClusterStatus) -> Vec<String> {
    let cluster = status.cluster.as_deref().unwrap_or("(none)");
    let leader = status.leader.as_deref().unwrap_or("none");
    let quorum = if status.quorum { "yes" } else { "NO" };
    let mut lines = vec![format!(
        "cluster {cluster}: leader {leader}, term {}, quorum {quorum}; asked {} (applied {})",
        status.term, status.asked, status.applied_index
    )];
    for member in &status.members {
        let reach = if member.connected {
            "connected"
        } else {
            "NOT CONNECTED"
        };
        lines.push(format!(
            "  {:<20} {}  {:<8} {reach}",
            member.name, member.id, member.role
        ));
    }
    for other in &status.others {
        lines.push(format!(
            "  {:<20} {}  {:<8} {}",
            other.name, other.id, "-", other.state
        ));
    }
    if status.damaged_blocks > 0 {
        lines.push(format!(
            "  {} has {} damaged block files, being fetched from the others",
            status.asked, status.damaged_blocks
        ));
    }
    lines
}
