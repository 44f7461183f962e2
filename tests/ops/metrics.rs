//! The names that alert rules and the dashboard use are the names that a node tells.

use std::collections::BTreeSet;
use std::path::Path;

use unibus_testkit::{NodeProcess, PATIENCE, free_port, http_get};

use crate::text;

const RULES: &str = "ops/prometheus/alerts.yaml";
const DASHBOARD: &str = "ops/grafana/dashboard.json";

/// What only nodes with routes tell; `tests/cluster/identity.rs` looks whether they do.
const OF_ROUTES: &str = "unibus_route_certificate_not_after_seconds";

/// Words that are this program's or its process's.
fn names(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("unibus_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

/// What a node with a stream and a consumer tells.
async fn told() -> BTreeSet<String> {
    let dir = tempfile::tempdir().unwrap();
    let monitor = free_port().unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_unibus-node"));
    let data = dir.path().join("data").display().to_string();
    let arguments = ["--data-dir", &data, "--monitor-port", &monitor.to_string()];
    let mut node = NodeProcess::new(
        binary,
        arguments.map(str::to_owned).to_vec(),
        dir.path().join("log"),
        free_port().unwrap(),
        free_port().unwrap(),
    );
    node.start().unwrap();
    node.ready(PATIENCE).await.unwrap();
    let client = async_nats::connect(node.url()).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let stream = async_nats::jetstream::stream::Config {
        name: "S".to_owned(),
        ..Default::default()
    };
    let stream = context.create_stream(stream).await.unwrap();
    let consumer = async_nats::jetstream::consumer::pull::Config {
        durable_name: Some("C".to_owned()),
        ..Default::default()
    };
    stream.create_consumer(consumer).await.unwrap();
    let (status, metrics) = http_get(monitor, "/metrics").await.unwrap();
    assert_eq!(status, 200);
    let lines = metrics.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split(['{', ' ']).next())
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn rules_and_dashboard_use_names_that_nodes_tell() {
    let mut told = told().await;
    told.insert(OF_ROUTES.to_owned());
    for path in [RULES, DASHBOARD] {
        let used = names(&text(path));
        let unknown: Vec<_> = used.difference(&told).collect();
        assert!(used.len() > 10, "{path} names hardly anything: {used:?}");
        assert!(
            unknown.is_empty(),
            "{path} names what no node tells: {unknown:?}"
        );
    }
    // Whatever a node tells is somewhere on the dashboard.
    let shown = names(&text(DASHBOARD));
    let unseen: Vec<_> = told.difference(&shown).collect();
    assert!(unseen.is_empty(), "not on the dashboard: {unseen:?}");
}

#[test]
fn the_dashboard_is_json_with_a_panel_for_each_place() {
    let dashboard: serde_json::Value = serde_json::from_str(&text(DASHBOARD)).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut places = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in panels {
        let (x, y) = (&panel["gridPos"]["x"], &panel["gridPos"]["y"]);
        assert!(
            places.insert((x.as_u64(), y.as_u64())),
            "two panels at {x}, {y}"
        );
        assert!(ids.insert(panel["id"].as_u64()), "{}", panel["title"]);
    }
    assert!(panels.len() > 20);
}
