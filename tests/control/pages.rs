//! A web page of a stranger in a browser on the node's host: what it can make the browser send to a node
//! that asks nobody for a login, and what it can read. Beside each attempt the same by a program, or by
//! a page of the node's own.

use serde_json::{Value, json};
use tempfile::TempDir;
use unibus_testkit::{NodeProcess, PATIENCE, eventually, free_port};

use crate::binary;
use crate::people::Person;
use crate::world::{Answer, raw};

const JSON: &str = "content-type: application/json";

/// A node under this mode, and its monitoring port.
async fn node(mode: &str, dir: &TempDir) -> anyhow::Result<(NodeProcess, u16)> {
    let (data, monitor) = (dir.path().join("data"), free_port()?);
    let (data, port) = (data.display().to_string(), monitor.to_string());
    let args = [
        "--bind",
        "127.0.0.1",
        "--monitor-port",
        &port,
        "--bus-auth",
        mode,
        "--data-dir",
        &data,
    ];
    let args = args.iter().map(ToString::to_string).collect();
    let log = dir.path().join("node.log");
    let mut node = NodeProcess::new(binary(), args, log, free_port()?, free_port()?);
    node.start()?;
    eventually("the node serves", PATIENCE, || async {
        let answer = ask(node.http_port, "GET /healthz", &["host: any.example"], "").await?;
        anyhow::ensure!(answer.status == 200, "{}", answer.head);
        Ok(())
    })
    .await?;
    Ok((node, monitor))
}

async fn ask(port: u16, what: &str, fields: &[&str], body: &str) -> anyhow::Result<Answer> {
    let mut head = format!("{what} HTTP/1.1\r\nconnection: close\r\n");
    for field in fields {
        head.push_str(&format!("{field}\r\n"));
    }
    if !body.is_empty() {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    raw(port, [127, 0, 0, 1], format!("{head}\r\n{body}").as_bytes()).await
}

/// Whether the node knows this user.
async fn knows(port: u16, person: &Person) -> anyhow::Result<bool> {
    let users = ask(port, "GET /users", &["host: localhost"], "").await?;
    let users = users.expect(200).json();
    let users = users.as_array().cloned().unwrap_or_default();
    Ok(users
        .iter()
        .any(|user| user["sign_pub"] == person.sign_pub()))
}

async fn pages_change_nothing(mode: &str) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (node, _) = node(mode, &dir).await?;
    let port = node.http_port;
    let own = format!("origin: http://localhost:{port}");
    let (here, elsewhere) = (format!("host: localhost:{port}"), "host: evil.example");
    let page = "origin: https://evil.example";
    let attempts: [(&[&str], u16); 7] = [
        (&[&here, page, "content-type: text/plain"], 403),
        (&[&here, page, JSON], 403),
        (&[&here, "origin: null", JSON], 403),
        (&[&here, "sec-fetch-site: cross-site", JSON], 403),
        (&[elsewhere, "origin: http://evil.example", JSON], 421),
        (&[&here, "content-type: text/plain"], 415),
        (&[&here], 415),
    ];
    let mallory = Person::new();
    let body = |who: &Person| json!({ "sign_pub": who.sign_pub(), "role": "admin" }).to_string();
    for (fields, status) in attempts {
        let answer = ask(port, "POST /users", fields, &body(&mallory)).await?;
        assert_eq!(answer.status, status, "{fields:?}: {}", answer.words());
    }
    assert!(!knows(port, &mallory).await?);
    let seen = ask(port, "GET /users", &[elsewhere], "").await?;
    seen.expect(421);

    let address = format!("host: 127.0.0.1:{port}");
    let legitimate: [&[&str]; 4] = [
        &[&address, JSON],
        &[&here, &own, JSON],
        &[&here, &own, "sec-fetch-site: same-origin", JSON],
        // What clients of earlier versions say.
        &["host: node", "content-type: application/octet-stream"],
    ];
    for fields in legitimate {
        let person = Person::new();
        let added = ask(port, "POST /users", fields, &body(&person)).await?;
        added.expect(201);
        assert!(knows(port, &person).await?, "{fields:?}");
    }
    Ok(())
}

#[tokio::test]
async fn pages_change_nothing_under_off() -> anyhow::Result<()> {
    pages_change_nothing("off").await
}

#[tokio::test]
async fn pages_change_nothing_under_soft() -> anyhow::Result<()> {
    pages_change_nothing("soft").await
}

#[tokio::test]
async fn pages_read_nothing_of_monitoring() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (_node, port) = node("enforce", &dir).await?;
    let document = "GET /connz?subs=1&auth=1&callback=steal";
    let script = ask(port, document, &["host: localhost"], "")
        .await?
        .expect(200);
    assert_eq!(script.header("content-type"), Some("application/json"));
    assert!(script.json()["connections"].is_array(), "{}", script.head);
    for path in ["/connz", "/varz", "/metrics", "/status", "/"] {
        let what = format!("GET {path}");
        ask(port, &what, &["host: evil.example"], "")
            .await?
            .expect(421);
        for own in ["host: localhost", "host: 127.0.0.1", "host: node-1:8222"] {
            ask(port, &what, &[own], "").await?.expect(200);
        }
    }
    let health: Value = ask(port, "GET /healthz", &["host: any.example"], "")
        .await?
        .json();
    assert!(health["status"].is_string(), "{health}");
    Ok(())
}
