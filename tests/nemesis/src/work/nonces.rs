//! Signed requests sent to several nodes at once, and again later: each is accepted once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Ctx, rest};
use crate::history::Ending;
use crate::host::HTTP_PORT;
use crate::http::Request;
use crate::lab::Key;
use futures::future::join_all;
use serde_json::Value;

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) accepted: AtomicU64,
    pub(crate) refused: AtomicU64,
}

/// Sends requests until told to stop.
pub(crate) async fn work(ctx: Ctx, nodes: Vec<String>, admin: Key, seen: Arc<Seen>) {
    while !ctx.is_stopped() {
        let request = Request::signed(&admin.seed(), "GET", "/users", &Value::Null);
        let started = ctx.recorder.now();
        let mut accepted = round(&ctx, &nodes, &request, &seen).await;
        let ending = if accepted == 1 {
            Ending::Done
        } else {
            Ending::Unknown
        };
        ctx.recorder.span("signed request", started, ending);
        rest(300).await;
        accepted += round(&ctx, &nodes, &request, &seen).await;
        if accepted > 1 {
            ctx.recorder
                .finding(format!("one nonce was accepted {accepted} times"));
        }
        rest(200).await;
    }
}

/// How many nodes accepted it.
async fn round(ctx: &Ctx, nodes: &[String], request: &Request, seen: &Seen) -> u64 {
    let sent = nodes.iter().map(|ip| request.send(ip, HTTP_PORT));
    let mut accepted = 0;
    for answer in join_all(sent).await.into_iter().flatten() {
        match answer.status {
            200 => accepted += 1,
            401 => drop(seen.refused.fetch_add(1, Ordering::Relaxed)),
            500 => ctx
                .recorder
                .finding(format!("a signed request answers 500: {}", answer.body())),
            _ => {}
        }
    }
    seen.accepted.fetch_add(accepted, Ordering::Relaxed);
    accepted
}
