//! The language of the transcripts.
//!
//! ```text
//! # a comment
//! broker auth nkey payload_bytes_max=100 ...    how the server is set up; first line, optional
//! open C                                        a client connects; its INFO line is read
//! hello C [{json}]                              CONNECT and PING are sent, PONG (and INFO) read
//! C: PING⏎                                      client C sends exactly these bytes
//! S: PONG⏎                                      client C receives exactly these bytes next
//! closed C                                      nothing more comes but the end of the stream
//! ```
//!
//! More clients are `C2`, `C3`, …, whose server side is `S2`, `S3`, …. At the end every client that
//! is still open sends `PING` and has to receive `PONG` and nothing before it. Escapes: see
//! `pattern.rs`.

/// One line of a script.
#[derive(Debug)]
pub(crate) struct Step {
    /// Line number, from 1.
    pub(crate) line: usize,
    /// The client's name: empty, `2`, `3`, …
    pub(crate) client: String,
    pub(crate) action: Action,
}

#[derive(Debug)]
pub(crate) enum Action {
    Open,
    Hello(String),
    Send(String),
    Expect(String),
    Closed,
}

#[derive(Debug)]
pub(crate) struct Script {
    /// Words of the `broker` line.
    pub(crate) settings: Vec<String>,
    pub(crate) steps: Vec<Step>,
}

/// What most clients say. Neither verbose nor pedantic.
const USUAL_CONNECT: &str =
    r#"{"verbose":false,"pedantic":false,"protocol":1,"headers":true,"no_responders":true}"#;

impl Script {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut script = Self {
            settings: Vec::new(),
            steps: Vec::new(),
        };
        for (i, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(settings) = line.strip_prefix("broker ") {
                script.settings = settings.split_whitespace().map(str::to_owned).collect();
                continue;
            }
            let (client, action) = step(line).ok_or_else(|| format!("line {}: {line}", i + 1))?;
            script.steps.push(Step {
                line: i + 1,
                client,
                action,
            });
        }
        Ok(script)
    }

    pub(crate) fn has(&self, word: &str) -> bool {
        self.settings.iter().any(|setting| setting == word)
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        let value = self
            .settings
            .iter()
            .find_map(|setting| setting.strip_prefix(name))?;
        value.strip_prefix('=')?.parse().ok()
    }
}

fn step(line: &str) -> Option<(String, Action)> {
    if let Some((side, text)) = line.split_once(": ") {
        if let Some(client) = side.strip_prefix('C') {
            return Some((client.to_owned(), Action::Send(text.to_owned())));
        }
        if let Some(client) = side.strip_prefix('S') {
            return Some((client.to_owned(), Action::Expect(text.to_owned())));
        }
    }
    let (verb, rest) = line.split_once(' ')?;
    let (name, json) = rest.split_once(' ').unwrap_or((rest, USUAL_CONNECT));
    let client = name.strip_prefix('C')?.to_owned();
    match verb {
        "open" => Some((client, Action::Open)),
        "hello" => Some((client, Action::Hello(json.to_owned()))),
        "closed" => Some((client, Action::Closed)),
        _ => None,
    }
}
