//! The monitoring port's documents by path: which there are, and how an option that can't be understood
//! is answered. Synchronous, and may walk every connection or stream: for a blocking thread.

use serde::Serialize;

use super::query::{
    AccountzOptions, AccstatzOptions, ConnzOptions, HealthzOptions, JszOptions, Parameters,
    QueryError, SubszOptions,
};
use super::source::Monitor;
use super::{accountz, connz, empty, healthz, index, jsz, metrics, routez, status, subsz, varz};
use crate::http::{Document, HealthReport};

const JSON: &str = "application/json";
const SCRIPT: &str = "application/javascript";
const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

impl Monitor {
    /// The document at `path`; `None` where nothing is there.
    #[must_use]
    pub(crate) fn document(
        &self,
        path: &str,
        query: &str,
        health: impl FnOnce() -> HealthReport,
    ) -> Option<Document> {
        if !self.requests().count(path) {
            return None;
        }
        let query = Parameters::parse(query);
        let made = self.make(path, &query, health);
        let made = made.map(|document| match self.facts().jsonp {
            true => called_back(document, &query),
            false => document,
        });
        Some(made.unwrap_or_else(|error| {
            self.requests().refuse();
            let words = error.to_string().into_bytes();
            Document {
                status: 400,
                ..document(TEXT, Ok(words))
            }
        }))
    }

    fn make(
        &self,
        path: &str,
        query: &Parameters,
        health: impl FnOnce() -> HealthReport,
    ) -> Result<Document, QueryError> {
        Ok(match path {
            "/varz" => pretty(&varz::varz(self)),
            "/connz" => pretty(&connz::connz(self, &ConnzOptions::from_query(query)?)?),
            "/routez" => pretty(&routez::routez(self)),
            "/subsz" | "/subscriptionsz" => {
                pretty(&subsz::subsz(self, &SubszOptions::from_query(query)?))
            }
            "/gatewayz" => pretty(&empty::gatewayz(self)),
            "/leafz" => pretty(&empty::leafz(self)),
            "/accountz" => pretty(&accountz::accountz(
                self,
                &AccountzOptions::from_query(query),
            )),
            "/accstatz" => pretty(&accountz::accstatz(
                self,
                &AccstatzOptions::from_query(query)?,
            )),
            "/jsz" => pretty(&jsz::jsz(self, &JszOptions::from_query(query)?)),
            "/healthz" => {
                let (status, body) = healthz::healthz(self, &HealthzOptions::from_query(query)?);
                Document {
                    status,
                    ..compact(&body)
                }
            }
            "/livez" => compact(&serde_json::json!({ "status": "ok" })),
            "/metrics" => document(metrics::CONTENT_TYPE, Ok(metrics::text(self))),
            "/status.json" => compact(&status::status(self, health())),
            "/status" => Document {
                policy: status::policy(),
                ..page(status::PAGE.to_owned())
            },
            "/" => page(index::page(&self.facts().server_name)),
            _ => compact(&empty::Empty {}),
        })
    }
}

fn page(html: String) -> Document {
    document(HTML, Ok(html.into_bytes()))
}

/// JSONP: the document as the argument of the function that `callback` names, for pages of old. Any page
/// can read it, so only nodes that stand in for a nats-server offer it.
fn called_back(document: Document, query: &Parameters) -> Document {
    let Some(name) = query.callback().filter(|_| document.content_type == JSON) else {
        return document;
    };
    let body = [name.as_bytes(), b"(", &document.body, b")"].concat();
    Document {
        content_type: SCRIPT,
        body,
        ..document
    }
}

fn pretty(body: &impl Serialize) -> Document {
    document(JSON, serde_json::to_vec_pretty(body))
}

fn compact(body: &impl Serialize) -> Document {
    document(JSON, serde_json::to_vec(body))
}

fn document(content_type: &'static str, body: serde_json::Result<Vec<u8>>) -> Document {
    let (status, content_type, body) = match body {
        Ok(body) => (200, content_type, body),
        Err(error) => (500, TEXT, error.to_string().into_bytes()),
    };
    Document {
        status,
        content_type,
        policy: Document::INERT,
        body,
    }
}
