//! The monitoring port's documents by path: which there are, and how an option that can't be understood
//! is answered. Synchronous, and may walk every connection or stream: for a blocking thread.

use serde::Serialize;

use super::query::{
    AccountzOptions, AccstatzOptions, ConnzOptions, HealthzOptions, JszOptions, Parameters,
    QueryError, SubszOptions,
};
use super::source::Monitor;
use super::{accountz, connz, empty, healthz, index, jsz, metrics, routez, subsz, varz};
use crate::http::Document;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

impl Monitor {
    /// The document at `path`; `None` where nothing is there.
    #[must_use]
    pub(crate) fn document(&self, path: &str, query: &str) -> Option<Document> {
        if !self.requests().count(path) {
            return None;
        }
        let made = self.make(path, &Parameters::parse(query));
        Some(made.unwrap_or_else(|error| {
            self.requests().refuse();
            Document {
                status: 400,
                content_type: TEXT,
                body: error.to_string().into_bytes(),
            }
        }))
    }

    fn make(&self, path: &str, query: &Parameters) -> Result<Document, QueryError> {
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
            "/metrics" => Document {
                status: 200,
                content_type: metrics::CONTENT_TYPE,
                body: metrics::text(self),
            },
            "/" => Document {
                status: 200,
                content_type: "text/html; charset=utf-8",
                body: index::page(&self.facts().server_name).into_bytes(),
            },
            _ => compact(&empty::Empty {}),
        })
    }
}

fn pretty(body: &impl Serialize) -> Document {
    document(serde_json::to_vec_pretty(body))
}

fn compact(body: &impl Serialize) -> Document {
    document(serde_json::to_vec(body))
}

fn document(body: serde_json::Result<Vec<u8>>) -> Document {
    match body {
        Ok(body) => Document {
            status: 200,
            content_type: JSON,
            body,
        },
        Err(error) => Document {
            status: 500,
            content_type: TEXT,
            body: error.to_string().into_bytes(),
        },
    }
}
