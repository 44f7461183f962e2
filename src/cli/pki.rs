//! `pki init` and `pki issue`: the command line over [`crate::pki`].

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::FAILED;
use super::out::{say, tell};
use crate::pki::{self as authority, PkiError};

/// The CA's commands.
#[derive(Debug, Subcommand)]
pub enum PkiCommand {
    /// Make the bus CA (ca.crt, ca.key) and the secret that all nodes share (route.secret)
    Init(InitArgs),
    /// Make a node's certificate and key, signed by the CA
    Issue(IssueArgs),
}

/// Flags of `pki init`.
#[derive(Args, Debug)]
pub struct InitArgs {
    /// Folder to write to; made where it is missing, and nothing in it is ever overwritten
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Name of the cluster, shown in the CA's certificate
    #[arg(long, value_name = "NAME", default_value = "unibus")]
    pub cluster_name: String,
}

/// Flags of `pki issue`.
#[derive(Args, Debug)]
pub struct IssueArgs {
    /// Folder of the CA
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Name of the node: its peers know it by this name, and it is its server name
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// Where the node can be reached: a host name or IP address; may be given more than once, or
    /// several separated by commas
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    pub host: Vec<String>,
    /// Write a folder DIR/NAME with everything the node needs, ready to be copied to it as
    /// ./unibus-config, instead of DIR/NAME.crt and DIR/NAME.key
    #[arg(long)]
    pub folder: bool,
}

pub(super) fn pki(command: &PkiCommand) -> ExitCode {
    let done = match command {
        PkiCommand::Init(args) => init(args),
        PkiCommand::Issue(args) => issue(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("unibus-node: {error}"));
            ExitCode::from(FAILED)
        }
    }
}

fn init(args: &InitArgs) -> Result<(), PkiError> {
    let files = authority::init(&args.dir, &args.cluster_name)?;
    say(&format!("wrote {}", files.ca_cert.display()));
    say(&format!(
        "wrote {} (keep it off the nodes)",
        files.ca_key.display()
    ));
    say(&format!("wrote {}", files.route_secret.display()));
    tell(&format!(
        "next: unibus-node pki issue --dir {} --name NAME --host HOST, once for each node",
        args.dir.display()
    ));
    Ok(())
}

fn issue(args: &IssueArgs) -> Result<(), PkiError> {
    if args.folder {
        let node = authority::issue_folder(&args.dir, &args.name, &args.host)?;
        say(&format!("wrote {}", node.dir.display()));
        tell(&format!(
            "next: copy {} to {} as ./unibus-config or /etc/unibus",
            node.dir.display(),
            args.name
        ));
        return Ok(());
    }
    let files = authority::issue(&args.dir, &args.name, &args.host)?;
    say(&format!("wrote {}", files.cert.display()));
    say(&format!("wrote {}", files.key.display()));
    tell(&format!(
        "next: copy {} as node.crt, {} as node.key, ca.crt and route.secret into ./unibus-config on {}",
        files.cert.display(),
        files.key.display(),
        args.name
    ));
    Ok(())
}
