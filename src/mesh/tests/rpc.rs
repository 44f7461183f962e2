//! What RPCs promise: answers, order, refusals, and honest errors when a peer dies.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;
use unibus_proto::NodeId;
use unibus_raft::{GroupId, RpcClass, RpcHandler, Transport, TransportError};

use super::fixture::{Authority, Node, route_to, until};
use crate::mesh::MeshOptions;

const GROUP: GroupId = GroupId(7);
const TWO: NodeId = NodeId(2);

/// Answers with what it was sent, and remembers in which order it was asked.
#[derive(Default)]
struct Echo {
    seen: Mutex<Vec<(RpcClass, Bytes)>>,
    never: Notify,
}

impl RpcHandler for Echo {
    fn handle(
        &self,
        from: NodeId,
        class: RpcClass,
        group: GroupId,
        request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        assert_eq!((from, group), (NodeId(1), GROUP));
        self.seen.lock().push((class, request.clone()));
        match &*request {
            b"refuse" => async { Err("no such thing".to_owned()) }.boxed(),
            b"panic" => async { panic!("as asked") }.boxed(),
            b"hang" => std::future::pending().boxed(),
            // Later requests overtake earlier ones on the way back.
            _ if request.len().is_multiple_of(2) => async move {
                tokio::task::yield_now().await;
                Ok(request)
            }
            .boxed(),
            _ => async move { Ok(request) }.boxed(),
        }
    }
}

async fn pair() -> (Node, Node, Arc<Echo>) {
    pair_of(MeshOptions::VERSIONS, MeshOptions::VERSIONS).await
}

/// Two nodes, each with the protocol versions that it speaks.
async fn pair_of(ones: RangeInclusive<u32>, twos: RangeInclusive<u32>) -> (Node, Node, Arc<Echo>) {
    let authority = Authority::new();
    let one = Node::start(MeshOptions {
        versions: ones,
        ..authority.options(1, vec![])
    })
    .await;
    let two = Node::start(MeshOptions {
        versions: twos,
        ..authority.options(2, vec![route_to(one.addr())])
    })
    .await;
    let echo = Arc::new(Echo::default());
    two.mesh.set_rpc_handler(Arc::<Echo>::clone(&echo));
    one.has_peers(&[2]).await;
    two.has_peers(&[1]).await;
    (one, two, echo)
}

async fn call(
    node: &Node,
    class: RpcClass,
    body: impl Into<Bytes>,
) -> Result<Bytes, TransportError> {
    let answer = node.mesh.call(TWO, class, GROUP, body.into());
    timeout(Duration::from_secs(20), answer)
        .await
        .expect("an answer in time")
}

#[tokio::test]
async fn every_class_is_answered_whatever_the_size() {
    let (one, _two, _echo) = pair().await;
    for class in RpcClass::ALL {
        for size in [0, 1, 100, 16 * 1024, 16 * 1024 + 1, 3 * 1024 * 1024] {
            let body = Bytes::from(vec![class as u8; size]);
            assert_eq!(
                call(&one, class, body.clone()).await.unwrap(),
                body,
                "{class:?} {size}"
            );
        }
    }
}

#[tokio::test]
async fn every_class_is_answered_between_this_version_and_the_one_before() {
    let (before, now) = (1..=1, MeshOptions::VERSIONS);
    for (ones, twos) in [(before.clone(), now.clone()), (now, before)] {
        let (one, _two, _echo) = pair_of(ones, twos).await;
        assert_eq!(one.mesh.protocol(TWO), Some(1));
        for class in RpcClass::ALL {
            let body = Bytes::from(vec![class as u8; 100]);
            assert_eq!(call(&one, class, body.clone()).await.unwrap(), body);
        }
    }
}

#[tokio::test]
async fn a_route_is_told_from_the_one_before() {
    let (one, two, _echo) = pair().await;
    let mut changes = Transport::routes_changed(&*one.mesh);
    let first = one.mesh.route_since(TWO);
    assert!(first.is_some() && one.mesh.route_since(NodeId(1)).is_none());
    two.mesh.shutdown().await;
    let gone = changes.wait_for(|_| one.mesh.route_since(TWO).is_none());
    let gone = timeout(Duration::from_secs(20), gone).await;
    assert!(gone.is_ok_and(|gone| gone.is_ok()));
}

#[tokio::test]
async fn refusals_and_panics_of_the_handler_reach_the_caller() {
    let (one, _two, _echo) = pair().await;
    for class in [RpcClass::Vote, RpcClass::Propose, RpcClass::Read] {
        let refused = TransportError::Refused(TWO, "no such thing".to_owned());
        assert_eq!(call(&one, class, "refuse").await, Err(refused));
        let failed = TransportError::Refused(TWO, "the handler failed".to_owned());
        assert_eq!(call(&one, class, "panic").await, Err(failed));
        assert_eq!(call(&one, class, "still here").await.unwrap(), "still here");
    }
    let large = Bytes::from(vec![0; super::super::limits::RPC_BODY_BYTES_MAX + 1]);
    let error = call(&one, RpcClass::Snapshot, large).await.unwrap_err();
    assert!(matches!(error, TransportError::Refused(..)), "{error}");
}

#[tokio::test]
async fn without_a_handler_a_node_is_not_ready() {
    let authority = Authority::new();
    let one = authority.node(1, vec![]).await;
    let two = authority.node(2, vec![route_to(one.addr())]).await;
    one.has_peers(&[2]).await;
    let refused = TransportError::Refused(TWO, "not ready".to_owned());
    assert_eq!(call(&one, RpcClass::Vote, "?").await, Err(refused.clone()));
    assert_eq!(call(&one, RpcClass::Propose, "?").await, Err(refused));
    two.mesh.set_rpc_handler(Arc::new(Echo::default()));
    assert_eq!(call(&one, RpcClass::Vote, "?").await.unwrap(), "?");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_ordered_calls_arrive_in_order() {
    let (one, _two, echo) = pair().await;
    let sizes = |i: usize| {
        if i.is_multiple_of(500) {
            40_000
        } else {
            8 + i % 3
        }
    };
    let bodies: Vec<Bytes> = (0..10_000)
        .map(|i: usize| {
            let mut body = i.to_be_bytes().to_vec();
            body.resize(sizes(i), 0);
            body.into()
        })
        .collect();
    for class in [RpcClass::Propose, RpcClass::Leader] {
        echo.seen.lock().clear();
        // Called in order, polled in the opposite order.
        let mut answers: Vec<_> = bodies
            .iter()
            .map(|b| one.mesh.call(TWO, class, GROUP, b.clone()))
            .collect();
        answers.reverse();
        let answers = timeout(Duration::from_secs(30), join_all(answers))
            .await
            .unwrap();
        for (answer, body) in answers.iter().rev().zip(&bodies) {
            assert_eq!(answer.as_ref().unwrap(), body);
        }
        let seen = echo.seen.lock();
        assert!(
            seen.iter().map(|(_, body)| body).eq(&bodies),
            "{class:?} out of order"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_unordered_calls_at_once_are_all_answered() {
    let (one, _two, _echo) = pair().await;
    let calls = (0_u32..2000).map(|i| {
        let body = Bytes::copy_from_slice(&i.to_be_bytes());
        let class = [RpcClass::Append, RpcClass::Read, RpcClass::Barrier][i as usize % 3];
        call(&one, class, body)
    });
    for (i, answer) in join_all(calls).await.into_iter().enumerate() {
        assert_eq!(
            &answer.unwrap()[..],
            u32::try_from(i).unwrap().to_be_bytes()
        );
    }
}

#[tokio::test]
async fn abandoned_calls_do_not_use_up_the_connection() {
    let (one, _two, echo) = pair().await;
    for _ in 0..600 {
        let seen = echo.seen.lock().len();
        let hanging = one
            .mesh
            .call(TWO, RpcClass::Barrier, GROUP, Bytes::from_static(b"hang"));
        tokio::select! {
            answer = hanging => panic!("{answer:?}"),
            () = until("the request", || seen >= 256 || echo.seen.lock().len() > seen) => {}
        }
    }
    // The class is full of handlers that hang, and says so; the others go on.
    assert_eq!(call(&one, RpcClass::Vote, "alive").await.unwrap(), "alive");
    let error = call(&one, RpcClass::Barrier, "full").await.unwrap_err();
    assert_eq!(error, TransportError::Refused(TWO, "overloaded".to_owned()));
    echo.never.notify_waiters();
}

#[tokio::test]
async fn calls_to_a_dying_peer_say_that_they_were_lost() {
    let (one, two, echo) = pair().await;
    let calls: Vec<_> = [RpcClass::Append, RpcClass::Propose, RpcClass::Leader]
        .map(|class| {
            one.mesh
                .call(TWO, class, GROUP, Bytes::from_static(b"hang"))
        })
        .into_iter()
        .map(tokio::spawn)
        .collect();
    until("all were seen", || echo.seen.lock().len() == 3).await;
    two.mesh.shutdown().await;
    for answer in join_all(calls).await {
        let error = answer.unwrap().unwrap_err();
        assert!(matches!(error, TransportError::Lost(TWO, _)), "{error}");
    }
    one.has_peers(&[]).await;
    for class in RpcClass::ALL {
        let error = call(&one, class, "too late").await.unwrap_err();
        assert_eq!(error, TransportError::Unreachable(TWO));
    }
}

#[tokio::test]
async fn an_ordered_queue_is_bounded() {
    let (one, _two, _echo) = pair().await;
    // Nothing is polled in between, so nothing leaves the queue.
    let body = Bytes::from(vec![1; 1024 * 1024]);
    let calls: Vec<_> = (0..70)
        .map(|_| one.mesh.call(TWO, RpcClass::Propose, GROUP, body.clone()))
        .collect();
    let answers = timeout(Duration::from_secs(30), join_all(calls))
        .await
        .unwrap();
    let (answered, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((answered.len(), refused.len()), (64, 6));
    for answer in refused {
        let error = answer.unwrap_err();
        assert!(matches!(&error, TransportError::Lost(_, text) if text.contains("overloaded")));
    }
}

#[tokio::test]
async fn a_flood_of_unread_messages_does_not_hold_up_consensus() {
    let (one, _two, _echo) = pair().await;
    let (_recv, mut send) = one.take_stream(2);
    // Node 2 reads none of it, so the stream's window fills and the writer stands still.
    let chunk = Bytes::from(vec![1; 1024 * 1024]);
    let mut written = 0;
    while let Ok(result) =
        timeout(Duration::from_millis(300), send.write_chunk(chunk.clone())).await
    {
        result.unwrap();
        written += 1;
        assert!(written < 64, "the message stream has no bound");
    }
    assert!(written >= 7);
    for class in RpcClass::ALL {
        let body = Bytes::from(vec![2; 3 * 1024 * 1024]);
        let answer = timeout(Duration::from_secs(5), call(&one, class, body.clone())).await;
        assert_eq!(answer.unwrap().unwrap(), body, "{class:?}");
    }
}
