//! What a message carries: from the command line, a file or stdin; headers; templates.

use std::io::{IsTerminal, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;

use async_nats::HeaderMap;
use bytes::Bytes;
use clap::Args;

use crate::error::{Attempt, Result, wrong};
use crate::output;
use crate::text;

/// Most bytes that are read for one payload: more than any server takes in one message.
const PAYLOAD_MAX: u64 = 64 * 1024 * 1024;

/// The flags of commands that send a payload.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct BodyArgs {
    /// The payload [default: what comes on stdin]
    #[arg(value_name = "PAYLOAD")]
    pub(crate) payload: Option<String>,
    /// Read the payload from a file
    #[arg(long, short, value_name = "FILE", conflicts_with = "payload")]
    pub(crate) file: Option<PathBuf>,
    /// A header, 'Name: value'; may be given more than once
    #[arg(id = "header", long, short = 'H', value_name = "HEADER", value_parser = text::header)]
    pub(crate) headers: Vec<(String, String)>,
    /// Replace {{Count}}, {{ID}} and {{Time}} in the payload: number of the message, a fresh id, now
    #[arg(long)]
    pub(crate) template: bool,
}

/// A payload to send, perhaps more than once.
pub(crate) struct Body {
    bytes: Bytes,
    template: bool,
}

impl Body {
    /// Reads the payload from where the flags say.
    ///
    /// # Errors
    /// Where the file can't be read, or is no text though it is to be a template.
    pub(crate) fn read(args: &BodyArgs) -> Result<Self> {
        let bytes = match (&args.payload, &args.file) {
            (Some(text), _) => Bytes::from(text.clone()),
            (None, Some(path)) => {
                let what = || format!("can't read {}", path.display());
                let file = std::fs::File::open(path).or_wrong(what)?;
                all_of(file).or_wrong(what)?
            }
            (None, None) => {
                if std::io::stdin().is_terminal() {
                    output::tell("unibus: reading the payload from the keyboard; Ctrl-D ends it");
                }
                all_of(std::io::stdin().lock()).or_wrong(|| "can't read stdin".to_owned())?
            }
        };
        if args.template && std::str::from_utf8(&bytes).is_err() {
            return wrong("the payload is no text, so it can't be a --template");
        }
        Ok(Self {
            bytes,
            template: args.template,
        })
    }

    /// The payload of message `number`, counted from 1.
    pub(crate) fn of(&self, number: u64, fresh_id: impl Fn() -> String) -> Bytes {
        match std::str::from_utf8(&self.bytes) {
            Ok(text) if self.template => {
                let now = text::rfc3339(time::OffsetDateTime::now_utc());
                let filled = text
                    .replace("{{Count}}", &number.to_string())
                    .replace("{{ID}}", &fresh_id())
                    .replace("{{Time}}", &now);
                Bytes::from(filled)
            }
            _ => self.bytes.clone(),
        }
    }
}

/// Stdin as a file, for those who read it piece by piece.
///
/// # Errors
/// Where it is closed.
pub(crate) fn stdin() -> Result<tokio::fs::File> {
    let handle = std::io::stdin().as_fd().try_clone_to_owned();
    let handle = handle.or_wrong(|| "can't read stdin".to_owned())?;
    Ok(tokio::fs::File::from_std(std::fs::File::from(handle)))
}

fn all_of(from: impl Read) -> std::io::Result<Bytes> {
    let mut bytes = Vec::new();
    from.take(PAYLOAD_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > PAYLOAD_MAX {
        let text = format!(
            "more than {} bytes are no message; see unibus object put",
            PAYLOAD_MAX
        );
        return Err(std::io::Error::other(text));
    }
    Ok(Bytes::from(bytes))
}

/// Headers as a client library wants them; none where there are none.
pub(crate) fn headers(pairs: &[(String, String)]) -> Option<HeaderMap> {
    if pairs.is_empty() {
        return None;
    }
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(name.as_str(), value.as_str());
    }
    Some(map)
}

#[cfg(test)]
mod tests {
    use super::{Body, BodyArgs};

    fn body(payload: &str, template: bool) -> Body {
        Body::read(&BodyArgs {
            payload: Some(payload.into()),
            template,
            ..BodyArgs::default()
        })
        .unwrap()
    }

    #[test]
    fn templates_are_filled_only_where_asked_for() {
        let id = || "x".to_owned();
        assert_eq!(body("n={{Count}} {{ID}}", true).of(7, id), "n=7 x");
        assert_eq!(body("n={{Count}}", false).of(7, id), "n={{Count}}");
    }
}
