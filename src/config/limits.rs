//! Every bound a node works within: name, unit, default, hard ceiling, and the relations between
//! them. Holds numbers only; each part of the node enforces its own.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::ConfigError;
use super::batches::{self, BatchArgs, BatchLimits};
use super::http_args::HttpArgs;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Hard ceiling of `payload_bytes_max`: the protocol's own (nats-surface §1.7), and what routes carry.
pub const PAYLOAD_BYTES_CEILING: u64 = unibus_proto::route::PAYLOAD_BYTES_MAX as u64;

/// Requests a second that one address may make.
const RATE_PER_SECOND: NonZeroU32 = NonZeroU32::new(200).unwrap();
/// Bytes a second that a client sends of a body and reads of an answer.
const CLIENT_BYTES_PER_SECOND_MIN: NonZeroU32 = NonZeroU32::new(240).unwrap();
/// What an address may make at once, in seconds of its rate.
const RATE_BURST_SECONDS: NonZeroU32 = NonZeroU32::new(2).unwrap();

/// The bounds of one node. Made by [`Limits::new`] from the few that an operator may set; the
/// others are constants of the product that live here so that they can be read in one place.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Largest message, headers included, in bytes (`--max-payload`, default 1 MiB).
    pub payload_bytes_max: usize,
    /// Longest protocol line before its CRLF, in bytes.
    pub control_line_bytes_max: usize,
    /// Most bytes that wait to be written to one client (`--max-pending`, default 64 MiB).
    pub pending_bytes_max: usize,
    /// Most client connections (`--max-connections`, default 65,536), as far as open files allow.
    pub connections_max: usize,
    /// Subscriptions of one connection; 0 = no limit (`--max-subscriptions`).
    pub subscriptions_max: usize,
    /// Tokens of the subject of a subscription; 0 = no limit.
    pub subscription_tokens_max: usize,
    /// How long a write to a client may make no progress (`--write-deadline-ms`, default 10 s).
    pub write_deadline: Duration,
    /// How long a new client has to authenticate (`--auth-timeout-ms`, default 2 s).
    pub auth_timeout: Duration,
    /// Time between the server's PINGs (`--ping-interval-ms`).
    pub ping_interval: Duration,
    /// Unanswered PINGs that end a connection.
    pub pings_out_max: u32,
    /// Memory for recently stored messages, in bytes (`--cache-mb`, default 256 MiB).
    pub cache_bytes: u64,
    /// Memory for the log's last entries, in bytes (`--log-cache-mb`, default 64 MiB).
    pub log_cache_bytes: u64,
    /// Log between two checkpoints of the store, in bytes (`--checkpoint-log-mb`); `None` = the
    /// store's own default.
    pub checkpoint_log_bytes: Option<u64>,
    /// Bounds of batches of messages.
    pub batches: BatchLimits,
    /// Bounds of both HTTP listeners.
    pub http: HttpLimits,
}

/// The bounds of an HTTP listener, all enforced before anything of a request is believed.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpLimits {
    /// Most connections at a time; one more waits in the listen backlog.
    pub connections_max: usize,
    /// Most connections of one address; one more is closed at once.
    pub connections_per_address_max: usize,
    /// Most bytes of a request's line and headers.
    pub header_bytes_max: usize,
    /// How long a client may take to send its headers, and how long it may idle before them.
    pub header_read_timeout: Duration,
    /// Most bytes of a body on a route that takes one.
    pub body_bytes_max: u64,
    /// How long one request may take from its headers to the end of its answer; on the control plane,
    /// how long its JSON body may take.
    pub request_timeout: Duration,
    /// Most bytes of a blob.
    pub blob_bytes_max: u64,
    /// How long a blob's body may take.
    pub blob_timeout: Duration,
    /// How far a client may be behind the least rate with its body.
    pub body_grace: Duration,
    /// How far a client may be behind the least rate with reading an answer: how long it may read nothing.
    pub write_timeout: Duration,
    /// The least rate: bytes a second that a client sends of a body and reads of an answer, while it is what
    /// is waited for (`--http-min-rate`). The default is Kestrel's and IIS's.
    pub client_bytes_per_second_min: NonZeroU32,
    /// How long the control plane's store may take for one read or write before it is denied.
    pub store_timeout: Duration,
    /// Most bytes of bodies in flight, over all connections (`--http-body-budget`); on the monitoring port,
    /// of large documents that were asked for and are not read yet.
    pub bodies_bytes_max: u64,
    /// Requests a second that one address may make in the long run (`--http-rate`).
    pub rate_per_second: NonZeroU32,
    /// Requests that one address may make at once.
    pub rate_burst: NonZeroU32,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            connections_per_address_max: 256,
            header_bytes_max: 16 * KIB as usize,
            header_read_timeout: Duration::from_secs(5),
            body_bytes_max: MIB,
            request_timeout: Duration::from_secs(10),
            blob_bytes_max: 16 * MIB,
            blob_timeout: Duration::from_secs(60),
            body_grace: Duration::from_secs(5),
            write_timeout: Duration::from_secs(30),
            client_bytes_per_second_min: CLIENT_BYTES_PER_SECOND_MIN,
            store_timeout: Duration::from_secs(3),
            bodies_bytes_max: 128 * MIB,
            rate_per_second: RATE_PER_SECOND,
            rate_burst: RATE_PER_SECOND.saturating_mul(RATE_BURST_SECONDS),
        }
    }
}

impl HttpLimits {
    fn new(set: &HttpArgs) -> Self {
        let base = Self::default();
        let rate = set.http_rate.unwrap_or(base.rate_per_second);
        let burst = set.http_burst;
        let time = |ms: Option<u64>, default| ms.map_or(default, Duration::from_millis);
        Self {
            rate_per_second: rate,
            rate_burst: burst.unwrap_or_else(|| rate.saturating_mul(RATE_BURST_SECONDS)),
            bodies_bytes_max: set.http_body_budget.unwrap_or(base.bodies_bytes_max),
            body_bytes_max: set.http_max_body.unwrap_or(base.body_bytes_max),
            blob_bytes_max: set.http_max_blob.unwrap_or(base.blob_bytes_max),
            header_bytes_max: size(set.http_max_header, base.header_bytes_max),
            header_read_timeout: time(set.http_header_timeout_ms, base.header_read_timeout),
            request_timeout: time(set.http_body_timeout_ms, base.request_timeout),
            blob_timeout: time(set.http_blob_timeout_ms, base.blob_timeout),
            body_grace: time(set.http_body_grace_ms, base.body_grace),
            write_timeout: time(set.http_write_timeout_ms, base.write_timeout),
            client_bytes_per_second_min: set
                .http_min_rate
                .unwrap_or(base.client_bytes_per_second_min),
            store_timeout: time(set.http_store_timeout_ms, base.store_timeout),
            connections_max: set.http_max_connections.unwrap_or(base.connections_max),
            connections_per_address_max: set
                .http_max_connections_per_address
                .unwrap_or(base.connections_per_address_max),
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        let wrong = self
            .checked_sizes()
            .into_iter()
            .chain(self.checked_times())
            .chain(self.checked_counts())
            .find(|(_, found, range, _)| !range.contains(found));
        match wrong {
            Some((flag, found, _, wanted)) => Err(limit(flag, found, wanted)),
            None => Ok(()),
        }
    }

    fn checked_sizes(&self) -> [Checked; 4] {
        let body = self.blob_bytes_max.max(self.body_bytes_max);
        let header = self.header_bytes_max as u64;
        let large = (KIB..=64 * MIB, "from 1KB to 64MB");
        let budget = "at least --http-max-blob and --http-max-body";
        [
            (
                "--http-max-body",
                self.body_bytes_max,
                large.0.clone(),
                large.1,
            ),
            ("--http-max-blob", self.blob_bytes_max, large.0, large.1),
            (
                "--http-max-header",
                header,
                8 * KIB..=MIB,
                "from 8KB to 1MB",
            ),
            (
                "--http-body-budget",
                self.bodies_bytes_max,
                body..=u64::MAX,
                budget,
            ),
        ]
    }

    fn checked_times(&self) -> [Checked; 6] {
        let short = |flag, time: Duration| (flag, ms(time), 1..=600_000, "from 1 to 600000");
        let long = |flag, time: Duration| (flag, ms(time), 1..=3_600_000, "from 1 to 3600000");
        [
            short("--http-header-timeout-ms", self.header_read_timeout),
            short("--http-body-timeout-ms", self.request_timeout),
            long("--http-blob-timeout-ms", self.blob_timeout),
            short("--http-body-grace-ms", self.body_grace),
            long("--http-write-timeout-ms", self.write_timeout),
            short("--http-store-timeout-ms", self.store_timeout),
        ]
    }

    fn checked_counts(&self) -> [Checked; 2] {
        let each = self.connections_per_address_max;
        [
            ("--http-max-connections", self.connections_max),
            ("--http-max-connections-per-address", each),
        ]
        .map(|(flag, count)| (flag, count as u64, 1..=1_000_000, "from 1 to 1000000"))
    }
}

/// A flag, its value, the values that are allowed, and those in words.
type Checked = (&'static str, u64, RangeInclusive<u64>, &'static str);

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            payload_bytes_max: MIB as usize,
            control_line_bytes_max: 4 * KIB as usize,
            pending_bytes_max: 64 * MIB as usize,
            connections_max: 65_536,
            subscriptions_max: 0,
            subscription_tokens_max: 0,
            write_deadline: Duration::from_secs(10),
            auth_timeout: Duration::from_secs(2),
            ping_interval: Duration::from_secs(120),
            pings_out_max: 2,
            cache_bytes: 256 * MIB,
            log_cache_bytes: 64 * MIB,
            checkpoint_log_bytes: None,
            batches: BatchLimits::default(),
            http: HttpLimits::default(),
        }
    }
}

/// The limits an operator may set; `None` means the default.
#[derive(Clone, Debug, Default)]
pub struct LimitSettings {
    /// Bytes of the largest message.
    pub payload_bytes_max: Option<u64>,
    /// Bytes that may wait for one client.
    pub pending_bytes_max: Option<u64>,
    /// Client connections.
    pub connections_max: Option<usize>,
    /// Subscriptions of one connection; 0 = no limit.
    pub subscriptions_max: Option<u64>,
    /// Milliseconds that a write to a client may make no progress.
    pub write_deadline_ms: Option<u64>,
    /// Milliseconds that a new client has to authenticate.
    pub auth_timeout_ms: Option<u64>,
    /// Milliseconds between PINGs.
    pub ping_interval_ms: Option<u64>,
    /// Mebibytes of message cache.
    pub cache_mib: Option<u64>,
    /// Mebibytes of log entries kept in memory.
    pub log_cache_mib: Option<u64>,
    /// Mebibytes of log between checkpoints.
    pub checkpoint_log_mib: Option<u64>,
    /// Bounds of batches.
    pub batches: BatchArgs,
    /// Bounds of the HTTP listeners.
    pub http: HttpArgs,
}

impl Limits {
    /// Fills in defaults and asserts the relations between limits.
    ///
    /// # Errors
    /// [`ConfigError::Limit`] naming the flag, what was found and what is wanted.
    pub fn new(set: &LimitSettings) -> Result<Self, ConfigError> {
        let base = Self::default();
        let times = (1..=600_000, "from 1 to 600000");
        batches::check([
            (
                "--write-deadline-ms",
                set.write_deadline_ms,
                times.0.clone(),
                times.1,
            ),
            ("--auth-timeout-ms", set.auth_timeout_ms, times.0, times.1),
        ])?;
        let time = |ms: Option<u64>, default| ms.map_or(default, Duration::from_millis);
        let limits = Self {
            payload_bytes_max: size(set.payload_bytes_max, base.payload_bytes_max),
            pending_bytes_max: size(set.pending_bytes_max, base.pending_bytes_max),
            connections_max: set.connections_max.unwrap_or(base.connections_max),
            subscriptions_max: size(set.subscriptions_max, base.subscriptions_max),
            write_deadline: time(set.write_deadline_ms, base.write_deadline),
            auth_timeout: time(set.auth_timeout_ms, base.auth_timeout),
            ping_interval: time(set.ping_interval_ms, base.ping_interval),
            cache_bytes: set
                .cache_mib
                .map_or(base.cache_bytes, |mib| mib.saturating_mul(MIB)),
            log_cache_bytes: set
                .log_cache_mib
                .map_or(base.log_cache_bytes, |mib| mib.saturating_mul(MIB)),
            checkpoint_log_bytes: set.checkpoint_log_mib.map(|mib| mib.saturating_mul(MIB)),
            batches: BatchLimits::new(&set.batches)?,
            http: HttpLimits::new(&set.http),
            ..base
        };
        limits.check()?;
        Ok(limits)
    }

    /// Asserts the relations between limits.
    ///
    /// # Errors
    /// [`ConfigError::Limit`] naming the flag, what was found and what is wanted.
    pub fn check(&self) -> Result<(), ConfigError> {
        let payload = self.payload_bytes_max as u64;
        if payload == 0 || payload > PAYLOAD_BYTES_CEILING {
            return Err(limit("--max-payload", payload, "from 1 to 67108864 bytes"));
        }
        if self.pending_bytes_max < self.payload_bytes_max {
            let found = self.pending_bytes_max as u64;
            return Err(limit("--max-pending", found, "at least --max-payload"));
        }
        if self.connections_max == 0 {
            return Err(limit("--max-connections", 0, "at least 1"));
        }
        if self.ping_interval < Duration::from_millis(100) {
            let found = self.ping_interval.as_millis() as u64;
            return Err(limit("--ping-interval-ms", found, "at least 100"));
        }
        if self.cache_bytes < 8 * MIB {
            return Err(limit("--cache-mb", self.cache_bytes / MIB, "at least 8"));
        }
        if self.log_cache_bytes < MIB {
            return Err(limit("--log-cache-mb", 0, "at least 1"));
        }
        self.http.check()?;
        if self.checkpoint_log_bytes == Some(0) {
            return Err(limit("--checkpoint-log-mb", 0, "at least 1"));
        }
        Ok(())
    }
}

pub(super) fn size(set: Option<u64>, default: usize) -> usize {
    set.map_or(default, |bytes| {
        usize::try_from(bytes).unwrap_or(usize::MAX)
    })
}

pub(super) fn limit(flag: &'static str, found: u64, wanted: &'static str) -> ConfigError {
    ConfigError::Limit {
        flag,
        found,
        wanted,
    }
}

/// Reads a size with an optional unit: `1048576`, `512K`, `8MB`, `1GiB`. Units are powers of 1024.
///
/// # Errors
/// Words for a person: what was found and which forms are understood.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let upper = text.trim().to_ascii_uppercase();
    let digits_end = upper
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(upper.len());
    let (digits, unit) = upper.split_at(digits_end);
    let factor = match unit.trim() {
        "" | "B" => 1,
        "K" | "KB" | "KIB" => KIB,
        "M" | "MB" | "MIB" => MIB,
        "G" | "GB" | "GIB" => KIB * MIB,
        _ => {
            return Err(format!(
                "{text:?} is no size; wanted bytes, or a number with K, M or G"
            ));
        }
    };
    let number = digits.parse::<u64>().ok();
    number
        .and_then(|n| n.checked_mul(factor))
        .ok_or_else(|| format!("{text:?} is no size; wanted bytes, or a number with K, M or G"))
}

#[cfg(test)]
mod tests {
    use super::{HttpArgs, LimitSettings, Limits, parse_size};

    #[test]
    fn sizes_are_read_with_their_units() {
        assert_eq!(parse_size("1048576"), Ok(1_048_576));
        assert_eq!(parse_size("512k"), Ok(512 * 1024));
        assert_eq!(parse_size("8MB"), Ok(8 * 1024 * 1024));
        assert_eq!(parse_size("1 GiB"), Ok(1024 * 1024 * 1024));
        for bad in [
            "",
            "M",
            "1T",
            "-1",
            "99999999999999999999",
            "18446744073709551615G",
        ] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_relations_between_the_control_planes_limits_hold() {
        let of = |http: HttpArgs| {
            Limits::new(&LimitSettings {
                http,
                ..Default::default()
            })
        };
        let small_budget = HttpArgs {
            http_body_budget: Some(1024 * 1024),
            ..Default::default()
        };
        let text = of(small_budget.clone()).unwrap_err().to_string();
        assert!(text.contains("--http-body-budget is 1048576"), "{text}");
        let fitting = HttpArgs {
            http_max_blob: Some(1024 * 1024),
            ..small_budget
        };
        assert!(of(fitting).is_ok());
        let no_connections = HttpArgs {
            http_max_connections: Some(0),
            ..Default::default()
        };
        assert!(of(no_connections).is_err());
        let small_head = HttpArgs {
            http_max_header: Some(100),
            ..Default::default()
        };
        assert!(of(small_head).is_err(), "hyper takes no less than 8 KiB");
    }

    #[test]
    fn the_relations_between_limits_hold() {
        let of = |set: LimitSettings| Limits::new(&set);
        assert!(of(LimitSettings::default()).is_ok());
        let payload = |bytes| LimitSettings {
            payload_bytes_max: Some(bytes),
            ..Default::default()
        };
        assert!(of(payload(0)).is_err());
        assert!(of(payload(64 * 1024 * 1024)).is_ok());
        assert!(of(payload(64 * 1024 * 1024 + 1)).is_err());
        let small = LimitSettings {
            pending_bytes_max: Some(1000),
            ..Default::default()
        };
        let text = of(small).unwrap_err().to_string();
        assert!(
            text.contains("--max-pending") && text.contains("1000"),
            "{text}"
        );
        assert!(
            of(LimitSettings {
                connections_max: Some(0),
                ..Default::default()
            })
            .is_err()
        );
    }
}
