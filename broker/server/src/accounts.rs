//! Accounts and what they give each other: exports, imports, limits.
//!
//! Owns the check of a whole set of accounts before any of it holds, and puts it in force. Must never
//! change anything when the set is refused.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use unibus_proto::mapping::{Mapping, MappingError, Step, find_cycle};
use unibus_proto::subject::{is_subset, is_valid_filter};

use crate::exchange::{Answers, Exchange, ServiceImport, StreamImport};
use crate::plane::Plane;
use crate::ports::UserLimits;
use crate::service::Entry;
use crate::shared::Shared;
use crate::subscription::{Subscription, Via};

/// How long a service of another account may take where nothing is said, as in nats-server.
const RESPONSE_THRESHOLD: Duration = Duration::from_secs(120);

/// One account.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AccountOptions {
    /// Its name; `$G` is the account of those who name none.
    pub name: String,
    /// What other accounts may import.
    pub exports: Vec<Export>,
    /// What it takes from other accounts.
    pub imports: Vec<Import>,
    /// `connections_max` counts the account's connections; the other limits hold for each of them.
    pub limits: UserLimits,
}

/// Messages that flow out, or requests that flow in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ShareKind {
    /// Messages.
    Stream,
    /// Requests and their answers.
    Service,
}

/// How a service answers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ResponseType {
    /// With one message.
    #[default]
    Singleton,
    /// With any number, each within the threshold after the last; an empty one ends it.
    Stream,
    /// With parts of one message; the last is empty.
    Chunked,
}

/// What others may import.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Export {
    /// Messages or requests.
    pub kind: ShareKind,
    /// The subjects; may have wildcards.
    pub subject: String,
    /// Who may; `None` = everybody.
    pub accounts: Option<Vec<String>>,
    /// How the service answers.
    pub response: ResponseType,
    /// How long it may take; `None` = two minutes.
    pub response_threshold: Option<Duration>,
    /// The token (from 1) of the imported subject that has to be the importing account's name.
    pub account_token_position: Option<u32>,
}

/// What an account takes from another one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Import {
    /// Messages or requests.
    pub kind: ShareKind,
    /// The account that exports it.
    pub account: String,
    /// The subject there.
    pub subject: String,
    /// The subject here; `None` = the same. May name the other's wildcards as `$1`.
    pub to: Option<String>,
    /// Put before the subject here, with a dot between; messages only, and not with `to`.
    pub prefix: Option<String>,
}

/// Why a set of accounts is refused. Nothing of it holds then.
#[derive(Clone, Debug, Eq, PartialEq, Error)]
pub enum AccountsError {
    /// Two accounts with one name, or one without.
    #[error("account {0:?} is named twice or has no name")]
    Name(String),
    /// An export of something that is no subject.
    #[error("account {account:?} exports {subject:?}, which is no subject")]
    ExportSubject {
        /// The exporter.
        account: String,
        /// What it exports.
        subject: String,
    },
    /// An import from an account that is not there.
    #[error("account {importer:?} imports {subject:?} from {account:?}, which is no account")]
    NoAccount {
        /// The importer.
        importer: String,
        /// The account it names.
        account: String,
        /// What it imports.
        subject: String,
    },
    /// An import of what is not exported, or not to this account.
    #[error(
        "account {importer:?} imports {subject:?} from {account:?}, which does not export it to it; \
         add an export there"
    )]
    NotExported {
        /// The importer.
        importer: String,
        /// The exporter.
        account: String,
        /// What it imports.
        subject: String,
    },
    /// The subjects of an import don't fit.
    #[error("account {importer:?} imports {subject:?} under a subject that does not fit: {source}")]
    Mapping {
        /// The importer.
        importer: String,
        /// What it imports.
        subject: String,
        /// What doesn't fit.
        source: MappingError,
    },
    /// Messages or requests would come back to where they began.
    #[error("imports form a cycle: {0}; take one of them out")]
    Cycle(String),
}

/// An import that has been checked.
struct Checked<'a> {
    import: &'a Import,
    export: &'a Export,
    /// From the subjects there to those here.
    back: Mapping,
}

/// Checks the whole set.
fn check(accounts: &[AccountOptions]) -> Result<Vec<Vec<Checked<'_>>>, AccountsError> {
    let mut by_name = HashMap::new();
    for account in accounts {
        if account.name.is_empty() || by_name.insert(account.name.as_str(), account).is_some() {
            return Err(AccountsError::Name(account.name.clone()));
        }
        for export in &account.exports {
            if !is_valid_filter(export.subject.as_bytes()) {
                return Err(AccountsError::ExportSubject {
                    account: account.name.clone(),
                    subject: export.subject.clone(),
                });
            }
        }
    }
    let mut checked = Vec::new();
    for account in accounts {
        let imports = account.imports.iter();
        let imports = imports.map(|import| check_import(&by_name, &account.name, import));
        checked.push(imports.collect::<Result<Vec<_>, _>>()?);
    }
    for kind in [ShareKind::Stream, ShareKind::Service] {
        let steps = steps(accounts, &checked, kind);
        if let Some(cycle) = find_cycle(&steps) {
            return Err(AccountsError::Cycle(cycle));
        }
    }
    Ok(checked)
}

fn check_import<'a>(
    accounts: &HashMap<&str, &'a AccountOptions>,
    importer: &str,
    import: &'a Import,
) -> Result<Checked<'a>, AccountsError> {
    let Some(&exporter) = accounts.get(import.account.as_str()) else {
        return Err(AccountsError::NoAccount {
            importer: importer.to_owned(),
            account: import.account.clone(),
            subject: import.subject.clone(),
        });
    };
    let fits = |export: &&Export| {
        export.kind == import.kind
            && is_subset(import.subject.as_bytes(), export.subject.as_bytes())
            && may_import(export, importer, &import.subject)
    };
    let Some(export) = exporter.exports.iter().find(fits) else {
        return Err(AccountsError::NotExported {
            importer: importer.to_owned(),
            account: import.account.clone(),
            subject: import.subject.clone(),
        });
    };
    let here = match (&import.to, &import.prefix) {
        (Some(to), _) => to.clone(),
        (None, Some(prefix)) => {
            format!("{}.{}", prefix.trim_end_matches('.'), import.subject)
        }
        (None, None) => import.subject.clone(),
    };
    let back = mapping_of(&import.subject, &here).map_err(|source| AccountsError::Mapping {
        importer: importer.to_owned(),
        subject: import.subject.clone(),
        source,
    })?;
    Ok(Checked {
        import,
        export,
        back,
    })
}

/// `to` may be written from either side: with the wildcards of the subject there, or as the subject here
/// whose wildcards the subject there names.
fn mapping_of(there: &str, here: &str) -> Result<Mapping, MappingError> {
    Mapping::new(there, here).or_else(|error| {
        Mapping::new(here, there)
            .map(|mapping| mapping.reversed())
            .map_err(|_| error)
    })
}

fn may_import(export: &Export, importer: &str, subject: &str) -> bool {
    let listed = export
        .accounts
        .as_ref()
        .is_none_or(|accounts| accounts.iter().any(|name| name == importer));
    let position = export.account_token_position.filter(|at| *at > 0);
    let named = position.is_none_or(|at| subject.split('.').nth(at as usize - 1) == Some(importer));
    listed && named
}

/// How messages (from exporter to importer) or requests (the other way) travel.
fn steps(accounts: &[AccountOptions], checked: &[Vec<Checked<'_>>], kind: ShareKind) -> Vec<Step> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut steps = Vec::new();
    for (account, imports) in accounts.iter().zip(checked) {
        for Checked { import, back, .. } in imports.iter().filter(|c| c.import.kind == kind) {
            let there = (import.account.clone(), text(back.from_filter()));
            let here = (account.name.clone(), text(back.to_filter()));
            let (from, to) = match kind {
                ShareKind::Stream => (there, here),
                ShareKind::Service => (here, there),
            };
            steps.push(Step {
                from: from.0,
                from_subject: from.1,
                to: to.0,
                to_subject: to.1,
            });
        }
    }
    steps
}

/// Puts a set of accounts in force; those that are no longer in it import nothing any more.
///
/// # Errors
/// [`AccountsError`]; what held before still holds then.
pub(crate) fn set(shared: &Shared, accounts: &[AccountOptions]) -> Result<(), AccountsError> {
    let checked = check(accounts)?;
    let mut named = HashSet::new();
    for (account, imports) in accounts.iter().zip(&checked) {
        named.insert(account.name.as_str());
        let Some(plane) = shared.planes.of(Some(&account.name)) else {
            return Err(AccountsError::Name(account.name.clone()));
        };
        set_imports(shared, &plane, imports, account.limits);
    }
    for plane in shared.planes.all() {
        if !named.contains(plane.name()) {
            set_imports(shared, &plane, &[], UserLimits::default());
        }
    }
    for record in shared.registry.records() {
        record.outbound.nudge();
    }
    Ok(())
}

fn set_imports(shared: &Shared, here: &Arc<Plane>, imports: &[Checked<'_>], limits: UserLimits) {
    let mut next = Exchange {
        limits,
        ..Exchange::default()
    };
    let mut offers = Vec::new();
    for checked in imports {
        let Some(there) = shared.planes.of(Some(&checked.import.account)) else {
            continue;
        };
        match checked.import.kind {
            ShareKind::Stream => {
                let import = StreamImport::new(&there, checked.back.clone());
                next.streams.push(import);
            }
            ShareKind::Service => {
                let service = ServiceImport {
                    here: Arc::downgrade(here),
                    target: Arc::downgrade(&there),
                    mapping: checked.back.reversed(),
                    answers: shared.answers_of(&there),
                    response: checked.export.response,
                    longest: checked
                        .export
                        .response_threshold
                        .unwrap_or(RESPONSE_THRESHOLD),
                };
                let (id, filter) = (shared.next_id(), service.mapping.from_filter().to_vec());
                let service = Arc::new(service);
                offers.push((filter, Entry { id, service }));
                next.services.push(id);
            }
        }
    }
    let old = here.exchange.swap(Arc::new(next));
    if !old.services.is_empty() || !offers.is_empty() {
        here.services
            .rcu(|services| services.exchanged(&old.services, &offers));
    }
}

impl Shared {
    /// The answers that the services of a plane owe to others; listened to from the first time on.
    fn answers_of(&self, plane: &Arc<Plane>) -> Arc<Answers> {
        let mut all = self.answers.lock();
        let name: Arc<str> = Arc::from(plane.name());
        if let Some(answers) = all.get(&name) {
            return Arc::clone(answers);
        }
        let answers = Arc::new(Answers::new());
        let filter = answers.filter();
        let via = Via::Sink(Arc::clone(&answers) as Arc<dyn crate::exchange::Sink>);
        let listener = Subscription::indirect(Arc::clone(&self.inner), b"", None, via);
        plane
            .table
            .write()
            .subscribe(filter.as_bytes(), &Arc::new(listener));
        plane.interest_changed();
        all.insert(name, Arc::clone(&answers));
        answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(kind: ShareKind, subject: &str) -> Export {
        Export {
            kind,
            subject: subject.into(),
            accounts: None,
            response: ResponseType::Singleton,
            response_threshold: None,
            account_token_position: None,
        }
    }

    fn import(kind: ShareKind, account: &str, subject: &str, to: Option<&str>) -> Import {
        Import {
            kind,
            account: account.into(),
            subject: subject.into(),
            to: to.map(str::to_owned),
            prefix: None,
        }
    }

    fn account(name: &str, exports: Vec<Export>, imports: Vec<Import>) -> AccountOptions {
        AccountOptions {
            name: name.into(),
            exports,
            imports,
            limits: UserLimits::default(),
        }
    }

    fn refusal(accounts: &[AccountOptions]) -> Option<AccountsError> {
        check(accounts).err()
    }

    #[test]
    fn only_what_is_exported_to_an_account_is_imported() {
        use ShareKind::{Service, Stream};
        let mut private = export(Stream, "orders.>");
        private.accounts = Some(vec!["B".into()]);
        let mut own = export(Stream, "own.*.x");
        own.account_token_position = Some(2);
        let a = account("A", vec![private, export(Service, "help"), own], vec![]);
        for (name, import, good) in [
            ("B", import(Stream, "A", "orders.eu.*", None), true),
            ("C", import(Stream, "A", "orders.eu.*", None), false),
            ("B", import(Stream, "A", "other", None), false),
            ("B", import(Service, "A", "orders.x", None), false),
            ("C", import(Service, "A", "help", Some("a.help")), true),
            ("C", import(Service, "Z", "help", None), false),
            ("C", import(Service, "A", "help", Some("a.*")), false),
            ("C", import(Stream, "A", "own.C.x", None), true),
            ("C", import(Stream, "A", "own.B.x", None), false),
        ] {
            let importer = account(name, vec![], vec![import.clone()]);
            let refusal = refusal(&[a.clone(), importer]);
            assert_eq!(refusal.is_none(), good, "{name} {import:?}: {refusal:?}");
        }
    }

    #[test]
    fn cycles_are_refused() {
        use ShareKind::Service;
        let a = account(
            "A",
            vec![export(Service, "x")],
            vec![import(Service, "B", "y", Some("x"))],
        );
        let b = account(
            "B",
            vec![export(Service, "y")],
            vec![import(Service, "A", "x", Some("y"))],
        );
        assert!(matches!(
            refusal(&[a.clone(), b.clone()]),
            Some(AccountsError::Cycle(_))
        ));
        let harmless = account("B", b.exports, vec![import(Service, "A", "x", Some("z"))]);
        assert_eq!(refusal(&[a, harmless]), None);
    }

    #[test]
    fn names_are_unique() {
        let twice = [account("A", vec![], vec![]), account("A", vec![], vec![])];
        assert_eq!(refusal(&twice), Some(AccountsError::Name("A".into())));
    }
}
