//! The OpenAPI 3.1 document of the HTTP API, made from the table that routes requests, so that no
//! call can be in one and not in the other.

use std::sync::LazyLock;

use hyper::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::plane::Call;
use super::refusal::Refusal;
use super::reply::{self, Body};
use super::router::{COMMON_ANSWERS, Operation, ROUTES, Route, Takes};

const SCHEMAS: &str = include_str!("openapi-schemas.json");

static DOCUMENT: LazyLock<Value> = LazyLock::new(build);

/// The document.
#[must_use]
pub fn document() -> &'static Value {
    &DOCUMENT
}

pub(crate) async fn show(mut call: Call<'_>) -> Result<Response<Body>, Refusal> {
    call.claim().await?;
    Ok(reply::json(StatusCode::OK, document()))
}

fn build() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in &ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        if let Value::Object(methods) = path {
            methods.insert(route.method.to_ascii_lowercase(), operation(route));
        }
    }
    // A file of this crate, held by a test.
    let schemas: Value = serde_json::from_str(SCHEMAS).unwrap_or_default();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "unibus control plane",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Users, rooms, members, sealed keys and blobs. Every call but /healthz and /livez is signed: X-Unibus-Signature is Ed25519 over the lines UNIBUS-REQUEST-1, method, path and query as sent, timestamp, nonce, hex SHA-256 of the body.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "signedRequest": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-Unibus-Signature",
                    "description": "with X-Unibus-Key, X-Unibus-Timestamp and X-Unibus-Nonce",
                },
            },
        },
    })
}

fn operation(route: &Route) -> Value {
    let open = matches!(route.operation, Operation::Healthz | Operation::Livez);
    let mut responses = Map::new();
    let common: &[u16] = if open { &[413, 429] } else { &COMMON_ANSWERS };
    for status in route.answers.iter().chain(common) {
        responses.insert(status.to_string(), response(route, *status));
    }
    let mut operation = json!({
        "operationId": format!("{:?}", route.operation),
        "summary": route.summary,
        "description": format!("Who: {}.", route.who),
        "parameters": parameters(route),
        "responses": responses,
        "security": if open { json!([]) } else { json!([{ "signedRequest": [] }]) },
    });
    if let (Some(body), Value::Object(fields)) = (request_body(route.takes), &mut operation) {
        fields.insert("requestBody".into(), body);
    }
    operation
}

fn parameters(route: &Route) -> Vec<Value> {
    let names = route.path.split('/').filter_map(|segment| {
        let name = segment.strip_prefix('{')?;
        name.strip_suffix('}')
    });
    let text = json!({ "type": "string" });
    let mut all: Vec<Value> = names
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": text }))
        .collect();
    if route.operation == Operation::GetKey {
        all.push(json!({ "name": "endpoint", "in": "query", "required": true, "schema": text }));
    }
    if matches!(route.operation, Operation::GetKey | Operation::ListKeys) {
        all.push(json!({ "name": "epoch", "in": "query", "schema": { "type": "integer" } }));
    }
    if route.method != "GET" && route.method != "HEAD" && route.operation != Operation::PutBlob {
        let all_nodes = json!({ "type": "string", "enum": ["all"] });
        all.push(json!({ "name": "wait", "in": "query", "schema": all_nodes }));
    }
    all
}

fn request_body(takes: Takes) -> Option<Value> {
    let schema = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    let (required, media, schema) = match takes {
        Takes::Nothing => return None,
        Takes::Json(name) | Takes::LargeJson(name) => (true, "application/json", schema(name)),
        Takes::MaybeJson(name) => (false, "application/json", schema(name)),
        Takes::Bytes => (
            true,
            "application/octet-stream",
            json!({ "type": "string", "format": "binary" }),
        ),
    };
    Some(json!({ "required": required, "content": { media: { "schema": schema } } }))
}

/// The schema of a call's answer.
fn answer_schema(operation: Operation) -> Value {
    let one = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    let many = |name: &str| json!({ "type": "array", "items": one(name) });
    match operation {
        Operation::CreateRoom
        | Operation::GetRoom
        | Operation::Leave
        | Operation::RemoveMember
        | Operation::Rekey => one("Room"),
        Operation::Invite | Operation::Join => one("Member"),
        Operation::ListMembers => many("Member"),
        Operation::ListFormer => many("FormerMember"),
        Operation::GetKey => one("Key"),
        Operation::ListKeys => many("Key"),
        Operation::MyRooms => many("MyRoom"),
        Operation::PutBlob => one("Blob"),
        Operation::ListUsers => many("User"),
        Operation::Healthz => one("Health"),
        Operation::Livez => one("Alive"),
        Operation::AddUser | Operation::RevokeUser => one("User"),
        _ => json!({ "type": "object" }),
    }
}

fn response(route: &Route, status: u16) -> Value {
    let words = StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("?");
    let is_blob = matches!(route.operation, Operation::GetBlob | Operation::HeadBlob);
    match status {
        200..=299 if is_blob => json!({
            "description": words,
            "content": { "application/octet-stream": {} },
        }),
        503 if route.operation == Operation::Healthz => json!({
            "description": "no quorum, or a closed store",
            "content": { "application/json": { "schema": answer_schema(route.operation) } },
        }),
        200..=299 if route.operation == Operation::OpenApi => json!({
            "description": words,
            "content": { "application/json": {} },
        }),
        200..=299 => json!({
            "description": words,
            "content": { "application/json": { "schema": answer_schema(route.operation) } },
        }),
        _ => json!({
            "description": words,
            "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } },
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every `$ref` of the document.
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn the_document_has_every_call_and_every_schema_it_names() {
        let document = document();
        for route in &ROUTES {
            let method = route.method.to_ascii_lowercase();
            let operation = &document["paths"][route.path][&method];
            assert_eq!(
                operation["summary"], route.summary,
                "{} {}",
                route.method, route.path
            );
        }
        let mut found = Vec::new();
        references(document, &mut found);
        assert!(found.len() > ROUTES.len());
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }
}
