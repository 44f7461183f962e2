//! The OpenAPI document against the server: every call it describes is there, and answers with a
//! status that it describes.

use anyhow::Context;
use serde_json::Value;

use crate::people::Request;
use crate::world::World;

#[tokio::test]
async fn the_server_answers_as_the_document_says() -> anyhow::Result<()> {
    let world = World::single().await?;
    let (person, port) = (world.person().await?, world.http[0]);
    let document = person.get(port, "/openapi.json").await?.expect(200).json();
    assert_eq!(&document, unibus_node::control::openapi_document());
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().context("paths")?;
    let mut calls = 0;
    for (path, methods) in paths {
        let uri = path
            .replace("{room}", "none")
            .replace("{endpoint}", person.endpoint().as_str())
            .replace("{hash}", &"0".repeat(64))
            .replace("{key}", &person.sign_pub());
        for (method, operation) in methods.as_object().context("methods")? {
            let method = method.to_ascii_uppercase();
            let signed = person.request(&method, &uri, b"");
            let mut nameless = signed.clone();
            nameless.headers.clear();
            let open = operation["security"].as_array().is_some_and(Vec::is_empty);
            let answered = check(port, &nameless, operation).await?;
            assert_eq!(
                answered == 401,
                !open,
                "{method} {path} without a signature"
            );
            check(port, &signed, operation).await?;
            calls += 1;
        }
    }
    assert_eq!(calls, 20);
    // What the document does not have, the server does not have either.
    for (method, uri, status) in [("GET", "/varz", 404), ("PUT", "/rooms", 405)] {
        person
            .request(method, uri, b"")
            .send(port)
            .await?
            .expect(status);
    }
    Ok(())
}

async fn check(port: u16, request: &Request, operation: &Value) -> anyhow::Result<u16> {
    let mut stream = crate::world::connect(port, request.from).await?;
    tokio::io::AsyncWriteExt::write_all(&mut stream, &request.bytes()).await?;
    let answer = crate::world::read_answer(&mut stream, request.method == "HEAD").await?;
    let described = &operation["responses"][answer.status.to_string()];
    assert!(
        !described.is_null(),
        "{} {}: {answer:?}",
        request.method,
        request.uri
    );
    Ok(answer.status)
}
