//! What the command line accepts: the flags that scripts rely on, and where arguments may stand.

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use unibus_proto::nkey::UserSeed;

use super::users::{AddArgs, UserCommand};
use super::{Cli, Command, pki};
use crate::access::Role;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("unibus-node").chain(line.split_whitespace()))
}

fn added(line: &str) -> AddArgs {
    match parse(line).unwrap().command {
        Some(Command::User(UserCommand::Add(args))) => args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_command_tree_is_sound_and_every_flag_has_help() {
    Cli::command().debug_assert();
    fn walk(command: &clap::Command) {
        for arg in command.get_arguments() {
            assert!(
                arg.get_help().is_some(),
                "{} {}",
                command.get_name(),
                arg.get_id()
            );
        }
        command.get_subcommands().for_each(walk);
    }
    walk(&Cli::command());
}

#[test]
fn the_flags_of_the_benchmark_are_understood() {
    let single = "--bind 127.0.0.1 --port 1 --http-port 2 --monitor-port 0 --data-dir d0";
    assert!(parse(single).unwrap().command.is_none());
    let cluster = "--server-name n0 --cluster-name versus --bus-auth enforce \
        --internal-id-file d0/internal.json --cluster-port 3 --routes n0=127.0.0.1:3,n1=127.0.0.1:4 \
        --route-tls-cert n0.crt --route-tls-key n0.key --route-tls-ca ca.crt \
        --cluster-user route --cluster-pass versus";
    let cli = parse(&format!("{single} {cluster}")).unwrap();
    assert_eq!(cli.run.cluster.routes.len(), 2);
    assert!(!format!("{cli:?}").contains("cluster_pass: Some"));
    let issue = parse("pki issue --dir pki --name n0 --host 127.0.0.1").unwrap();
    assert!(matches!(
        issue.command,
        Some(Command::Pki(pki::PkiCommand::Issue(_)))
    ));
    assert!(parse("pki init --dir pki").is_ok());
}

#[test]
fn the_key_may_stand_before_or_after_the_flags() {
    let key = UserSeed::from_bytes([7; 32]).public();
    let flags =
        "--role service --pub > --pub a.> --sub > --internal-id-file i --nats-url nats://h:1";
    for text in [key.to_nkey(), key.to_hex(), key.to_hex().to_uppercase()] {
        for line in [
            format!("user add {text} {flags}"),
            format!("user add {flags} {text}"),
        ] {
            let args = added(&line);
            assert_eq!((args.key, args.role), (key, Role::Service));
            assert_eq!(args.grants.publish, [">", "a.>"]);
        }
    }
    assert_eq!(
        added(&format!("user add {} --store kv", key.to_hex())).role,
        Role::Member
    );
}

#[test]
fn what_is_no_key_is_refused_with_status_2() {
    let seed = UserSeed::from_bytes([7; 32]);
    let hex = seed.public().to_hex();
    for bad in [
        "abc",
        &hex[2..],
        &format!("{hex}00"),
        "UAAAA",
        &seed.to_nkey(),
        &"g".repeat(64),
    ] {
        let error = parse(&format!("user add {bad}")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ValueValidation, "{bad}");
        assert_eq!(error.exit_code(), 2);
    }
    assert_eq!(parse("user add").unwrap_err().exit_code(), 2);
}

#[test]
fn commands_do_not_take_a_nodes_flags() {
    assert!(parse("--port 1 quickstart").is_err());
    assert!(parse("quickstart --once").is_ok());
    assert!(parse("nonsense").is_err());
}
