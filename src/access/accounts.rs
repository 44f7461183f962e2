//! A configuration's accounts in the broker's words.
//!
//! Owns the translation and what the system account exports without being asked. Decides nothing: the
//! broker checks the whole set.

use unibus_broker::{AccountOptions, Export, Import, ResponseType, ShareKind, UserLimits};

use crate::config::auth::{AccountConfig, AccountLimits, ExportConfig, ImportConfig, StaticAuth};

/// What other accounts may import of the system account, each with the token that has to be the
/// importing account's name (as in nats-server).
const SYSTEM_EXPORTS: [(ShareKind, &str, Option<u32>); 3] = [
    (ShareKind::Stream, "$SYS.ACCOUNT.*.>", Some(3)),
    (ShareKind::Service, "$SYS.REQ.ACCOUNT.PING.*", None),
    (ShareKind::Service, "$SYS.REQ.ACCOUNT.*.*", Some(4)),
];

/// All accounts of a configuration, the system's included.
#[must_use]
pub fn options_of(auth: &StaticAuth) -> Vec<AccountOptions> {
    let mut all: Vec<AccountOptions> = auth.accounts.iter().map(account).collect();
    let system = auth.system_account();
    if !all.iter().any(|account| account.name == system) {
        all.push(AccountOptions {
            name: system.to_owned(),
            ..AccountOptions::default()
        });
    }
    for account in all.iter_mut().filter(|account| account.name == system) {
        let own = SYSTEM_EXPORTS.iter().map(system_export);
        account.exports.extend(own);
    }
    all
}

fn account(config: &AccountConfig) -> AccountOptions {
    AccountOptions {
        name: config.name.clone(),
        exports: config.exports.iter().map(export).collect(),
        imports: config.imports.iter().map(import).collect(),
        limits: limits(&config.limits),
    }
}

fn export(config: &ExportConfig) -> Export {
    Export {
        kind: config.kind,
        subject: config.subject.clone(),
        accounts: config.accounts.clone(),
        response: config.response_type,
        response_threshold: config.response_threshold,
        account_token_position: config.account_token_position,
    }
}

fn system_export((kind, subject, position): &(ShareKind, &str, Option<u32>)) -> Export {
    Export {
        kind: *kind,
        subject: (*subject).to_owned(),
        accounts: None,
        response: ResponseType::Singleton,
        response_threshold: None,
        account_token_position: *position,
    }
}

fn import(config: &ImportConfig) -> Import {
    Import {
        kind: config.kind,
        account: config.account.clone(),
        subject: config.subject.clone(),
        to: config.to.clone(),
        prefix: config.prefix.clone(),
    }
}

fn limits(config: &AccountLimits) -> UserLimits {
    let size = |limit: Option<u64>| limit.map(|most| usize::try_from(most).unwrap_or(usize::MAX));
    UserLimits {
        subscriptions_max: size(config.max_subscriptions),
        payload_bytes_max: size(config.max_payload),
        connections_max: size(config.max_connections),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_account_is_there_and_exports_each_account_its_own() {
        let auth = StaticAuth {
            accounts: vec![AccountConfig {
                name: "A".to_owned(),
                imports: vec![ImportConfig {
                    kind: ShareKind::Stream,
                    account: "$SYS".to_owned(),
                    subject: "$SYS.ACCOUNT.A.>".to_owned(),
                    to: None,
                    prefix: None,
                    share: false,
                }],
                limits: AccountLimits {
                    max_connections: Some(7),
                    ..AccountLimits::default()
                },
                ..AccountConfig::default()
            }],
            ..StaticAuth::default()
        };
        let all = options_of(&auth);
        let names: Vec<&str> = all.iter().map(|account| account.name.as_str()).collect();
        assert_eq!(names, ["A", "$SYS"]);
        assert_eq!(all[0].limits.connections_max, Some(7));
        assert_eq!(all[0].imports[0].subject, "$SYS.ACCOUNT.A.>");
        assert_eq!(all[1].exports[0].account_token_position, Some(3));
    }
}
