//! `identity`: one's own keys, and the contact by which others invite their holder.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;
use unibus_client::Identity;

use crate::context::Store;
use crate::error::{Attempt, Result, wrong};
use crate::output;
use crate::settings::Settings;

const EXAMPLES: &str = "\
Examples:
  unibus identity new                      in ~/.config/unibus/identity.json, mode 0600
  unibus identity show                     its public half: an admin lets the nkey in, and a room's
                                           owner invites the contact
  unibus-node user add UABC…               lets its holder in (on a node)
  unibus context save me --server tls://a.example --identity ~/.config/unibus/identity.json --select";

/// The commands about one's keys.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum IdentityCommand {
    /// Make an identity; a file that is there is never overwritten
    New {
        /// The file [default: identity.json beside the contexts]
        file: Option<PathBuf>,
    },
    /// Print the public half of an identity
    Show {
        /// The file [default: --identity, the selected context's, or identity.json beside the contexts]
        file: Option<PathBuf>,
    },
}

/// Runs a command about one's keys.
///
/// # Errors
/// [`crate::error::CliError`].
pub(crate) fn run(command: &IdentityCommand, settings: &Settings, json: bool) -> Result {
    match command {
        IdentityCommand::New { file } => {
            let path = match file {
                Some(file) => file.clone(),
                None => default_file()?,
            };
            let made = Identity::generate().or_failed(|| "no identity".to_owned())?;
            made.create(&path)
                .or_failed(|| "no identity was made".to_owned())?;
            output::tell(&format!("wrote {}; keep it to yourself", path.display()));
            show(&made, json)
        }
        IdentityCommand::Show { file } => {
            let path = match file {
                Some(file) => file.clone(),
                None => file_of(settings)?,
            };
            show(&load(&path)?, json)
        }
    }
}

fn show(identity: &Identity, json: bool) -> Result {
    let (nkey, endpoint, contact) = (identity.nkey(), identity.endpoint(), identity.contact());
    if json {
        let record = json!({"nkey": nkey, "endpoint": endpoint.as_str(), "contact": contact});
        return output::json(&record);
    }
    output::facts(
        &format!("identity {endpoint}"),
        &[("nkey", nkey), ("contact", contact)],
    )?;
    output::tell(
        "an admin lets the nkey in (unibus-node user add); a room's owner invites the contact",
    );
    Ok(())
}

/// Reads an identity.
///
/// # Errors
/// Where the file is none, or others can read it.
pub(crate) fn load(path: &std::path::Path) -> Result<Identity> {
    Identity::load(path).or_wrong(|| "no identity".to_owned())
}

/// The identity's file that the settings name, or the default one.
///
/// # Errors
/// Where there is none.
pub(crate) fn file_of(settings: &Settings) -> Result<PathBuf> {
    if let Some(path) = &settings.login.identity {
        return Ok(path.clone());
    }
    let path = default_file()?;
    if path.exists() {
        return Ok(path);
    }
    wrong("this needs an identity: unibus identity new makes one, --identity names another")
}

fn default_file() -> Result<PathBuf> {
    Ok(Store::open()?.folder().join("identity.json"))
}
