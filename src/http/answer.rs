//! The route table of both listeners as one pure function: method and path in, answer out. JSON
//! only; errors are `{"error": …}` in words for a person, never a path of ours or a debug print.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Response, StatusCode};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::health::{Document, HealthReport, HealthSource};
use super::server::Surface;

/// The body of every answer.
pub(crate) type Body = Full<Bytes>;

/// Ends the connection with this answer where nobody else can have one: that it is kept for further requests
/// is for when there is room, or who asks now and then holds a place for ever.
pub(crate) fn yield_place<B>(response: &mut Response<B>, connections: &Semaphore) {
    if connections.available_permits() == 0 {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
}

/// Answers one request on a surface. HEAD gets what GET would; hyper leaves its body out.
pub(crate) fn answer(
    surface: Surface,
    method: &Method,
    path: &str,
    source: &dyn HealthSource,
) -> Response<Body> {
    let known = matches!(path, "/healthz" | "/livez")
        || (surface == Surface::Monitor && matches!(path, "/varz" | "/"));
    if !known {
        return error(StatusCode::NOT_FOUND, "nothing is here");
    }
    if method != Method::GET && method != Method::HEAD {
        let mut refused = error(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET and HEAD work here",
        );
        refused
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match path {
        "/healthz" => healthz(source.health()),
        "/livez" => reply(StatusCode::OK, &json!({ "status": "ok" })),
        "/varz" => reply(StatusCode::OK, &source.varz()),
        _ => reply(
            StatusCode::OK,
            &json!({ "endpoints": ["/healthz", "/livez", "/varz"] }),
        ),
    }
}

#[derive(Serialize)]
struct Healthz<'a> {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    report: &'a HealthReport,
}

fn healthz(report: HealthReport) -> Response<Body> {
    let ailments = report.ailments();
    let (code, status, error) = if ailments.is_empty() {
        (StatusCode::OK, "ok", None)
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            Some(ailments.join("; ")),
        )
    };
    reply(
        code,
        &Healthz {
            status,
            error,
            report: &report,
        },
    )
}

/// A document as it is, its text aside.
pub(super) fn document(document: &Document, text: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(text));
    *response.status_mut() =
        StatusCode::from_u16(document.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static(document.content_type),
    );
    headers.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(document.policy),
    );
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// An error in words.
pub(super) fn error(status: StatusCode, words: &str) -> Response<Body> {
    reply(status, &json!({ "error": words }))
}

fn reply(status: StatusCode, body: &impl Serialize) -> Response<Body> {
    let text = serde_json::to_vec(body).unwrap_or_else(|_| Value::Null.to_string().into_bytes());
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // Health is a statement about now.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
