//! `unibus context`: servers and identities under a name.

mod store;

use clap::Subcommand;
use serde_json::json;

use crate::args::Cli;
use crate::error::{CliError, Result, wrong};
use crate::output;
use crate::settings::{ConnectionArgs, Settings};

pub(crate) use store::Store;

const EXAMPLES: &str = "\
Examples:
  unibus context save prod --server nats://a.example,nats://b.example --nkey ~/app.nk --select
  unibus context save lab --server nats://10.0.0.7 --user ann --password secret --tls-ca ca.crt
  unibus context list
  unibus context save team --server tls://a.example,tls://b.example --tls-ca ca.crt \
    --control https://a.example:8470,https://b.example:8470 --identity me.json
  unibus --context lab sub '>'

A context is a file of mode 0600 in $XDG_CONFIG_HOME/unibus/context (~/.config/unibus/context).";

/// The commands about saved contexts.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum ContextCommand {
    /// Save the connection flags under a name; of one that is there, the given ones are changed
    Save {
        /// Letters, digits, '-', '_' and '.'
        name: String,
        /// What it is for
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        /// Use it from now on
        #[arg(long)]
        select: bool,
    },
    /// List the saved contexts; * is the selected one
    #[command(visible_alias = "ls")]
    List,
    /// Use a context where no --context and no --server is given
    Select {
        /// The context
        name: String,
    },
    /// Use none where no --context is given
    Unselect,
    /// Print a context without its secrets
    #[command(visible_alias = "info")]
    Show {
        /// The context [default: the selected one]
        name: Option<String>,
    },
    /// Delete a context
    #[command(visible_alias = "rm")]
    Remove {
        /// The context
        name: String,
        /// Don't ask
        #[arg(long, short)]
        force: bool,
    },
}

/// What a command connects with: flags and environment over the context.
///
/// # Errors
/// [`CliError::Wrong`] where a context is named that is not there or can't be read.
pub(crate) fn settings(args: &ConnectionArgs) -> Result<Settings> {
    let base = match (&args.context, args.server.is_empty()) {
        (Some(name), _) => Store::open()?.load(name)?,
        // The selected context's secrets go to the servers it names and to no other.
        (None, false) => Settings::default(),
        (None, true) => match Store::find() {
            Some(store) => match store.selected()? {
                Some(name) => store.load(&name)?,
                None => Settings::default(),
            },
            None => Settings::default(),
        },
    };
    Ok(base.with(args))
}

/// Runs a command about contexts.
///
/// # Errors
/// [`CliError`].
pub(crate) fn run(command: &ContextCommand, cli: &Cli) -> Result {
    let store = Store::open()?;
    match command {
        ContextCommand::Save {
            name,
            description,
            select,
        } => save(&store, cli, name, description.as_deref(), *select),
        ContextCommand::List => list(&store, cli.json),
        ContextCommand::Select { name } => {
            store.load(name)?;
            store.select(Some(name))?;
            output::say(&format!("selected {name}"))
        }
        ContextCommand::Unselect => {
            store.select(None)?;
            output::say("no context is selected")
        }
        ContextCommand::Show { name } => {
            let name = match name {
                Some(name) => name.clone(),
                None => selected(&store)?,
            };
            show(&name, &store.load(&name)?, cli.json)
        }
        ContextCommand::Remove { name, force } => {
            store.load(name)?;
            output::confirm(&format!("Delete context {name}?"), *force)?;
            store.remove(name)?;
            output::say(&format!("deleted {name}"))
        }
    }
}

fn selected(store: &Store) -> Result<String> {
    store.selected()?.ok_or_else(|| {
        CliError::Wrong("no context is selected; name one, see unibus context list".to_owned())
    })
}

fn save(store: &Store, cli: &Cli, name: &str, description: Option<&str>, select: bool) -> Result {
    if cli.connection.context.is_some() {
        return wrong("context save takes the name as its argument, not with --context");
    }
    let held = match store.exists(name)? {
        true => store.load(name)?,
        false => Settings::default(),
    };
    let mut settings = held.with(&cli.connection);
    if let Some(description) = description {
        description.clone_into(&mut settings.description);
    }
    for server in settings.servers() {
        crate::connect::address(&server)?;
    }
    if !settings.control.is_empty() {
        crate::session::options(&settings)?;
    }
    let path = store.save(name, &settings)?;
    if select {
        store.select(Some(name))?;
    }
    let also = if select { ", selected" } else { "" };
    output::say(&format!("saved {name} in {}{also}", path.display()))
}

fn list(store: &Store, json: bool) -> Result {
    let selected = store.selected()?;
    let mut contexts = Vec::new();
    for name in store.names()? {
        let settings = store.load(&name)?;
        contexts.push((selected.as_deref() == Some(&name), name, settings));
    }
    if json {
        let all: Vec<_> = contexts
            .iter()
            .map(|(selected, name, settings)| {
                json!({"name": name, "selected": selected, "servers": settings.servers(),
                    "control": settings.control, "login": settings.login.words(), "description": settings.description})
            })
            .collect();
        return output::json(&all);
    }
    if contexts.is_empty() {
        output::tell("no context is saved; see unibus context save --help");
        return Ok(());
    }
    output::table(
        &["", "name", "servers", "login", "description"],
        contexts.iter().map(|(selected, name, settings)| {
            vec![
                if *selected { "*" } else { "" }.to_owned(),
                name.clone(),
                settings.servers().join(","),
                settings.login.words(),
                settings.description.clone(),
            ]
        }),
    )
}

fn show(name: &str, settings: &Settings, json: bool) -> Result {
    if json {
        let mut shown = settings.clone();
        let hide = |secret: &mut Option<String>| {
            if let Some(text) = secret {
                *text = "(hidden)".to_owned();
            }
        };
        hide(&mut shown.login.password);
        hide(&mut shown.login.token);
        return output::json(&json!({"name": name, "settings": shown}));
    }
    let path = |path: &Option<std::path::PathBuf>| {
        path.as_ref()
            .map_or_else(String::new, |path| path.display().to_string())
    };
    output::facts(
        name,
        &[
            ("description", settings.description.clone()),
            ("servers", settings.servers().join(",")),
            ("control", settings.control.join(",")),
            ("login", settings.login.words()),
            ("tls ca", path(&settings.tls_ca)),
            ("tls cert", path(&settings.tls_cert)),
            ("tls key", path(&settings.tls_key)),
            ("domain", settings.js_domain.clone().unwrap_or_default()),
            ("inboxes", settings.inbox_prefix.clone().unwrap_or_default()),
            ("timeout", crate::text::duration_shown(settings.timeout())),
        ],
    )
}
