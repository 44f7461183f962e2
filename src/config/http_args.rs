//! What may be written about the bounds of the HTTP listeners: the control plane's, and the time and
//! size bounds that monitoring shares with it. Defaults are [`super::limits::HttpLimits`]'s.

use std::num::NonZeroU32;

use clap::Args;

use super::limits::parse_size;

/// Bounds of the HTTP listeners.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Limits of the control plane")]
pub struct HttpArgs {
    /// Requests a second that one address may make to the control plane [default: 200]
    #[arg(long, value_name = "N", env = "UNIBUS_HTTP_RATE")]
    pub http_rate: Option<NonZeroU32>,
    /// Requests that one address may make at once [default: two seconds of --http-rate]
    #[arg(long, value_name = "N", env = "UNIBUS_HTTP_BURST")]
    pub http_burst: Option<NonZeroU32>,
    /// Most bytes of request bodies that the control plane holds at a time, and of large documents that
    /// monitoring's clients have not read yet; requests beyond it are turned away at once [default: 128MB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, env = "UNIBUS_HTTP_BODY_BUDGET")]
    pub http_body_budget: Option<u64>,
    /// Largest JSON body [default: 1MB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, env = "UNIBUS_HTTP_MAX_BODY")]
    pub http_max_body: Option<u64>,
    /// Largest blob; at most 64MB [default: 16MB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, env = "UNIBUS_HTTP_MAX_BLOB")]
    pub http_max_blob: Option<u64>,
    /// Largest request line with its headers; at least 8KB [default: 16KB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, env = "UNIBUS_HTTP_MAX_HEADER")]
    pub http_max_header: Option<u64>,
    /// Time that a request's headers may take, and a connection may idle before them, in milliseconds
    /// [default: 5000]
    #[arg(long, value_name = "MS", env = "UNIBUS_HTTP_HEADER_TIMEOUT_MS")]
    pub http_header_timeout_ms: Option<u64>,
    /// Time that a JSON body may take, in milliseconds [default: 10000]
    #[arg(long, value_name = "MS", env = "UNIBUS_HTTP_BODY_TIMEOUT_MS")]
    pub http_body_timeout_ms: Option<u64>,
    /// Time that a blob may take, in milliseconds [default: 60000]
    #[arg(long, value_name = "MS", env = "UNIBUS_HTTP_BLOB_TIMEOUT_MS")]
    pub http_blob_timeout_ms: Option<u64>,
    /// Bytes a second that a client has to send of a body and to read of an answer, while nothing else is waited
    /// for; whoever falls behind by --http-body-grace-ms or --http-write-timeout-ms is cut [default: 240]
    #[arg(long, value_name = "N", env = "UNIBUS_HTTP_MIN_RATE")]
    pub http_min_rate: Option<NonZeroU32>,
    /// Time that a client may be behind --http-min-rate with a body, in milliseconds [default: 5000]
    #[arg(long, value_name = "MS", env = "UNIBUS_HTTP_BODY_GRACE_MS")]
    pub http_body_grace_ms: Option<u64>,
    /// Time that a client may be behind --http-min-rate with an answer: how long it may read nothing of it, in
    /// milliseconds [default: 30000]
    #[arg(long, value_name = "MS", env = "UNIBUS_HTTP_WRITE_TIMEOUT_MS")]
    pub http_write_timeout_ms: Option<u64>,
    /// Time that the store may take for one read or change of a record before the request is denied,
    /// in milliseconds [default: 3000]
    #[arg(long, value_name = "MS", env = "UNIBUS_HTTP_STORE_TIMEOUT_MS")]
    pub http_store_timeout_ms: Option<u64>,
    /// Most connections at a time; one more waits, and while nobody else can have one, none is kept open after
    /// its answer [default: 1024]
    #[arg(long, value_name = "N", env = "UNIBUS_HTTP_MAX_CONNECTIONS")]
    pub http_max_connections: Option<usize>,
    /// Most connections of one address; one more is closed at once [default: 256]
    #[arg(
        long,
        value_name = "N",
        env = "UNIBUS_HTTP_MAX_CONNECTIONS_PER_ADDRESS"
    )]
    pub http_max_connections_per_address: Option<usize>,
}
