//! Monitoring: the documents of the monitoring port with nats-server's names (one file each), the
//! questions and events of `$SYS`, and Prometheus metrics. Reads what the parts know; only orders of the
//! system account (`sys/order.rs`) change something.

mod accountz;
mod connz;
mod control_metrics;
mod empty;
mod endpoint;
mod healthz;
mod index;
mod jsz;
mod metrics;
mod process;
mod query;
mod reload;
mod routez;
mod source;
pub(crate) mod standing;
mod statsz;
mod status;
mod subsz;
pub mod sys;
mod text;
mod varz;

pub use self::reload::{ReloadRequest, ReloadRequests};
pub use self::source::{Facts, Monitor, StorePart};
