//! Flags about how clients' connections are encrypted, and about WebSocket.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;

use super::tls::{FALLBACK_DELAY_DEFAULT, HandshakeFirst, TLS_TIMEOUT_MAX};

/// How clients' connections are encrypted, and WebSocket.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Client TLS and WebSocket")]
pub struct ClientArgs {
    /// Certificate that clients see, with its chain (PEM): clients must use TLS then. SIGHUP reads it
    /// again without disconnecting anybody
    #[arg(long, value_name = "FILE", env = "UNIBUS_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM, mode 0600)
    #[arg(long, value_name = "FILE", env = "UNIBUS_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// Authorities that clients' certificates come from (PEM), for --tls-verify
    #[arg(long, value_name = "FILE", env = "UNIBUS_TLS_CA")]
    pub tls_ca: Option<PathBuf>,
    /// Refuse clients without a certificate of --tls-ca
    #[arg(long, value_parser = BoolishValueParser::new(), env = "UNIBUS_TLS_VERIFY")]
    pub tls_verify: bool,
    /// Let clients begin with the TLS handshake instead of reading INFO first: always, auto (those who
    /// begin within 50 ms) or a time such as 300ms
    #[arg(
        long,
        value_name = "WHEN",
        num_args = 0..=1,
        default_missing_value = "always",
        value_parser = parse_first,
        env = "UNIBUS_TLS_FIRST"
    )]
    pub tls_first: Option<HandshakeFirst>,
    /// Serve clients without TLS too, although there is a certificate
    #[arg(long, value_parser = BoolishValueParser::new(), env = "UNIBUS_ALLOW_NON_TLS")]
    pub allow_non_tls: bool,
    /// Listen for NATS over WebSocket, for browsers: PORT (on --bind) or IP:PORT; wss with the
    /// certificate of --tls-cert
    #[arg(long, value_name = "ADDRESS", value_parser = parse_listen, env = "UNIBUS_WS_LISTEN")]
    pub ws_listen: Option<Listen>,
    /// Plain ws: for loopback, or behind something that ends TLS
    #[arg(long, value_parser = BoolishValueParser::new(), env = "UNIBUS_WS_NO_TLS")]
    pub ws_no_tls: bool,
    /// Refuse web pages that come from another host or port than they connect to
    #[arg(long, value_parser = BoolishValueParser::new(), env = "UNIBUS_WS_SAME_ORIGIN")]
    pub ws_same_origin: bool,
    /// Refuse web pages of other origins than these, such as `https://app.example`
    #[arg(
        long,
        value_name = "A,B,C",
        value_delimiter = ',',
        env = "UNIBUS_WS_ALLOWED_ORIGINS"
    )]
    pub ws_allowed_origins: Vec<String>,
    /// Address that WebSocket clients are told to use for this node
    #[arg(long, value_name = "HOST:PORT", env = "UNIBUS_WS_ADVERTISE")]
    pub ws_advertise: Option<String>,
}

/// Where to listen; without an address, where the NATS listener does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Listen {
    /// The address.
    pub ip: Option<IpAddr>,
    /// The TCP port; 0 takes a free one.
    pub port: u16,
}

fn parse_listen(text: &str) -> Result<Listen, String> {
    if let Ok(port) = text.parse() {
        return Ok(Listen { ip: None, port });
    }
    let at: SocketAddr = text
        .parse()
        .map_err(|_| format!("{text:?} is no address; wanted PORT or IP:PORT"))?;
    Ok(Listen {
        ip: Some(at.ip()),
        port: at.port(),
    })
}

fn parse_first(text: &str) -> Result<HandshakeFirst, String> {
    match text {
        "always" | "true" => return Ok(HandshakeFirst::Always),
        "auto" => return Ok(HandshakeFirst::Auto(FALLBACK_DELAY_DEFAULT)),
        "off" | "false" => return Ok(HandshakeFirst::Off),
        _ => {}
    }
    let (digits, unit) = text.split_at(text.trim_end_matches(char::is_alphabetic).len());
    let number: Option<u64> = digits.parse().ok();
    let delay = match (number, unit) {
        (Some(ms), "ms") => Some(Duration::from_millis(ms)),
        (Some(s), "s") => Some(Duration::from_secs(s)),
        _ => None,
    };
    delay
        .filter(|delay| *delay <= TLS_TIMEOUT_MAX)
        .map(HandshakeFirst::Auto)
        .ok_or_else(|| format!("{text:?} is no time; wanted always, auto or for example 300ms"))
}
