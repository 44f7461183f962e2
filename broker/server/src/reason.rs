//! Why connections end, in the words that nats-server reports.
//!
//! Owns the texts of `reason` in connz and of disconnect advisories. The `-ERR` texts that clients read
//! are the session's.

use std::fmt;

/// Why a connection was closed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum CloseReason {
    /// The client closed it.
    ClientClosed,
    /// No CONNECT within `auth_timeout`.
    AuthenticationTimeout,
    /// Missing or wrong credentials.
    AuthenticationViolation,
    /// The credentials' time is over.
    AuthenticationExpired,
    /// The identity was revoked, or its user changed or went with a reload.
    Revocation,
    /// TLS was not agreed upon.
    TlsHandshakeError,
    /// Too many bytes wait for it.
    SlowConsumerPendingBytes,
    /// It took no bytes for too long.
    SlowConsumerWriteDeadline,
    /// Writing to its socket failed.
    WriteError,
    /// Reading from its socket failed.
    ReadError,
    /// It sent what is no NATS protocol.
    ParseError,
    /// It answered no PING.
    StaleConnection,
    /// It sent what a client may not.
    ProtocolViolation,
    /// CONNECT with an unknown `protocol`.
    BadClientProtocolVersion,
    /// The node serves as many connections as it may.
    MaxConnectionsExceeded,
    /// The account or user has as many connections as it may.
    MaxAccountConnectionsExceeded,
    /// A message over `max_payload`.
    MaxPayloadExceeded,
    /// A control line over `max_control_line`.
    MaxControlLineExceeded,
    /// Headers from a client that has not agreed to them.
    MsgHeaderViolation,
    /// `no_responders` without `headers`.
    NoRespondersRequiresHeaders,
    /// The node stops or is in lame duck mode.
    ServerShutdown,
    /// The account is gone.
    MissingAccount,
    /// An operator closed it.
    Kicked,
}

impl CloseReason {
    /// nats-server's text for it.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::ClientClosed => "Client Closed",
            Self::AuthenticationTimeout => "Authentication Timeout",
            Self::AuthenticationViolation => "Authentication Failure",
            Self::AuthenticationExpired => "Authentication Expired",
            Self::Revocation => "Credentials Revoked",
            Self::TlsHandshakeError => "TLS Handshake Failure",
            Self::SlowConsumerPendingBytes => "Slow Consumer (Pending Bytes)",
            Self::SlowConsumerWriteDeadline => "Slow Consumer (Write Deadline)",
            Self::WriteError => "Write Error",
            Self::ReadError => "Read Error",
            Self::ParseError => "Parse Error",
            Self::StaleConnection => "Stale Connection",
            Self::ProtocolViolation => "Protocol Violation",
            Self::BadClientProtocolVersion => "Bad Client Protocol Version",
            Self::MaxConnectionsExceeded => "Maximum Connections Exceeded",
            Self::MaxAccountConnectionsExceeded => "Maximum Account Connections Exceeded",
            Self::MaxPayloadExceeded => "Maximum Message Payload Exceeded",
            Self::MaxControlLineExceeded => "Maximum Control Line Exceeded",
            Self::MsgHeaderViolation => "Message Header Violation",
            Self::NoRespondersRequiresHeaders => "No Responders Requires Headers",
            Self::ServerShutdown => "Server Shutdown",
            Self::MissingAccount => "Missing Account",
            Self::Kicked => "Kicked",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}
