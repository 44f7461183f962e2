//! `health`: asks a node on this host whether it is well, over its monitoring port. For people, for a
//! container's health check, and for scripts that wait for a node.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;

use super::FAILED;
use super::out::{say, tell};
use crate::config::settings::MONITOR_PORT_DEFAULT;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two questions of `--wait`.
const PAUSE: Duration = Duration::from_millis(200);
/// Most bytes of an answer.
const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// `health`.
#[derive(Args, Debug)]
pub struct HealthArgs {
    /// The node's monitoring port
    #[arg(
        long,
        short = 'm',
        value_name = "PORT",
        env = "UNIBUS_MONITOR_PORT",
        default_value_t = MONITOR_PORT_DEFAULT
    )]
    pub monitor_port: u16,
    /// Print everything that the status page shows, as JSON
    #[arg(long)]
    pub json: bool,
    /// Ask again until the node is well, at most this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub wait: u64,
}

#[allow(
    clippy::disallowed_methods,
    reason = "a command of its own: nothing else runs in this process"
)]
pub(super) fn health(args: &HealthArgs) -> ExitCode {
    let until = Instant::now() + Duration::from_secs(args.wait);
    let mut outcome = look(args.monitor_port);
    while !outcome.as_ref().is_ok_and(is_well) && Instant::now() < until {
        std::thread::sleep(PAUSE);
        outcome = look(args.monitor_port);
    }
    let well = outcome.as_ref().is_ok_and(is_well);
    match outcome {
        Ok(status) if args.json => say(&status.to_string()),
        Ok(status) => lines(&status).iter().for_each(|line| say(line)),
        Err(words) => {
            let port = args.monitor_port;
            tell(&format!(
                "unibus-node: nothing well-formed answers on 127.0.0.1:{port}: {words}; is the node running, and is that its --monitor-port?"
            ));
        }
    }
    if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILED)
    }
}

fn is_well(status: &Value) -> bool {
    status["health"]["status"] == "ok"
}

fn look(port: u16) -> Result<Value, String> {
    let body = get(port, "/status.json").map_err(|error| error.to_string())?;
    serde_json::from_slice(&body).map_err(|error| error.to_string())
}

fn get(port: u16, path: &str) -> std::io::Result<Vec<u8>> {
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let (Some(end), true) = (end, answer.starts_with(b"HTTP/1.1 200")) else {
        return Err(std::io::Error::other("the answer is no status document"));
    };
    Ok(answer.split_off(end + 4))
}

/// The answer in words.
fn lines(status: &Value) -> Vec<String> {
    let (node, health) = (&status["node"], &status["health"]);
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let state = if is_well(status) {
        "healthy".to_owned()
    } else {
        format!("unavailable ({})", word(&health["error"]))
    };
    let place = match node["cluster"].as_str() {
        Some(cluster) => format!(" of {cluster}"),
        None => String::new(),
    };
    let mut lines = vec![format!(
        "{state}: {}, {}{place}, term {}, led by {}",
        word(&node["name"]),
        word(&health["role"]),
        health["term"],
        health["leader"].as_str().unwrap_or("nobody"),
    )];
    for peer in health["peers"].as_array().into_iter().flatten() {
        let route = match peer["rtt_us"].as_f64() {
            Some(rtt) => format!("connected, {:.1} ms", rtt / 1000.0),
            None => "away".to_owned(),
        };
        let part = if peer["voter"] == true {
            "voter"
        } else {
            "no vote"
        };
        lines.push(format!("  {}  {part}, {route}", word(&peer["server_name"])));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::lines;

    #[test]
    fn an_answer_is_told_in_words() {
        let status = serde_json::json!({
            "node": { "name": "a", "cluster": "c" },
            "health": {
                "status": "unavailable", "error": "no quorum", "role": "follower", "term": 3,
                "leader": null,
                "peers": [
                    { "server_name": "b", "voter": true, "rtt_us": 1500 },
                    { "server_name": "d", "voter": true },
                ],
            },
        });
        assert_eq!(
            lines(&status),
            [
                "unavailable (no quorum): a, follower of c, term 3, led by nobody",
                "  b  voter, connected, 1.5 ms",
                "  d  voter, away",
            ]
        );
    }
}
