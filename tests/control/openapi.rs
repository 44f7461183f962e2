//! The OpenAPI document against the server, both ways: every call it describes is there, and whatever
//! the server answers to any request of this suite has a status and a shape that it describes.

use anyhow::Context;
use serde_json::Value;
use unibus_node::control::openapi_document;

use crate::people::Request;
use crate::world::{Answer, World};

/// Asserts that the document describes an answer: its path and method, its status, its fields. Every
/// request that a person of these tests sends goes through here.
pub(crate) fn describes(request: &Request, answer: &Answer) {
    let path = request.uri.split('?').next().unwrap_or_default();
    let paths = openapi_document()["paths"].as_object();
    let mut found = paths.into_iter().flatten();
    let Some((_, methods)) = found.find(|(template, _)| fits(template, path)) else {
        assert!(
            [401, 404, 429].contains(&answer.status),
            "the document has no {path}, and the server answers {}",
            answer.status
        );
        return;
    };
    let operation = &methods[request.method.to_ascii_lowercase()];
    if operation.is_null() {
        let status = answer.status;
        assert!(
            [405, 429].contains(&status),
            "the document has no {} {path}, and the server answers {status}",
            request.method
        );
        return;
    }
    let response = &operation["responses"][answer.status.to_string()];
    let at = format!("{} {path} {}", request.method, answer.status);
    assert!(
        !response.is_null(),
        "{at} is not in the document: {answer:?}"
    );
    let schema = &response["content"]["application/json"]["schema"];
    if !schema.is_null() && request.method != "HEAD" {
        check_shape(&at, schema, &answer.json());
    }
}

/// Whether a path is one of those that a template stands for.
fn fits(template: &str, path: &str) -> bool {
    let (wanted, found) = (template.split('/'), path.split('/'));
    template.split('/').count() == path.split('/').count()
        && wanted
            .zip(found)
            .all(|(wanted, found)| wanted == found || wanted.starts_with('{'))
}

/// Asserts that a value is what a schema says, and has no field that it does not name.
fn check_shape(at: &str, schema: &Value, value: &Value) {
    if let Some(reference) = schema["$ref"].as_str() {
        let schema = openapi_document().pointer(reference.trim_start_matches('#'));
        return check_shape(at, schema.expect("a schema"), value);
    }
    if let Some(forms) = schema["oneOf"].as_array() {
        let kinds = forms.iter().filter(|form| is_a(&form["type"], value));
        assert_eq!(kinds.count(), 1, "{at}: {value}");
        return;
    }
    assert!(
        is_a(&schema["type"], value),
        "{at}: {value} is no {}",
        schema["type"]
    );
    if let Some(words) = schema["enum"].as_array() {
        assert!(words.contains(value), "{at}: {value}");
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        let name = name.as_str().unwrap_or_default();
        assert!(
            value.get(name).is_some(),
            "{at}: {name} is missing in {value}"
        );
    }
    for item in value.as_array().into_iter().flatten() {
        check_shape(at, &schema["items"], item);
    }
    for (name, field) in value.as_object().into_iter().flatten() {
        let named = &schema["properties"][name];
        assert!(!named.is_null(), "{at}: the document has no field {name}");
        check_shape(&format!("{at}.{name}"), named, field);
    }
}

/// Whether a value is of a JSON type, or of one of several.
fn is_a(types: &Value, value: &Value) -> bool {
    let is = |name: &Value| match name.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        _ => false,
    };
    types
        .as_array()
        .map_or_else(|| is(types), |types| types.iter().any(is))
}

#[tokio::test]
async fn the_server_answers_as_the_document_says() -> anyhow::Result<()> {
    let world = World::single().await?;
    let (person, port) = (world.person().await?, world.http[0]);
    let document = person.get(port, "/openapi.json").await?.expect(200).json();
    assert_eq!(&document, openapi_document());
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
    assert_eq!(calls, 21);
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
