//! The services behind `$SYS.REQ.>`: takes questions off the publisher's task into a bounded queue,
//! answers them on blocking threads, and asks the peers for theirs.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use unibus_broker::{
    Broker, ConnectionQuery, ConnectionState, GLOBAL_ACCOUNT, Inbound, Publication, Service,
};
use unibus_proto::permissions::{Filters, Permissions, SubjectSet};

use super::ask::{Ask, PREFIX};
use super::peers::Peers;
use crate::access::permissions::control_plane;
use crate::monitor::source::Monitor;
use crate::monitor::statsz;

/// Questions that wait; a further one is answered with "no responders".
const WAITING_MAX: usize = 256;
/// Questions that are worked on at once: documents may walk all connections.
const WORKING_MAX: usize = 2;
/// Answers of peers that are awaited at once, over all questions; further questions wait.
const PEERS_ASKED_MAX: usize = 256;
/// What everybody may ask about themselves.
const USER_INFO: &[u8] = b"$SYS.REQ.USER.INFO";

/// A question with the way back.
struct Job {
    kind: Kind,
    reply: Vec<u8>,
    /// Bound to the asker's account.
    broker: Broker,
}

enum Kind {
    Document(Ask),
    UserInfo(Value),
}

/// Serves one account's questions.
struct Questions {
    monitor: Monitor,
    broker: Broker,
    account: String,
    /// This is the system account.
    is_system: bool,
    /// Only the node's own identity may ask.
    internal_only: bool,
    queue: mpsc::Sender<Job>,
}

/// Starts the services.
#[derive(Debug)]
pub struct SystemServices;

impl SystemServices {
    /// Serves the system account and everybody's questions about themselves, until the returned future
    /// ends with the runtime. `separate` says that accounts are told apart; otherwise only the node's
    /// own identity may ask.
    pub fn start(
        monitor: &Monitor,
        broker: &Broker,
        separate: bool,
        peers: Option<Peers>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (queue, jobs) = mpsc::channel(WAITING_MAX);
        let facts = monitor.facts();
        let mut names = facts.accounts.clone();
        names.push(GLOBAL_ACCOUNT.to_owned());
        if separate {
            names.push(facts.system_account.to_string());
        }
        names.sort();
        names.dedup();
        for account in names {
            let Some(own) = broker.account(&account) else {
                tracing::warn!(%account, "too many accounts: $SYS is not served in this one");
                continue;
            };
            let questions = Questions {
                monitor: monitor.clone(),
                broker: own.clone(),
                is_system: !separate || account == *facts.system_account,
                internal_only: !separate,
                account,
                queue: queue.clone(),
            };
            own.add_service(&format!("{PREFIX}>"), Arc::new(questions));
        }
        work(monitor.clone(), peers, jobs)
    }
}

impl Service for Questions {
    fn deliver(&self, message: &Inbound<'_>) -> bool {
        let Some(reply) = message.reply else {
            return false;
        };
        let kind = if message.subject == USER_INFO {
            Kind::UserInfo(self.user_info(message))
        } else {
            if self.internal_only && !message.origin.internal {
                return false;
            }
            let body = &message.data[message.header_len..];
            let account = (!self.is_system).then_some(self.account.as_str());
            let Some(ask) = Ask::new(message.subject, body, account) else {
                return false;
            };
            Kind::Document(ask)
        };
        let job = Job {
            kind,
            reply: reply.to_vec(),
            broker: self.broker.clone(),
        };
        self.queue.try_send(job).is_ok()
    }
}

impl Questions {
    /// Who the asker is; the name is looked up when the question is answered.
    fn user_info(&self, message: &Inbound<'_>) -> Value {
        let origin = message.origin;
        let permissions = origin.permissions.as_deref().and_then(rules);
        let mut info = json!({
            "cid": origin.connection,
            "user": origin.identity.as_deref().unwrap_or_default(),
            "account": self.account,
            "account_name": self.account,
        });
        if let (Some(info), Some(permissions)) = (info.as_object_mut(), permissions) {
            info.insert("permissions".to_owned(), permissions);
        }
        let _ = &self.monitor;
        info
    }
}

/// Answers questions until nobody can ask any more.
async fn work(monitor: Monitor, peers: Option<Peers>, mut jobs: mpsc::Receiver<Job>) {
    let places = Arc::new(Semaphore::new(WORKING_MAX));
    let asking = Arc::new(Semaphore::new(PEERS_ASKED_MAX));
    while let Some(job) = jobs.recv().await {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        if let (Some(peers), Kind::Document(ask)) = (&peers, &job.kind)
            && ask.concerns_peers(&monitor.facts().server_id)
        {
            for answer in peers.ask_all(ask) {
                let Ok(asked) = Arc::clone(&asking).acquire_owned().await else {
                    return;
                };
                let (broker, reply) = (job.broker.clone(), job.reply.clone());
                tokio::spawn(async move {
                    let _asked = asked;
                    if let Some(body) = answer.await {
                        publish(&broker, &reply, &body);
                    }
                });
            }
        }
        let monitor = monitor.clone();
        tokio::task::spawn_blocking(move || {
            let _place = place;
            let body = match job.kind {
                Kind::Document(ask) => ask.answer(&monitor),
                Kind::UserInfo(info) => user_answer(&monitor, info),
            };
            if let Some(body) = body {
                publish(&job.broker, &job.reply, &body);
            }
        });
    }
}

fn user_answer(monitor: &Monitor, mut info: Value) -> Option<Vec<u8>> {
    let fields = info.as_object_mut()?;
    let cid = fields.remove("cid").and_then(|cid| cid.as_u64());
    let query = ConnectionQuery {
        cid: cid.filter(|cid| *cid != 0),
        state: ConnectionState::Open,
        limit: 1,
        ..ConnectionQuery::default()
    };
    if query.cid.is_some() {
        let page = monitor.broker().connections(&query);
        let client = page.connections.first().map(|report| &report.client);
        if let Some(user) = client.and_then(|client| client.user.as_deref()) {
            fields.insert("user".to_owned(), user.into());
        }
    }
    serde_json::to_vec(&json!({ "server": statsz::server(monitor), "data": info })).ok()
}

/// Permissions as they are written, without what is denied to everybody.
fn rules(permissions: &Permissions) -> Option<Value> {
    let everybody = control_plane();
    let list = |filters: &Filters| -> Vec<String> {
        let own = filters.as_slice().iter().filter(|f| !everybody.contains(f));
        own.map(|filter| String::from_utf8_lossy(filter.as_bytes()).into_owned())
            .collect()
    };
    let side = |set: &SubjectSet| {
        let allow = set.allow.as_ref().map(list).unwrap_or_default();
        let deny = list(&set.deny);
        (!allow.is_empty() || !deny.is_empty()).then(|| json!({ "allow": allow, "deny": deny }))
    };
    let (publish, subscribe) = (side(&permissions.publish), side(&permissions.subscribe));
    let any = publish.is_some() || subscribe.is_some();
    any.then(|| json!({ "publish": publish, "subscribe": subscribe }))
}

fn publish(broker: &Broker, reply: &[u8], data: &[u8]) {
    broker.publish(Publication {
        subject: reply,
        data,
        ..Publication::default()
    });
}
