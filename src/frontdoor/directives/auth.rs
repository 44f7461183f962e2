//! `authorization {}` and what users of accounts have in common with it: users and permissions.

use super::field::{Field, Findings, each};
use crate::config::auth::{
    ConnectionType, PermissionRules, ResponseRule, StaticAuth, StaticUser, SubjectRules,
};
use crate::frontdoor::conf::Value;

const KNOWN: &[&str] = &[
    "user",
    "password",
    "token",
    "users",
    "timeout",
    "default_permissions",
];
const USER_KNOWN: &[&str] = &[
    "user",
    "password",
    "nkey",
    "permissions",
    "allowed_connection_types",
];
const PERMISSIONS_KNOWN: &[&str] = &["publish", "subscribe", "allow_responses"];
const SIDE_KNOWN: &[&str] = &["allow", "deny"];
const RESPONSES_KNOWN: &[&str] = &["max", "expires"];

pub(super) fn read(field: Field<'_>, auth: &mut StaticAuth, findings: &mut Findings) {
    let Some(map) = field.map(findings) else {
        return;
    };
    let mut single = StaticUser::default();
    let mut defaults = None;
    let mut users = Vec::new();
    each(
        map,
        "authorization",
        KNOWN,
        findings,
        |key, field, findings| {
            match key {
                "user" | "username" => single.name = field.text(findings),
                "pass" | "password" => single.password = field.secret(findings),
                "token" => auth.token = field.secret(findings),
                "users" => users = read_users(field, None, findings),
                "timeout" => auth.timeout = field.duration(findings).unwrap_or(auth.timeout),
                "default_permissions" | "default_permission" => {
                    defaults = permissions(field, findings);
                }
                "auth_callout" => findings.refuse(&field, "users are those of the file"),
                "proxy_required" => findings.refuse(&field, "trusted proxies are not known here"),
                _ => return false,
            }
            true
        },
    );
    exclusive(&field, &single, auth, &users, findings);
    if single.name.is_some() {
        users.push(single);
    }
    give_defaults(&mut users, defaults.as_ref());
    auth.users.append(&mut users);
}

/// nats-server takes one way to authenticate at a time.
fn exclusive(
    field: &Field<'_>,
    single: &StaticUser,
    auth: &StaticAuth,
    users: &[StaticUser],
    findings: &mut Findings,
) {
    if single.name.is_some() && auth.token.is_some() {
        findings.problem(
            field.at,
            "authorization has both user and token: one of them has to go",
        );
    }
    if (single.name.is_some() || auth.token.is_some()) && !users.is_empty() {
        let words = "authorization has users beside a single user or token: put them into users";
        findings.problem(field.at, words);
    }
    if single.name.is_none() && single.password.is_some() {
        findings.problem(field.at, "authorization has a password without a user");
    }
}

pub(super) fn give_defaults(users: &mut [StaticUser], defaults: Option<&PermissionRules>) {
    for user in users.iter_mut().filter(|user| user.permissions.is_none()) {
        user.permissions = defaults.cloned();
    }
}

pub(super) fn read_users(
    field: Field<'_>,
    account: Option<&str>,
    findings: &mut Findings,
) -> Vec<StaticUser> {
    let items = field.list(findings).unwrap_or_default();
    let read = |item| read_user(field.item(item), account, findings);
    items.iter().filter_map(read).collect()
}

fn read_user(
    field: Field<'_>,
    account: Option<&str>,
    findings: &mut Findings,
) -> Option<StaticUser> {
    let map = field.map(findings)?;
    let section = field.name();
    let mut user = StaticUser {
        account: account.map(str::to_owned),
        ..StaticUser::default()
    };
    each(
        map,
        &section,
        USER_KNOWN,
        findings,
        |key, field, findings| {
            match key {
                "user" | "username" => user.name = field.text(findings),
                "pass" | "password" => user.password = field.secret(findings),
                "nkey" => user.nkey = field.text(findings),
                "permission" | "permissions" | "authorization" => {
                    user.permissions = permissions(field, findings);
                }
                "allowed_connection_types" | "connection_types" | "clients" => {
                    user.allowed_connection_types = connection_types(field, findings);
                }
                "proxy_required" => findings.refuse(&field, "trusted proxies are not known here"),
                _ => return false,
            }
            true
        },
    );
    if user.name.is_none() == user.nkey.is_none() {
        let words = format!("an entry of {section} needs either user or nkey");
        findings.problem(&field.node.at, words);
        return None;
    }
    Some(user)
}

fn connection_types(field: Field<'_>, findings: &mut Findings) -> Option<Vec<ConnectionType>> {
    let mut types = Vec::new();
    for word in field.texts(findings)? {
        match ConnectionType::parse(&word) {
            Some(kind) => types.push(kind),
            None => {
                let words = format!(
                    "{} has {word:?}; wanted STANDARD, WEBSOCKET, LEAFNODE, LEAFNODE_WS, MQTT, \
                     MQTT_WS or IN_PROCESS",
                    field.name()
                );
                findings.problem(&field.node.at, words);
            }
        }
    }
    Some(types)
}

pub(super) fn permissions(field: Field<'_>, findings: &mut Findings) -> Option<PermissionRules> {
    let map = field.map(findings)?;
    let section = field.name();
    let mut rules = PermissionRules::default();
    each(
        map,
        &section,
        PERMISSIONS_KNOWN,
        findings,
        |key, field, findings| {
            match key {
                "pub" | "publish" | "import" => rules.publish = side(field, findings),
                "sub" | "subscribe" | "export" => rules.subscribe = side(field, findings),
                "allow_responses" | "publish_allow_responses" => {
                    rules.allow_responses = responses(field, findings);
                }
                _ => return false,
            }
            true
        },
    );
    Some(rules)
}

/// A text or a list is what is allowed.
fn side(field: Field<'_>, findings: &mut Findings) -> SubjectRules {
    let mut rules = SubjectRules::default();
    let Value::Map(map) = &field.node.value else {
        rules.allow = field.texts(findings);
        return rules;
    };
    let section = field.name();
    each(
        map,
        &section,
        SIDE_KNOWN,
        findings,
        |key, field, findings| {
            match key {
                "allow" => rules.allow = field.texts(findings),
                "deny" => rules.deny = field.texts(findings).unwrap_or_default(),
                _ => return false,
            }
            true
        },
    );
    rules
}

/// `true` is one reply within two minutes; in a block, 0 is that default and less is no limit.
fn responses(field: Field<'_>, findings: &mut Findings) -> Option<ResponseRule> {
    let mut rule = ResponseRule::default();
    let Value::Map(map) = &field.node.value else {
        return field.flag(findings)?.then_some(rule);
    };
    each(
        map,
        &field.name(),
        RESPONSES_KNOWN,
        findings,
        |key, field, findings| {
            match key {
                "max" | "max_msgs" => match field.integer(findings) {
                    Some(0) | None => {}
                    Some(number) => rule.max = u32::try_from(number).ok(),
                },
                "expires" | "expiration" | "ttl" => match &field.node.value {
                    Value::String(text) if text.starts_with('-') => rule.expires = None,
                    Value::Integer(number) if *number < 0 => rule.expires = None,
                    _ => match field.duration(findings) {
                        Some(time) if !time.is_zero() => rule.expires = Some(time),
                        _ => {}
                    },
                },
                _ => return false,
            }
            true
        },
    );
    Some(rule)
}
