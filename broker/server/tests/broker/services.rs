//! In-process services and publishes from inside the node.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;
use unibus_broker::{Broker, Inbound, Publication, Service};

use crate::support::Node;

/// Takes what it is told to take, and answers on the reply subject.
struct Echo {
    broker: Broker,
    takes: AtomicBool,
    seen: Mutex<Vec<String>>,
    gate: watch::Sender<bool>,
}

impl Echo {
    fn new(broker: Broker) -> Arc<Self> {
        let (gate, _) = watch::channel(true);
        Arc::new(Self {
            broker,
            takes: AtomicBool::new(true),
            seen: Mutex::default(),
            gate,
        })
    }
}

impl Service for Echo {
    fn deliver(&self, message: &Inbound<'_>) -> bool {
        if !self.takes.load(Ordering::Relaxed) {
            return false;
        }
        self.seen
            .lock()
            .push(String::from_utf8_lossy(message.data).into_owned());
        if let Some(reply) = message.reply {
            let shown = Some(&b"shown.subject"[..]);
            let data = message.data;
            let answer = Publication {
                subject: reply,
                shown,
                data,
                ..Publication::default()
            };
            assert_eq!(self.broker.publish(answer), 1);
        }
        true
    }

    fn ready(&self) -> Option<BoxFuture<'static, ()>> {
        let mut gate = self.gate.subscribe();
        if *gate.borrow_and_update() {
            return None;
        }
        Some(Box::pin(async move {
            let _ = gate.wait_for(|open| *open).await;
        }))
    }
}

#[tokio::test]
async fn a_service_is_a_responder_as_long_as_it_takes() {
    let node = Node::start().await;
    let echo = Echo::new(node.broker.clone());
    let service = Arc::clone(&echo);
    let id = node.broker.add_service("svc.>", service);
    let mut raw = node.client().await;
    raw.send("SUB inbox.* 1\r\nPUB svc.a inbox.1 2\r\nhi\r\n")
        .await;
    raw.expect("MSG shown.subject 1 2\r\nhi\r\n").await;
    let nobody = "HMSG inbox.1 1 37 37\r\nNATS/1.0 503\r\nNats-Subject: svc.a\r\n\r\n\r\n";
    echo.takes.store(false, Ordering::Relaxed);
    raw.send("PUB svc.a inbox.1 2\r\nhi\r\n").await;
    raw.expect(nobody).await;
    echo.takes.store(true, Ordering::Relaxed);
    node.broker.remove_service(id);
    raw.send("PUB svc.a inbox.1 2\r\nhi\r\n").await;
    raw.expect(nobody).await;
    assert_eq!(*echo.seen.lock(), ["hi"]);
}

#[tokio::test]
async fn a_service_sees_each_of_repeated_publications() {
    let node = Node::start().await;
    let echo = Echo::new(node.broker.clone());
    let service = Arc::clone(&echo);
    node.broker.add_service("svc.>", service);
    let mut raw = node.client().await;
    raw.send("PUB svc.a 1\r\n1\r\nPUB svc.a 1\r\n2\r\nPUB svc.a 1\r\n3\r\n")
        .await;
    raw.flush().await;
    assert_eq!(*echo.seen.lock(), ["1", "2", "3"]);
}

#[tokio::test]
async fn a_service_behind_holds_the_publisher_back() {
    let node = Node::start().await;
    let echo = Echo::new(node.broker.clone());
    let service = Arc::clone(&echo);
    node.broker.add_service("svc", service);
    echo.gate.send_replace(false);
    let (mut publisher, mut other) = (node.client().await, node.client().await);
    publisher.send("PUB svc 1\r\na\r\n").await;
    while echo.seen.lock().is_empty() {
        other.flush().await;
    }
    publisher.send("PUB svc 1\r\nb\r\nPING\r\n").await;
    for _ in 0..20 {
        other.flush().await;
    }
    assert_eq!(*echo.seen.lock(), ["a"]);
    echo.gate.send_replace(true);
    publisher.expect("PONG\r\n").await;
    assert_eq!(*echo.seen.lock(), ["a", "b"]);
}

#[tokio::test]
async fn internal_publishes_reach_clients_and_services_if_asked() {
    let node = Node::start().await;
    let echo = Echo::new(node.broker.clone());
    let service = Arc::clone(&echo);
    node.broker.add_service("foo", service);
    let mut changes = node.broker.interest_changed();
    assert!(!node.broker.has_interest(b"foo"));
    let mut raw = node.client().await;
    raw.send("SUB foo 1\r\nUNSUB 1 3\r\n").await;
    raw.flush().await;
    changes.changed().await.unwrap();
    assert!(node.broker.has_interest(b"foo"));
    let publish = |capture, data| {
        node.broker.publish(Publication {
            subject: b"foo",
            data,
            capture,
            ..Publication::default()
        })
    };
    assert_eq!(publish(false, b"a"), 1);
    assert_eq!(publish(true, b"b"), 2);
    raw.expect("MSG foo 1 1\r\na\r\nMSG foo 1 1\r\nb\r\n").await;
    assert_eq!(*echo.seen.lock(), ["b"]);
    let sent = node.broker.batch(|batch| {
        let message = Publication {
            subject: b"foo",
            data: b"c",
            ..Publication::default()
        };
        batch.publish(message) + batch.publish(message)
    });
    assert_eq!(sent, 1, "the maximum of the subscription is reached");
    raw.expect("MSG foo 1 1\r\nc\r\n").await;
    raw.flush().await;
    crate::support::until("the used-up subscription is gone", || {
        !node.broker.has_interest(b"foo")
    })
    .await;
}
