//! The calls of the control plane as one table, and the way of a request through it: rate, route,
//! body, caller, handler. The table is also what the OpenAPI document is made from.

use std::net::IpAddr;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderValue, RANGE};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::Semaphore;

use super::body::{self, Received};
use super::caller::{self, Head};
use super::limits::ControlCounters;
use super::plane::{Call, Plane};
use super::refusal::Refusal;
use super::reply::{Body, refuse};
use super::{blobs, keys, members, openapi, rooms, uploads, users};
use crate::config::args::BusAuth;
use crate::http::Surface;
use crate::http::answer;
use crate::http::pace::{Arrived, TooSlow};
use crate::http::pages;

/// What a call takes as its body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Takes {
    Nothing,
    /// The schema's name.
    Json(&'static str),
    /// The same, where one body is about every member of a room.
    LargeJson(&'static str),
    /// Maybe one.
    MaybeJson(&'static str),
    Bytes,
}

/// A call's name: which handler carries it out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Operation {
    Healthz,
    Livez,
    OpenApi,
    CreateRoom,
    GetRoom,
    ListMembers,
    ListFormer,
    Invite,
    Join,
    Leave,
    RemoveMember,
    Rekey,
    GetKey,
    ListKeys,
    MyRooms,
    PutBlob,
    GetBlob,
    HeadBlob,
    ListUsers,
    AddUser,
    RevokeUser,
}

/// One call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) method: &'static str,
    /// `{name}` stands for one segment.
    pub(crate) path: &'static str,
    pub(crate) operation: Operation,
    pub(crate) takes: Takes,
    pub(crate) who: &'static str,
    pub(crate) summary: &'static str,
    /// Statuses beside those that every signed call has.
    pub(crate) answers: &'static [u16],
}

/// Statuses that every call which asks for a signature can have.
pub(crate) const COMMON_ANSWERS: [u16; 9] = [400, 401, 403, 408, 413, 415, 421, 429, 503];

macro_rules! route {
    ($method:literal $path:literal $operation:ident $takes:expr, $who:literal, $summary:literal, $answers:expr) => {
        Route {
            method: $method,
            path: $path,
            operation: Operation::$operation,
            takes: $takes,
            who: $who,
            summary: $summary,
            answers: &$answers,
        }
    };
}

use Takes::{Bytes as Raw, Json, LargeJson, MaybeJson, Nothing};

/// Largest body of a call that is about every member of a room, in bytes.
const LARGE_JSON_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Every call.
#[rustfmt::skip]
pub(crate) const ROUTES: [Route; 21] = [
    route!("GET" "/healthz" Healthz Nothing, "anyone", "liveness and posture", [200, 503]),
    route!("GET" "/livez" Livez Nothing, "anyone", "the process is there", [200]),
    route!("GET" "/openapi.json" OpenApi Nothing, "active user", "this document", [200]),
    route!("POST" "/rooms" CreateRoom Json("CreateRoom"), "active user", "create a room", [201, 403, 409]),
    route!("GET" "/rooms/{room}" GetRoom Nothing, "member", "a room's metadata", [200, 403]),
    route!("GET" "/rooms/{room}/members" ListMembers Nothing, "member", "members, their keys and who admitted them", [200, 403]),
    route!("GET" "/rooms/{room}/members/former" ListFormer Nothing, "member", "who has left, so that what they said can be verified", [200, 403]),
    route!("POST" "/rooms/{room}/invite" Invite Json("Invite"), "owner", "admit a member", [201, 403, 409]),
    route!("POST" "/rooms/{room}/join" Join MaybeJson("Who"), "invited endpoint", "accept an invitation", [200, 403]),
    route!("POST" "/rooms/{room}/leave" Leave MaybeJson("Who"), "member", "leave a room", [200, 403]),
    route!("DELETE" "/rooms/{room}/members/{endpoint}" RemoveMember Nothing, "owner, or the member itself", "remove a member", [200, 403]),
    route!("POST" "/rooms/{room}/rekey" Rekey LargeJson("Rekey"), "owner", "a later epoch, with a sealed key for every member", [200, 403, 409]),
    route!("GET" "/rooms/{room}/key" GetKey Nothing, "the endpoint itself, and a member", "its own sealed key", [200, 403]),
    route!("GET" "/rooms/{room}/keys" ListKeys Nothing, "owner", "the sealed keys of an epoch: whom the owner has given it", [200, 403]),
    route!("GET" "/members/{endpoint}/rooms" MyRooms Nothing, "the endpoint itself", "its rooms", [200, 403]),
    route!("POST" "/blobs" PutBlob Raw, "active user", "store ciphertext", [201]),
    route!("GET" "/blobs/{hash}" GetBlob Nothing, "active user", "a blob, or one range of it", [200, 206, 404, 416]),
    route!("HEAD" "/blobs/{hash}" HeadBlob Nothing, "active user", "a blob's length", [200, 206, 404, 416]),
    route!("GET" "/users" ListUsers Nothing, "admin", "the users", [200, 403]),
    route!("POST" "/users" AddUser Json("AddUser"), "admin", "add a user", [201, 403, 409]),
    route!("POST" "/users/{key}/revoke" RevokeUser Nothing, "admin", "revoke a user", [200, 403, 404, 409]),
];

/// Where requests come from.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) address: IpAddr,
    /// What came over its connection.
    pub(crate) arrived: Arrived,
    /// The listener's connections that are free.
    pub(crate) connections: Arc<Semaphore>,
}

/// What a method and path come to.
enum Matched<'a> {
    Route(&'static Route, Vec<&'a str>),
    /// The path is known, for these methods.
    Method(String),
    Nothing,
}

fn find<'a>(method: &Method, path: &'a str) -> Matched<'a> {
    let mut allowed = Vec::new();
    for route in &ROUTES {
        let Some(params) = params_of(route.path, path) else {
            continue;
        };
        let is_probe = matches!(route.operation, Operation::Healthz | Operation::Livez);
        if method == route.method || (is_probe && method == Method::HEAD) {
            return Matched::Route(route, params);
        }
        allowed.push(route.method);
    }
    if allowed.is_empty() {
        Matched::Nothing
    } else {
        Matched::Method(allowed.join(", "))
    }
}

/// The variable parts of a path that fits a pattern.
fn params_of<'a>(pattern: &str, path: &'a str) -> Option<Vec<&'a str>> {
    let mut params = Vec::new();
    let mut segments = path.split('/');
    for wanted in pattern.split('/') {
        let segment = segments.next()?;
        if wanted.starts_with('{') {
            params.push(segment);
        } else if wanted != segment {
            return None;
        }
    }
    segments.next().is_none().then_some(params)
}

/// Answers one request.
pub(crate) async fn serve(
    plane: &Plane,
    client: &Client,
    request: Request<Incoming>,
) -> Response<Body> {
    ControlCounters::add(&plane.counters.requests);
    match try_serve(plane, client, request).await {
        Ok(response) => response,
        Err(refusal) => {
            plane.count(&refusal);
            refuse(&refusal)
        }
    }
}

async fn try_serve(
    plane: &Plane,
    client: &Client,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    plane.admit(client.address)?;
    let (parts, incoming) = request.into_parts();
    let (route, params) = match find(&parts.method, parts.uri.path()) {
        Matched::Route(route, params) => (route, params),
        Matched::Method(allowed) => return Ok(method_not_allowed(&allowed)),
        Matched::Nothing => return Err(Refusal::not_found("nothing is here")),
    };
    let uri = parts.uri.path_and_query().map_or("/", |uri| uri.as_str());
    let head = Head {
        method: parts.method.as_str(),
        uri,
        headers: &parts.headers,
    };
    let exempt = matches!(route.operation, Operation::Healthz | Operation::Livez);
    if !exempt && plane.mode != BusAuth::Enforce {
        refuse_pages(plane, route, &parts)?;
    }
    let keep = !exempt && caller::is_promising(&head, plane.mode, &plane.directory);
    let body = receive(plane, route, &head, (client, incoming), keep).await?;
    if exempt {
        return Ok(probe(plane, &parts.method, parts.uri.path()));
    }
    let caller = caller::authenticate(&head, &body.hash, plane.mode, &plane.records).await?;
    if plane.mode == BusAuth::Soft && caller.identity().is_none() {
        ControlCounters::add(&plane.counters.tolerated);
    }
    if !keep && body.bytes > 0 {
        return Err(Refusal::unavailable(
            "this node has only just heard of you; ask again",
        ));
    }
    let call = Call {
        plane,
        caller,
        params,
        query: parts.uri.query().unwrap_or_default(),
        range: parts
            .headers
            .get(RANGE)
            .and_then(|value| value.to_str().ok()),
        body,
    };
    // Boxed: the handlers' futures are large, and one of them runs at a time.
    Box::pin(dispatch(route.operation, call)).await
}

/// Where a request needs no login, no stranger's page may have made it.
fn refuse_pages(plane: &Plane, route: &Route, parts: &Parts) -> Result<(), Refusal> {
    let has_json = matches!(route.takes, Json(_) | LargeJson(_) | MaybeJson(_))
        && body::is_declared(&parts.headers);
    let looked = plane.names.check(&parts.uri, &parts.headers);
    let looked = looked.and_then(|()| match has_json {
        true => pages::check_json(&parts.headers),
        false => Ok(()),
    });
    looked.map_err(|foreign| Refusal {
        close: true,
        ..Refusal::new(foreign.status(), foreign.to_string())
    })
}

async fn receive(
    plane: &Plane,
    route: &Route,
    head: &Head<'_>,
    (client, incoming): (&Client, Incoming),
    keep: bool,
) -> Result<Received, Refusal> {
    let limits = &plane.limits;
    let (bytes_max, within) = match route.takes {
        Takes::Bytes => (limits.blob_bytes_max, limits.blob_timeout),
        LargeJson(_) => (
            limits.body_bytes_max.max(LARGE_JSON_BYTES_MAX),
            limits.blob_timeout,
        ),
        _ => (limits.body_bytes_max, limits.request_timeout),
    };
    let share = plane.budget.share(client.address);
    let reading = body::receive(head.headers, incoming, bytes_max, keep, share);
    let keeping_up = client.arrived.keeping_up(limits, reading);
    match tokio::time::timeout(within, keeping_up).await {
        Ok(Ok(received)) => received,
        Ok(Err(TooSlow)) | Err(_) => Err(Refusal {
            close: true,
            ..Refusal::new(
                StatusCode::REQUEST_TIMEOUT,
                "the request took too long to arrive",
            )
        }),
    }
}

async fn dispatch(operation: Operation, call: Call<'_>) -> Result<Response<Body>, Refusal> {
    match operation {
        // Answered before anybody is asked who they are.
        Operation::Healthz | Operation::Livez => Err(Refusal::not_found("nothing is here")),
        Operation::OpenApi => openapi::show(call).await,
        Operation::CreateRoom => rooms::create(call).await,
        Operation::GetRoom => rooms::show(call).await,
        Operation::ListMembers => members::list(call).await,
        Operation::ListFormer => members::former(call).await,
        Operation::Invite => members::invite(call).await,
        Operation::Join => members::join(call).await,
        Operation::Leave => members::leave(call).await,
        Operation::RemoveMember => members::remove(call).await,
        Operation::Rekey => keys::rekey(call).await,
        Operation::GetKey => keys::show(call).await,
        Operation::ListKeys => keys::list(call).await,
        Operation::MyRooms => rooms::of_member(call).await,
        Operation::PutBlob => uploads::store(call).await,
        Operation::GetBlob => blobs::fetch(call).await,
        Operation::HeadBlob => blobs::head(call).await,
        Operation::ListUsers => users::list(call).await,
        Operation::AddUser => users::add(call).await,
        Operation::RevokeUser => users::revoke(call).await,
    }
}

fn probe(plane: &Plane, method: &Method, path: &str) -> Response<Body> {
    let response = answer::answer(Surface::Control, method, path, plane.health.as_ref());
    response.map(|body| {
        use http_body_util::BodyExt;
        body.map_err(|never| match never {}).boxed_unsync()
    })
}

fn method_not_allowed(allowed: &str) -> Response<Body> {
    let words = format!("only {allowed} works here");
    let mut response = refuse(&Refusal::new(StatusCode::METHOD_NOT_ALLOWED, words));
    if let Ok(value) = HeaderValue::from_str(allowed) {
        response.headers_mut().insert(ALLOW, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_find_their_routes() {
        let get = |path| find(&Method::GET, path);
        assert!(matches!(get("/rooms/a"), Matched::Route(r, p)
            if r.operation == Operation::GetRoom && p == ["a"]));
        assert!(
            matches!(find(&Method::DELETE, "/rooms/a/members/b"), Matched::Route(r, p)
            if r.operation == Operation::RemoveMember && p == ["a", "b"])
        );
        assert!(matches!(
            find(&Method::HEAD, "/healthz"),
            Matched::Route(..)
        ));
        assert!(matches!(find(&Method::PUT, "/users"), Matched::Method(m) if m == "GET, POST"));
        for path in [
            "/",
            "/rooms/a/",
            "/rooms/a/b/c",
            "/varz",
            "//rooms",
            "/rooms/a/members/",
        ] {
            let found = get(path);
            assert!(!matches!(found, Matched::Route(..)), "{path}");
        }
    }
}
