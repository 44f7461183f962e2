//! One node's JetStream as standard clients see it: a real broker, a real replica in a temporary
//! folder, and async-nats over loopback TCP.

mod archives;
mod authority;
mod fast;
mod letters;
mod scheduled;
mod streams;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{DeliverPolicy, push};
use async_nats::jetstream::kv;
use async_nats::jetstream::stream::Config as ClientStreamConfig;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use unibus_broker::{
    Admission, AuthRequest, Authenticator, Broker, BrokerOptions, Decision, Grant,
};
use unibus_proto::NodeId;
use unibus_proto::permissions::{Permissions, SubjectSet};
use unibus_raft::{
    GroupId, InitializeError, Observer, OnDamage, OpenStore, Replica, ReplicaOptions, RpcClass,
    Transport, TransportError,
};
use unibus_state::{Effect, State};

use super::{JetStream, JetStreamHooks, JetStreamOptions};

/// Every wait of these tests.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node without peers, that may be told of a route to one.
#[derive(Debug, Default)]
pub(super) struct Alone {
    pub(super) route: Mutex<Option<Instant>>,
}

impl Transport for Alone {
    fn call(
        &self,
        target: NodeId,
        _class: RpcClass,
        _group: GroupId,
        _request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        Box::pin(async move { Err(TransportError::Unreachable(target)) })
    }

    fn connected(&self) -> Vec<NodeId> {
        Vec::new()
    }

    fn protocol(&self, _peer: NodeId) -> Option<u32> {
        None
    }

    fn route_since(&self, _peer: NodeId) -> Option<Instant> {
        *self.route.lock()
    }
}

/// Admits everybody; a client that calls itself "internal" counts as the node, one that calls itself
/// "member" may only what [`Node::grant`] says.
struct Open {
    everybody: watch::Sender<Grant>,
    members: watch::Sender<Grant>,
}

impl Authenticator for Open {
    fn authenticate(&self, request: &AuthRequest<'_>) -> Decision {
        let name = request.connect.name.as_deref();
        let grant = match name {
            Some("member") => &self.members,
            _ => &self.everybody,
        };
        Decision::Now(Ok(Admission {
            internal: name == Some("internal"),
            ..Admission::new(grant.subscribe())
        }))
    }
}

struct Watcher(JetStreamHooks);

impl Observer for Watcher {
    fn applied(&self, state: &State, effects: &[Effect]) {
        self.0.applied(state, effects);
    }
}

pub(super) struct Node {
    broker: Broker,
    pub(super) jetstream: JetStream,
    pub(super) link: Arc<Alone>,
    replica: Replica,
    address: String,
    members: watch::Sender<Grant>,
    stop: watch::Sender<bool>,
    dir: tempfile::TempDir,
}

impl Node {
    pub(super) async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    async fn start_in(dir: tempfile::TempDir) -> Self {
        Self::with_options(dir, JetStreamOptions::new("n1")).await
    }

    async fn with_options(dir: tempfile::TempDir, own: JetStreamOptions) -> Self {
        let hooks = JetStreamHooks::new();
        let replica = soon(open(dir.path(), &hooks)).await;
        let id = replica.id();
        match replica.initialize([(id, "n1".to_owned())].into()).await {
            Ok(()) | Err(InitializeError::NotPristine) => {}
            Err(error) => panic!("{error}"),
        }
        let mut leadership = replica.leadership();
        let leads = leadership.wait_for(|known| known.is_leader);
        tokio::time::timeout(PATIENCE, leads)
            .await
            .unwrap()
            .unwrap();

        let members = watch::Sender::new(Grant::Active(Arc::new(Permissions::none())));
        let access = Open {
            everybody: watch::Sender::new(Grant::Active(Arc::new(Permissions::all()))),
            members: members.clone(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let options = BrokerOptions {
            jetstream: true,
            api_level: 1,
            ..BrokerOptions::default()
        };
        let link = Arc::new(Alone::default());
        let broker = Broker::new(options, Arc::new(access));
        let jetstream =
            JetStream::start(broker.clone(), replica.clone(), own, link.clone(), &hooks);
        let (stop, stopped) = watch::channel(false);
        let serving = broker.clone();
        tokio::spawn(async move { serving.serve(listener, stopped).await });
        Self {
            broker,
            jetstream,
            link,
            replica,
            address,
            members,
            stop,
            dir,
        }
    }

    pub(super) async fn client(&self) -> async_nats::Client {
        async_nats::connect(&self.address).await.unwrap()
    }

    /// Says what members may publish to and subscribe to, besides their inboxes.
    fn grant(&self, publish: &[&str], subscribe: &[&str]) {
        let filters = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
        let subscribe: Vec<_> = [subscribe, &["_INBOX.>"]].concat();
        let permissions = Permissions {
            publish: SubjectSet::allowing(filters(publish)),
            subscribe: SubjectSet::allowing(filters(&subscribe)),
            ..Permissions::all()
        };
        self.members
            .send_replace(Grant::Active(Arc::new(permissions)));
    }

    async fn member(&self) -> async_nats::Client {
        let options = async_nats::ConnectOptions::new().name("member");
        soon(options.connect(&self.address)).await.unwrap()
    }

    async fn context(&self) -> async_nats::jetstream::Context {
        async_nats::jetstream::new(self.client().await)
    }

    async fn bucket(&self, history: i64) -> kv::Store {
        let config = kv::Config {
            bucket: "b".into(),
            history,
            ..kv::Config::default()
        };
        self.context().await.create_key_value(config).await.unwrap()
    }

    pub(super) async fn stop(self) -> tempfile::TempDir {
        self.jetstream.shutdown();
        let _ = self.stop.send(true);
        self.broker.shutdown(PATIENCE).await;
        self.replica.shutdown().await;
        self.dir
    }
}

/// Opens the replica. The tasks of one that stopped a moment ago may still hold its folder.
async fn open(dir: &Path, hooks: &JetStreamHooks) -> Replica {
    loop {
        let observer = Arc::new(Watcher(hooks.clone()));
        match OpenStore::open(ReplicaOptions::new(dir, "n1"), OnDamage::Refuse) {
            Ok(store) => {
                let alone = Arc::new(Alone::default());
                let started = Replica::start(store, alone, observer).await;
                return started.unwrap();
            }
            Err(error) => assert!(error.to_string().contains("in use"), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A request of the API and its answer.
pub(super) async fn ask(client: &async_nats::Client, subject: &str, body: &Value) -> Value {
    let body = match body {
        Value::Null => Bytes::new(),
        body => body.to_string().into(),
    };
    let request = client.request(subject.to_owned(), body);
    serde_json::from_slice(&soon(request).await.unwrap().payload).unwrap()
}

pub(super) async fn soon<T>(what: impl IntoFuture<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what)
        .await
        .expect("too late")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_created_published_to_and_told_of() {
    let node = Node::start().await;
    let context = node.context().await;
    let config = ClientStreamConfig {
        name: "S".into(),
        subjects: vec!["s.>".into()],
        ..ClientStreamConfig::default()
    };
    let mut stream = soon(context.create_stream(config.clone())).await.unwrap();
    for expected in 1..=3 {
        let ack = soon(context.publish("s.a", "x".into())).await.unwrap();
        let ack = soon(ack).await.unwrap();
        assert_eq!((ack.stream.as_str(), ack.sequence), ("S", expected));
    }
    let info = soon(stream.info()).await.unwrap();
    assert_eq!(info.state.messages, 3);
    assert_eq!(info.cluster.as_ref().unwrap().leader.as_deref(), Some("n1"));
    soon(context.create_stream(config)).await.unwrap();
    assert_eq!(
        soon(stream.get_raw_message(2)).await.unwrap().payload,
        Bytes::from("x")
    );
    soon(stream.delete_message(2)).await.unwrap();
    assert!(soon(stream.get_raw_message(2)).await.is_err());
    let names: Vec<_> = soon(context.stream_names().collect::<Vec<_>>()).await;
    assert_eq!(
        names.into_iter().map(Result::unwrap).collect::<Vec<_>>(),
        ["S"]
    );
    assert_eq!(soon(stream.purge()).await.unwrap().purged, 2);
    soon(context.delete_stream("S")).await.unwrap();
    let gone = soon(context.publish("s.a", "x".into())).await.unwrap();
    assert!(
        soon(gone).await.is_err(),
        "nobody captures the subject any more"
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_put_got_compared_and_removed() {
    let node = Node::start().await;
    let bucket = soon(node.bucket(5)).await;
    assert_eq!(soon(bucket.put("k", "1".into())).await.unwrap(), 1);
    assert_eq!(soon(bucket.get("k")).await.unwrap(), Some(Bytes::from("1")));
    assert_eq!(soon(bucket.get("none")).await.unwrap(), None);
    assert_eq!(soon(bucket.update("k", "2".into(), 1)).await.unwrap(), 2);
    assert!(
        soon(bucket.update("k", "3".into(), 1)).await.is_err(),
        "revision 1 is not the last"
    );
    assert!(
        soon(bucket.create("k", "x".into())).await.is_err(),
        "the key exists"
    );
    let entry = soon(bucket.entry("k")).await.unwrap().unwrap();
    assert_eq!((entry.value, entry.revision), (Bytes::from("2"), 2));
    soon(bucket.delete("k")).await.unwrap();
    assert_eq!(soon(bucket.get("k")).await.unwrap(), None);
    soon(bucket.create("k", "4".into())).await.unwrap();
    soon(bucket.purge("k")).await.unwrap();
    assert_eq!(soon(bucket.get("k")).await.unwrap(), None);
    let mut stream = soon(async { node.context().await.get_stream("KV_b").await })
        .await
        .unwrap();
    assert_eq!(
        soon(stream.info()).await.unwrap().state.messages,
        1,
        "only the purge is left"
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_and_keys_end_and_watches_go_on() {
    let node = Node::start().await;
    let bucket = soon(node.bucket(5)).await;
    for (key, value) in [("a", "1"), ("b", "2"), ("a", "3")] {
        soon(bucket.put(key, value.into())).await.unwrap();
    }
    let history: Vec<_> =
        soon(async { bucket.history("a").await.unwrap().collect::<Vec<_>>().await }).await;
    let values: Vec<_> = history
        .into_iter()
        .map(|entry| entry.unwrap().value)
        .collect();
    assert_eq!(values, [Bytes::from("1"), Bytes::from("3")]);
    let keys: Vec<_> = soon(async { bucket.keys().await.unwrap().collect::<Vec<_>>().await }).await;
    let mut keys: Vec<_> = keys.into_iter().map(Result::unwrap).collect();
    keys.sort();
    assert_eq!(keys, ["a", "b"]);

    let mut watch = soon(bucket.watch_with_history(">")).await.unwrap();
    for expected in ["2", "3"] {
        let entry = soon(watch.next()).await.unwrap().unwrap();
        assert_eq!(entry.value, Bytes::from(expected));
    }
    for round in 0..20 {
        soon(bucket.put("live", round.to_string().into()))
            .await
            .unwrap();
        let entry = soon(watch.next()).await.unwrap().unwrap();
        assert_eq!(
            (entry.key.as_str(), entry.value),
            ("live", Bytes::from(round.to_string()))
        );
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordered_consumer_gets_everything_in_order_under_flow_control() {
    const MESSAGES: usize = 3000;
    let node = Node::start().await;
    let context = node.context().await;
    let stream = soon(context.create_stream(ClientStreamConfig {
        name: "S".into(),
        subjects: vec!["s.>".into()],
        ..ClientStreamConfig::default()
    }))
    .await
    .unwrap();
    let payload = Bytes::from(vec![7_u8; 4096]);
    let mut acks = Vec::new();
    for _ in 0..MESSAGES {
        acks.push(soon(context.publish("s.a", payload.clone())).await.unwrap());
    }
    for ack in acks {
        soon(ack).await.unwrap();
    }
    let consumer = soon(stream.create_consumer(push::OrderedConfig {
        deliver_subject: "_INBOX.ordered".into(),
        deliver_policy: DeliverPolicy::All,
        ..push::OrderedConfig::default()
    }))
    .await
    .unwrap();
    let mut messages = soon(consumer.messages()).await.unwrap();
    for expected in 1..=MESSAGES {
        let message = soon(messages.next()).await.unwrap().unwrap();
        let info = message.info().unwrap();
        assert_eq!(info.stream_sequence, expected as u64);
        assert_eq!(info.pending, (MESSAGES - expected) as u64);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_plane_buckets_are_hidden_and_shut() {
    let node = Node::start().await;
    let inside = async_nats::ConnectOptions::new()
        .name("internal")
        .connect(&node.address);
    let inside = async_nats::jetstream::new(soon(inside).await.unwrap());
    let config = kv::Config {
        bucket: "UNIBUS_users".into(),
        ..kv::Config::default()
    };
    let users = soon(inside.create_key_value(config)).await.unwrap();
    soon(users.put("u", "1".into())).await.unwrap();
    let outside = node.context().await;
    assert!(soon(outside.get_stream("KV_UNIBUS_users")).await.is_err());
    assert!(soon(outside.get_key_value("UNIBUS_users")).await.is_err());
    let names: Vec<_> = soon(outside.stream_names().collect::<Vec<_>>()).await;
    assert!(names.is_empty());
    let refused = soon(outside.publish("$KV.UNIBUS_users.u", "2".into()))
        .await
        .unwrap();
    assert!(soon(refused).await.is_err());
    assert_eq!(soon(users.get("u")).await.unwrap(), Some(Bytes::from("1")));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_streams_and_their_subjects() {
    let node = Node::start().await;
    let bucket = soon(node.bucket(1)).await;
    soon(bucket.put("k", "before".into())).await.unwrap();
    let dir = node.stop().await;
    let node = Node::start_in(dir).await;
    let bucket = soon(async { node.context().await.get_key_value("b").await })
        .await
        .unwrap();
    assert_eq!(
        soon(bucket.get("k")).await.unwrap(),
        Some(Bytes::from("before"))
    );
    assert_eq!(soon(bucket.put("k", "after".into())).await.unwrap(), 2);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_requests_get_the_words_that_clients_match() {
    let node = Node::start().await;
    let client = node.client().await;
    let ask = async |subject: &str, body: &str| {
        let answer = soon(client.request(subject.to_owned(), body.to_owned().into()))
            .await
            .unwrap();
        String::from_utf8(answer.payload.to_vec()).unwrap()
    };
    assert_eq!(
        ask("$JS.API.STREAM.INFO.S", "").await,
        r#"{"type":"io.nats.jetstream.api.v1.stream_info_response","error":{"code":404,"err_code":10059,"description":"stream not found"},"total":0,"offset":0,"limit":0}"#
    );
    let created = ask(
        "$JS.API.STREAM.CREATE.S",
        r#"{"name":"S","subjects":["s.>"],"allow_direct":true}"#,
    )
    .await;
    assert!(created.starts_with(
        r#"{"type":"io.nats.jetstream.api.v1.stream_create_response","config":{"name":"S","subjects":["s."#
    ), "{created}");
    assert!(created.ends_with(r#","did_create":true}"#), "{created}");
    assert_eq!(ask("s.a", "v").await, r#"{"stream":"S","seq":1}"#);
    assert!(
        ask("$JS.API.NOPE", "")
            .await
            .contains(r#""err_code":10003"#)
    );
    let direct = soon(client.request("$JS.API.DIRECT.GET.S.s.a", "".into()))
        .await
        .unwrap();
    assert_eq!(direct.payload, Bytes::from("v"));
    let headers = direct.headers.unwrap();
    assert_eq!(headers.get("Nats-Sequence").unwrap().as_str(), "1");
    assert_eq!(headers.get("Nats-Stream").unwrap().as_str(), "S");
    let missing = soon(client.request("$JS.API.DIRECT.GET.S.s.b", "".into()))
        .await
        .unwrap();
    assert_eq!(missing.status.unwrap().as_u16(), 404);
    let no_stream = soon(client.request("$JS.API.DIRECT.GET.T.s.b", "".into())).await;
    assert!(no_stream.is_err(), "no responders");
    node.stop().await;
}

/// Repeats a request until its answer contains `wanted`.
async fn until_answer(client: &async_nats::Client, subject: &str, wanted: &str) {
    soon(async {
        loop {
            let answer = client.request(subject.to_owned(), "".into()).await.unwrap();
            if String::from_utf8_lossy(&answer.payload).contains(wanted) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn push_consumers_live_while_somebody_listens() {
    let node = Node::start().await;
    let client = node.client().await;
    let create = r#"{"name":"S","subjects":["s.>"]}"#;
    soon(client.request("$JS.API.STREAM.CREATE.S", create.into()))
        .await
        .unwrap();
    soon(client.request("s.a", "payload".into())).await.unwrap();
    let mut inbox = soon(client.subscribe("deliver.here")).await.unwrap();
    let create = r#"{"stream_name":"S","config":{"name":"c","deliver_subject":"deliver.here","headers_only":true,"idle_heartbeat":100000000,"inactive_threshold":200000000}}"#;
    let created = soon(client.request("$JS.API.CONSUMER.CREATE.S.c", create.into()))
        .await
        .unwrap();
    let created = String::from_utf8(created.payload.to_vec()).unwrap();
    assert!(created.contains(r#""num_pending":1"#), "{created}");

    let message = soon(inbox.next()).await.unwrap();
    assert_eq!(message.subject.as_str(), "s.a");
    assert!(message.reply.unwrap().starts_with("$JS.ACK.S.c.1.1.1."));
    assert!(message.payload.is_empty());
    assert_eq!(
        message
            .headers
            .unwrap()
            .get("Nats-Msg-Size")
            .unwrap()
            .as_str(),
        "7"
    );
    let beat = soon(inbox.next()).await.unwrap();
    assert_eq!(beat.status.unwrap().as_u16(), 100);
    assert_eq!(
        beat.headers
            .unwrap()
            .get("Nats-Last-Consumer")
            .unwrap()
            .as_str(),
        "1"
    );
    until_answer(
        &client,
        "$JS.API.CONSUMER.INFO.S.c",
        r#""delivered":{"consumer_seq":1,"#,
    )
    .await;
    until_answer(&client, "$JS.API.CONSUMER.NAMES.S", r#""consumers":["c"]"#).await;

    soon(inbox.unsubscribe()).await.unwrap();
    until_answer(&client, "$JS.API.CONSUMER.INFO.S.c", r#""err_code":10014"#).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_direct_gets_end_with_a_status() {
    let node = Node::start().await;
    let client = node.client().await;
    let create = r#"{"name":"S","subjects":["s.>"],"allow_direct":true}"#;
    soon(client.request("$JS.API.STREAM.CREATE.S", create.into()))
        .await
        .unwrap();
    for subject in ["s.a", "s.b", "s.a"] {
        soon(client.request(subject, subject.into())).await.unwrap();
    }
    let mut inbox = soon(client.subscribe("answers")).await.unwrap();
    let bodies = [
        (
            r#"{"seq":1,"next_by_subj":"s.a","batch":5}"#,
            ["1", "3"],
            "3",
        ),
        (r#"{"multi_last":["s.*"]}"#, ["2", "3"], "3"),
    ];
    for (body, seqs, last) in bodies {
        let sent = client.publish_with_reply("$JS.API.DIRECT.GET.S", "answers", body.into());
        soon(sent).await.unwrap();
        for (place, seq) in seqs.into_iter().enumerate() {
            let headers = soon(inbox.next()).await.unwrap().headers.unwrap();
            assert_eq!(headers.get("Nats-Sequence").unwrap().as_str(), seq);
            assert_eq!(
                headers.get("Nats-Num-Pending").unwrap().as_str(),
                ["1", "0"][place]
            );
        }
        let end = soon(inbox.next()).await.unwrap();
        assert_eq!(end.status.unwrap().as_u16(), 204);
        assert_eq!(
            end.headers
                .unwrap()
                .get("Nats-Last-Sequence")
                .unwrap()
                .as_str(),
            last
        );
    }
    node.stop().await;
}

#[tokio::test]
async fn a_leader_whose_voters_know_the_newest_rules_raises_them() {
    let node = Node::start().await;
    let mut applied = node.replica.applied_index();
    while node.replica.with_state(State::rules) < unibus_state::Rules::NEWEST {
        soon(applied.changed()).await.unwrap();
    }
    node.stop().await;
}
