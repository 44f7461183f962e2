//! Accounts: planes of their own, what they import from each other, also across nodes.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use unibus_broker::{
    AccountOptions, AccountsError, ConnectionQuery, Export, Import, Inbound, Publication,
    ResponseType, Service, ShareKind, UserLimits,
};

use crate::routes::{link, mesh};
use crate::support::{Node, Raw, until};

/// What a request of account `A` has before its payload.
const REQUEST_INFO_BYTES: usize = "NATS/1.0\r\nNats-Request-Info: {\"acc\":\"A\"}\r\n\r\n".len();

async fn client(node: &Node, account: &str) -> Raw {
    let fields = format!("\"user\":\"u@{account}\",\"headers\":true,\"no_responders\":true");
    node.client_with(&fields).await
}

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

/// `B` exports `orders.>` and the service `help.*`; `A` has them as `b.orders.>` and `ask.*`.
fn shop(response: ResponseType) -> [AccountOptions; 2] {
    let help = Export {
        response,
        ..export(ShareKind::Service, "help.*")
    };
    let orders = Import {
        prefix: Some("b".into()),
        ..import(ShareKind::Stream, "B", "orders.>", None)
    };
    [
        account(
            "A",
            vec![],
            vec![
                orders,
                import(ShareKind::Service, "B", "help.*", Some("ask.*")),
            ],
        ),
        account(
            "B",
            vec![export(ShareKind::Stream, "orders.>"), help],
            vec![],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_during_a_reload_is_asked_once() {
    const REQUESTS: usize = 4_000;
    let node = Node::start().await;
    node.broker
        .set_accounts(&shop(ResponseType::Singleton))
        .unwrap();
    let mut service = client(&node, "B").await;
    service.send("SUB help.me 1\r\n").await;
    service.flush().await;
    let (broker, stop) = (node.broker.clone(), Arc::new(AtomicBool::new(false)));
    let stopped = Arc::clone(&stop);
    let reloading = tokio::task::spawn_blocking(move || {
        while !stopped.load(Ordering::Relaxed) {
            broker.set_accounts(&shop(ResponseType::Singleton)).unwrap();
        }
    });
    let mut asking = client(&node, "A").await;
    for _ in 0..REQUESTS / 40 {
        asking.send(&"PUB ask.me 0\r\n\r\n".repeat(40)).await;
        asking.flush().await;
    }
    stop.store(true, Ordering::Relaxed);
    reloading.await.unwrap();
    assert_eq!(service.count_messages().await, REQUESTS);
}

#[tokio::test]
async fn accounts_do_not_hear_each_other() {
    let node = Node::start().await;
    let mut clients = [
        client(&node, "A").await,
        client(&node, "B").await,
        node.client().await,
    ];
    for raw in &mut clients {
        raw.send("SUB > 1\r\n").await;
        raw.flush().await;
    }
    for (at, text) in ["a", "b", "g"].iter().enumerate() {
        clients[at].send(&format!("PUB foo 1\r\n{text}\r\n")).await;
    }
    for (raw, text) in clients.iter_mut().zip(["a", "b", "g"]) {
        raw.expect(&format!("MSG foo 1 1\r\n{text}\r\n")).await;
        raw.flush().await;
    }
    let reports = node.broker.accounts();
    let names: Vec<_> = reports
        .iter()
        .map(|r| (r.name.as_str(), r.in_msgs))
        .collect();
    assert_eq!(names, [("$G", 1), ("A", 1), ("B", 1)]);
    assert!(
        reports
            .iter()
            .all(|r| r.connections == 1 && r.subscriptions == 1)
    );
    assert_eq!(node.broker.stats().in_msgs, 3);
    let of_a = ConnectionQuery {
        account: Some("A".into()),
        ..ConnectionQuery::default()
    };
    assert_eq!(node.broker.connections(&of_a).total, 1);
}

#[tokio::test]
async fn the_second_info_names_the_account() {
    let node = Node::start().await;
    node.broker.set_system_account("SYS");
    for (name, is_system) in [("A", false), ("SYS", true)] {
        let mut raw = node.dial().await;
        raw.send(&format!(
            "CONNECT {{\"verbose\":false,\"user\":\"u@{name}\",\"protocol\":1}}\r\nPING\r\n"
        ))
        .await;
        raw.expect("PONG\r\n").await;
        let info = raw.line().await;
        assert!(
            info.contains(&format!("\"remote_account\":\"{name}\"")),
            "{info}"
        );
        assert_eq!(info.contains("\"acc_is_sys\":true"), is_system, "{info}");
    }
}

#[tokio::test]
async fn another_connect_changes_the_account_and_drops_subscriptions() {
    let node = Node::start().await;
    let mut raw = client(&node, "A").await;
    raw.send("SUB foo 1\r\nCONNECT {\"verbose\":false,\"user\":\"u@B\"}\r\nSUB bar 1\r\nPUB foo 0\r\n\r\nPUB bar 0\r\n\r\n")
        .await;
    raw.expect("MSG bar 1 0\r\n\r\n").await;
    raw.flush().await;
    let mut other = client(&node, "A").await;
    other.send("PUB foo 0\r\n\r\nPUB bar 0\r\n\r\n").await;
    other.flush().await;
    raw.flush().await;
    let reports = node.broker.accounts();
    assert_eq!(reports[1].subscriptions + reports[2].subscriptions, 1);
    assert_eq!((reports[1].connections, reports[2].connections), (1, 1));
}

#[tokio::test]
async fn imported_streams_arrive_under_their_name_here() {
    let node = Node::start().await;
    node.broker
        .set_accounts(&shop(ResponseType::Singleton))
        .unwrap();
    let (mut a, mut b) = (client(&node, "A").await, client(&node, "B").await);
    a.send("SUB b.orders.eu.* 1\r\nSUB b.> q 2\r\nSUB orders.> 3\r\nSUB *.orders.us 4\r\nUNSUB 4 1\r\n")
        .await;
    a.flush().await;
    b.send("PUB orders.eu.1 r 1\r\nx\r\n").await;
    let mut lines = [
        a.line().await,
        a.line().await,
        a.line().await,
        a.line().await,
    ];
    lines.sort();
    assert_eq!(
        lines,
        [
            "MSG b.orders.eu.1 1 r 1",
            "MSG b.orders.eu.1 2 r 1",
            "x",
            "x"
        ]
    );
    b.send("PUB orders.us 1\r\ny\r\nPUB orders.us 1\r\nz\r\nPUB other 1\r\nw\r\n")
        .await;
    b.flush().await;
    assert_eq!(
        a.count_messages().await,
        3,
        "two for the group, one until the maximum"
    );
    a.send("UNSUB 1\r\nUNSUB 2\r\n").await;
    a.flush().await;
    b.send("PUB orders.eu.1 1\r\nx\r\n").await;
    b.flush().await;
    a.flush().await;
    let mine = node.broker.connections(&ConnectionQuery {
        account: Some("A".into()),
        subscriptions: true,
        ..ConnectionQuery::default()
    });
    assert_eq!(
        mine.connections[0].subscription_list.len(),
        1,
        "shadows are not shown"
    );
    drop(a);
    until("its shadows are gone", || {
        node.broker.accounts()[2].subscriptions == 1
    })
    .await;
}

#[tokio::test]
async fn an_imported_service_answers_and_hides_who_asks() {
    let node = Node::start().await;
    node.broker
        .set_accounts(&shop(ResponseType::Singleton))
        .unwrap();
    let (mut a, mut b) = (client(&node, "A").await, client(&node, "B").await);
    a.send("SUB inbox 1\r\nPUB ask.me inbox 2\r\nhi\r\n").await;
    a.expect("HMSG inbox 1 38 38\r\nNATS/1.0 503\r\nNats-Subject: ask.me\r\n\r\n\r\n")
        .await;
    b.send("SUB help.* 7\r\n").await;
    b.flush().await;
    a.send("PUB ask.me inbox 2\r\nhi\r\n").await;
    let request = b.line().await;
    let reply = request.split(' ').nth(3).unwrap().to_owned();
    let headers = "NATS/1.0\r\nNats-Request-Info: {\"acc\":\"A\"}\r\n\r\n";
    let sizes = format!(" {} {}", headers.len(), headers.len() + 2);
    assert!(
        request.starts_with("HMSG help.me 7 _R_.") && request.ends_with(&sizes),
        "{request}"
    );
    b.expect(&format!("{headers}hi\r\n")).await;
    b.send(&format!(
        "PUB {reply} 2\r\nok\r\nPUB {reply} 5\r\ntwice\r\nPUB inbox 1\r\nx\r\n"
    ))
    .await;
    b.flush().await;
    a.expect("MSG inbox 1 2\r\nok\r\n").await;
    a.flush().await;
}

#[tokio::test]
async fn an_answer_in_parts_ends_with_an_empty_one() {
    for response in [ResponseType::Stream, ResponseType::Chunked] {
        let node = Node::start().await;
        node.broker.set_accounts(&shop(response)).unwrap();
        let (mut a, mut b) = (client(&node, "A").await, client(&node, "B").await);
        b.send("SUB help.* 7\r\n").await;
        b.flush().await;
        a.send("SUB inbox 1\r\nPUB ask.me inbox 0\r\n\r\n").await;
        let request = b.line().await;
        let reply = request.split(' ').nth(3).unwrap().to_owned();
        b.skip(REQUEST_INFO_BYTES + 2).await;
        for data in ["1", "2", "", "4"] {
            b.send(&format!("PUB {reply} {}\r\n{data}\r\n", data.len()))
                .await;
        }
        b.flush().await;
        assert_eq!(a.count_messages().await, 3, "{response:?}");
    }
}

struct Echo(Mutex<Option<unibus_broker::Broker>>);

impl Service for Echo {
    fn deliver(&self, message: &Inbound<'_>) -> bool {
        let account = message.origin.account.as_deref().unwrap_or("$G");
        let broker = self.0.lock().clone();
        let (Some(broker), Some(reply)) = (broker, message.reply) else {
            return false;
        };
        broker.publish(Publication {
            subject: reply,
            data: account.as_bytes(),
            ..Publication::default()
        }) > 0
    }
}

#[tokio::test]
async fn a_service_of_the_node_belongs_to_an_account_and_can_be_imported() {
    let node = Node::start().await;
    node.broker
        .set_accounts(&shop(ResponseType::Singleton))
        .unwrap();
    let of_b = node.broker.account("B").unwrap();
    let echo = Arc::new(Echo(Mutex::new(Some(of_b.clone()))));
    let id = node
        .broker
        .add_service_in("B", "help.>", Arc::clone(&echo) as Arc<dyn Service>)
        .unwrap();
    let (mut a, mut b) = (client(&node, "A").await, client(&node, "B").await);
    a.send("SUB inbox 1\r\nPUB ask.x inbox 0\r\n\r\n").await;
    a.expect("MSG inbox 1 1\r\nA\r\n").await;
    b.send("SUB inbox 1\r\nPUB help.x inbox 0\r\n\r\n").await;
    b.expect("MSG inbox 1 1\r\nB\r\n").await;
    node.broker.remove_service(id);
    b.send("PUB help.x inbox 0\r\n\r\n").await;
    b.expect("HMSG inbox 1 38 38\r\nNATS/1.0 503\r\nNats-Subject: help.x\r\n\r\n\r\n")
        .await;
    *echo.0.lock() = None;
}

#[tokio::test]
async fn changed_imports_reach_those_who_are_connected_and_bad_ones_nobody() {
    let node = Node::start().await;
    let (mut a, mut b) = (client(&node, "A").await, client(&node, "B").await);
    a.send("SUB b.> 1\r\n").await;
    a.flush().await;
    node.broker
        .set_accounts(&shop(ResponseType::Singleton))
        .unwrap();
    until("a shadow is cast", || {
        node.broker.accounts()[2].subscriptions == 2
    })
    .await;
    b.send("PUB orders.x 0\r\n\r\n").await;
    a.expect("MSG b.orders.x 1 0\r\n\r\n").await;
    let cyclic = [
        account(
            "A",
            vec![export(ShareKind::Stream, "x")],
            vec![import(ShareKind::Stream, "B", "x", None)],
        ),
        account(
            "B",
            vec![export(ShareKind::Stream, "x")],
            vec![import(ShareKind::Stream, "A", "x", None)],
        ),
    ];
    let refusal = node.broker.set_accounts(&cyclic);
    assert!(
        matches!(refusal, Err(AccountsError::Cycle(_))),
        "{refusal:?}"
    );
    b.send("PUB orders.y 0\r\n\r\n").await;
    a.expect("MSG b.orders.y 1 0\r\n\r\n").await;
    node.broker.set_accounts(&[]).unwrap();
    until("the shadow is gone", || {
        node.broker.accounts()[2].subscriptions == 1
    })
    .await;
    b.send("PUB orders.z 0\r\n\r\n").await;
    b.flush().await;
    a.flush().await;
}

#[tokio::test]
async fn an_account_has_limits() {
    let node = Node::start().await;
    let limited = AccountOptions {
        limits: UserLimits {
            connections_max: Some(1),
            subscriptions_max: Some(1),
            payload_bytes_max: None,
        },
        ..account("A", vec![], vec![])
    };
    node.broker.set_accounts(&[limited]).unwrap();
    let mut first = client(&node, "A").await;
    let mut second = node.dial().await;
    second.send("CONNECT {\"user\":\"v@A\"}\r\n").await;
    assert_eq!(
        second.rest().await,
        "-ERR 'maximum account active connections exceeded'\r\n"
    );
    first.send("SUB a 1\r\nSUB b 2\r\n").await;
    first
        .expect("-ERR 'maximum subscriptions exceeded'\r\n")
        .await;
    drop(first);
    until("the seat is free", || {
        node.broker.accounts()[1].connections == 0
    })
    .await;
    client(&node, "A").await.flush().await;
}

#[tokio::test]
async fn accounts_stay_apart_and_meet_over_routes() {
    let nodes = mesh(2).await;
    for node in &nodes {
        node.broker
            .set_accounts(&shop(ResponseType::Singleton))
            .unwrap();
    }
    // Each node's listener for answers.
    let base = 1;
    let (mut a, mut b) = (client(&nodes[0], "A").await, client(&nodes[1], "B").await);
    let mut global = nodes[1].client().await;
    global.send("SUB > 1\r\n").await;
    global.flush().await;
    a.send("SUB inbox 1\r\nSUB b.orders.* 2\r\n").await;
    a.flush().await;
    b.send("SUB help.* 7\r\n").await;
    b.flush().await;
    until("both know of each other", || {
        nodes[0].broker.stats().remote_interests == base + 2
            && nodes[1].broker.stats().remote_interests == base + 3
    })
    .await;
    b.send("PUB orders.1 1\r\nx\r\n").await;
    a.expect("MSG b.orders.1 2 1\r\nx\r\n").await;
    a.send("PUB ask.me inbox 2\r\nhi\r\n").await;
    let request = b.line().await;
    let reply = request.split(' ').nth(3).unwrap().to_owned();
    b.skip(REQUEST_INFO_BYTES + 4).await;
    b.send(&format!("PUB {reply} 2\r\nok\r\n")).await;
    a.expect("MSG inbox 1 2\r\nok\r\n").await;
    global.flush().await;
    // A route that comes later learns every account's interest.
    let (left, _) = link(&nodes, 0, 1);
    until("the new route is complete", || {
        nodes[0].broker.stats().remote_interests == base + 2
            && nodes[1].broker.stats().remote_interests == base + 3
    })
    .await;
    b.send("PUB orders.2 1\r\ny\r\n").await;
    a.expect("MSG b.orders.2 2 1\r\ny\r\n").await;
    left.abort();
    until("the other end has forgotten it", || {
        nodes[1].broker.stats().remote_interests == 0
    })
    .await;
}
