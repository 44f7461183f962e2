//! `user add`, `list`, `revoke`, `grant`, `ungrant`: who may use the bus, on the running cluster
//! (control-plane.md, command line).

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use unibus_proto::nkey::NkeyPublic;

use super::admin::{AdminError, Registry};
use super::link::Target;
use super::out::{say, tell};
use super::{FAILED, WRONG, quiet_logging};
use crate::access::first_users::FirstUsers;
use crate::access::{Grants, Role, UserRecord};

/// The users' commands.
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Let somebody in; an error if the key has a record already. On a node that has never started,
    /// the first admin
    Add(AddArgs),
    /// Print every user
    List(ListArgs),
    /// Shut somebody out for good; open connections are closed on every node
    Revoke(OneArgs),
    /// Add to what a service user may do, on the connections it has
    Grant(GrantArgs),
    /// Take from what a service user may do
    Ungrant(GrantArgs),
}

/// How to reach the cluster, and as whom.
#[derive(Args, Debug)]
pub struct TargetArgs {
    /// The node's own service identity: the file it was started with
    #[arg(
        long,
        value_name = "FILE",
        default_value_os_t = super::admin::default_identity().to_owned(),
        env = "UNIBUS_INTERNAL_ID_FILE"
    )]
    pub internal_id_file: PathBuf,
    /// The node to ask
    #[arg(
        long,
        value_name = "URL",
        default_value = "nats://127.0.0.1:4222",
        env = "UNIBUS_NATS_URL"
    )]
    pub nats_url: String,
    /// The CA of the node's TLS certificate (PEM); wanted for any node but this host's
    #[arg(long, value_name = "FILE", env = "UNIBUS_CA")]
    pub ca: Option<PathBuf>,
    /// The node begins with the TLS handshake (its --tls-first)
    #[arg(long)]
    pub tls_first: bool,
    /// Where the records are
    #[arg(long, value_name = "STORE", default_value = "kv")]
    pub store: StoreKind,
    /// Say more on stderr
    #[arg(long, short = 'D')]
    pub debug: bool,
}

/// Where the records are; one place so far.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum StoreKind {
    /// The replicated buckets.
    Kv,
}

/// What a service user may do.
#[derive(Args, Clone, Debug, Default)]
pub struct GrantFlags {
    /// A pattern to publish to, e.g. 'orders.>'; may be given more than once
    #[arg(long = "pub", value_name = "PATTERN")]
    pub publish: Vec<String>,
    /// A pattern to subscribe to; may be given more than once
    #[arg(long = "sub", value_name = "PATTERN")]
    pub subscribe: Vec<String>,
    /// A stream to read and consume; may be given more than once
    #[arg(long = "stream", value_name = "NAME")]
    pub streams: Vec<String>,
    /// A key-value bucket to read and write; may be given more than once
    #[arg(long = "bucket", value_name = "NAME")]
    pub buckets: Vec<String>,
}

/// Flags of `user add`.
#[derive(Args, Debug)]
pub struct AddArgs {
    /// The user's public key: an nkey (U…) or 64 hex digits
    #[arg(value_name = "KEY", value_parser = parse_key)]
    pub key: NkeyPublic,
    /// A name for people
    #[arg(long, value_name = "NAME", default_value = "")]
    pub name: String,
    /// What kind of user this is
    #[arg(long, value_name = "ROLE", default_value = "member")]
    pub role: Role,
    /// What a service user may do.
    #[command(flatten)]
    pub grants: GrantFlags,
    /// How to reach the cluster.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// Flags of `user list`.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// One JSON record a line, as stored
    #[arg(long)]
    pub json: bool,
    /// How to reach the cluster.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// Flags of `user revoke`.
#[derive(Args, Debug)]
pub struct OneArgs {
    /// The user's public key: an nkey (U…) or 64 hex digits
    #[arg(value_name = "KEY", value_parser = parse_key)]
    pub key: NkeyPublic,
    /// How to reach the cluster.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// Flags of `user grant` and `user ungrant`.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args(["publish", "subscribe", "streams", "buckets"]))]
pub struct GrantArgs {
    /// The user's public key: an nkey (U…) or 64 hex digits
    #[arg(value_name = "KEY", value_parser = parse_key)]
    pub key: NkeyPublic,
    /// What is granted or taken.
    #[command(flatten)]
    pub grants: GrantFlags,
    /// How to reach the cluster.
    #[command(flatten)]
    pub target: TargetArgs,
}

fn parse_key(text: &str) -> Result<NkeyPublic, String> {
    NkeyPublic::parse(text)
        .map_err(|error| format!("{error}; wanted an nkey (U…) or 32 bytes in hex"))
}

impl From<&GrantFlags> for Grants {
    fn from(flags: &GrantFlags) -> Self {
        Self {
            publish: flags.publish.clone(),
            subscribe: flags.subscribe.clone(),
            streams: flags.streams.clone(),
            buckets: flags.buckets.clone(),
        }
    }
}

impl From<&TargetArgs> for Target {
    fn from(args: &TargetArgs) -> Self {
        Self {
            url: args.nats_url.clone(),
            ca: args.ca.clone(),
            tls_first: args.tls_first,
            identity: args.internal_id_file.clone(),
        }
    }
}

pub(super) async fn user(command: &UserCommand) -> ExitCode {
    let done = match command {
        UserCommand::Add(args) => add(args).await,
        UserCommand::List(args) => list(args).await,
        UserCommand::Revoke(args) => revoke(args).await,
        UserCommand::Grant(args) => regrant(args, granted).await,
        UserCommand::Ungrant(args) => regrant(args, ungranted).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("unibus-node: {error}"));
            ExitCode::from(if error.is_usage() { WRONG } else { FAILED })
        }
    }
}

async fn add(args: &AddArgs) -> Result<(), AdminError> {
    quiet_logging(args.target.debug);
    let record = UserRecord::new(&args.key, &args.name, args.role, Grants::from(&args.grants))?;
    let target = Target::from(&args.target);
    if let Some(first) = never_started(&target)?
        && kept_for_its_start(&first, &record, &target)?
    {
        return Ok(());
    }
    let registry = Registry::open(&target).await?;
    registry.add(&record).await?;
    let (have, all) = registry.replicas().await?;
    say(&format!(
        "added {} {}: {have} of {all} replicas have it",
        record.role, args.key
    ));
    Ok(())
}

/// Where a node that has never started keeps its first users; `None` = it has started. A node makes
/// its identity and its store when it first starts.
fn never_started(target: &Target) -> Result<Option<FirstUsers>, AdminError> {
    target.check()?;
    let identity = &target.identity;
    let has_started =
        identity.exists() || identity.with_file_name("store").exists() || target.is_listening();
    let fresh = target.is_here()? && !has_started;
    Ok(fresh.then(|| FirstUsers::beside(identity)))
}

/// Keeps a first user for the node's first start; false where the node started meanwhile and has not
/// taken it: then the node is asked.
fn kept_for_its_start(
    first: &FirstUsers,
    record: &UserRecord,
    target: &Target,
) -> Result<bool, AdminError> {
    first.add(record)?;
    if target.identity.exists() && first.taken().is_ok() {
        return Ok(false);
    }
    say(&format!(
        "this node has never started: {} {} will be one of its first users ({}), unless the cluster \
         that it joins has users already",
        record.role,
        record.sign_pub,
        first.path().display()
    ));
    Ok(true)
}

async fn list(args: &ListArgs) -> Result<(), AdminError> {
    quiet_logging(args.target.debug);
    let registry = Registry::open(&Target::from(&args.target)).await?;
    let (users, damaged) = registry.list().await?;
    for user in &users {
        say(&if args.json {
            String::from_utf8_lossy(&user.encode()).into_owned()
        } else {
            line(user)
        });
    }
    for key in &damaged {
        tell(&format!(
            "unibus-node: the record under {key:?} can't be read; it grants nothing"
        ));
    }
    Ok(())
}

/// One user on one line; what may be absent stands last.
fn line(user: &UserRecord) -> String {
    let nkey = NkeyPublic::parse(&user.sign_pub).map_or_else(|_| "?".into(), |key| key.to_nkey());
    let (role, status) = (user.role.to_string(), user.status.to_string());
    let mut text = format!("{nkey}  {role:8}{status:8}  {}", user.created_at);
    let grants = &user.grants;
    let lists = [
        ("pub", &grants.publish),
        ("sub", &grants.subscribe),
        ("stream", &grants.streams),
        ("bucket", &grants.buckets),
    ];
    for (what, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
        text.push_str(&format!("  {what}={}", list.join(",")));
    }
    if !user.name.is_empty() {
        text.push_str(&format!("  {}", user.name));
    }
    text
}

async fn revoke(args: &OneArgs) -> Result<(), AdminError> {
    quiet_logging(args.target.debug);
    let registry = Registry::open(&Target::from(&args.target)).await?;
    let (before, _) = registry.find(&args.key).await?;
    if before.revoked_at.is_some() {
        say(&format!("{} was revoked before", args.key));
        return Ok(());
    }
    registry.change(&args.key, UserRecord::revoked).await?;
    let (have, all) = registry.replicas().await?;
    say(&format!(
        "revoked {}: {have} of {all} replicas have it",
        args.key
    ));
    Ok(())
}

async fn regrant(args: &GrantArgs, rule: fn(&Grants, &Grants) -> Grants) -> Result<(), AdminError> {
    quiet_logging(args.target.debug);
    let asked = Grants::from(&args.grants);
    let registry = Registry::open(&Target::from(&args.target)).await?;
    if registry.find(&args.key).await?.0.revoked_at.is_some() {
        return Err(AdminError::Revoked(args.key));
    }
    let changed = registry
        .change(&args.key, |user| UserRecord {
            grants: rule(&user.grants, &asked),
            ..user.clone()
        })
        .await?;
    let (have, all) = registry.replicas().await?;
    say(&format!(
        "{}: {have} of {all} replicas have it",
        line(&changed)
    ));
    Ok(())
}

fn granted(held: &Grants, more: &Grants) -> Grants {
    let with = |held: &Vec<String>, more: &Vec<String>| {
        let mut all = held.clone();
        all.extend(more.iter().filter(|entry| !held.contains(entry)).cloned());
        all
    };
    zipped(held, more, with)
}

fn ungranted(held: &Grants, less: &Grants) -> Grants {
    let without = |held: &Vec<String>, less: &Vec<String>| {
        held.iter()
            .filter(|entry| !less.contains(entry))
            .cloned()
            .collect()
    };
    zipped(held, less, without)
}

fn zipped(
    held: &Grants,
    asked: &Grants,
    rule: impl Fn(&Vec<String>, &Vec<String>) -> Vec<String>,
) -> Grants {
    Grants {
        publish: rule(&held.publish, &asked.publish),
        subscribe: rule(&held.subscribe, &asked.subscribe),
        streams: rule(&held.streams, &asked.streams),
        buckets: rule(&held.buckets, &asked.buckets),
    }
}

#[cfg(test)]
mod tests {
    use super::{granted, line, ungranted};
    use crate::access::{Grants, Role, UserRecord};
    use unibus_proto::nkey::UserSeed;

    fn publish(list: &[&str]) -> Grants {
        Grants {
            publish: list.iter().map(|p| (*p).to_owned()).collect(),
            ..Grants::default()
        }
    }

    #[test]
    fn granting_adds_once_and_ungranting_takes_only_what_is_named() {
        let held = publish(&["a", "b"]);
        assert_eq!(
            granted(&held, &publish(&["b", "c"])),
            publish(&["a", "b", "c"])
        );
        assert_eq!(ungranted(&held, &publish(&["b", "c"])), publish(&["a"]));
    }

    #[test]
    fn a_user_fits_on_one_line() {
        let key = UserSeed::from_bytes([7; 32]).public();
        let record = UserRecord::new(&key, "orders app", Role::Service, publish(&[">"])).unwrap();
        let text = line(&record);
        for part in [&key.to_nkey(), "service", "active", "pub=>", "orders app"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains('\n') && !text.contains("sub="));
    }
}
