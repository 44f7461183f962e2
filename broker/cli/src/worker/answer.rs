//! What a worker answers, and to what.

use bytes::Bytes;
use unibus_client::rooms::frame::{FrameId, Header};
use unibus_client::{Message, MyRoom};
use unibus_proto::control::EndpointId;

use super::WorkerArgs;
use crate::output;
use crate::shell::{Printed, Shell};
use crate::text;

/// Whether a message is to be answered: what begins a conversation, and what replies to one of our own
/// answers. Every answer is a reply, so a worker never answers another one's answer: whatever others
/// do, there is no loop.
pub(super) fn wants_answer(
    header: &Header,
    me: &EndpointId,
    is_own: impl Fn(FrameId) -> bool,
) -> bool {
    header.from != *me && header.reply_to.is_none_or(is_own)
}

/// Makes answers.
pub(super) struct Answerer {
    /// None: echo.
    shell: Option<Shell>,
    prefix: String,
    output_max: usize,
}

impl Answerer {
    pub(super) fn of(args: &WorkerArgs) -> Self {
        let shell = args.exec.as_ref().map(|command| Shell {
            command: command.clone(),
            limit: args.exec_timeout,
            output_max: args.output_max,
        });
        Self {
            shell,
            prefix: args.prefix.clone(),
            output_max: usize::try_from(args.output_max).unwrap_or(usize::MAX),
        }
    }

    /// Whether what was said is for this worker.
    pub(super) fn is_meant(&self, said: &[u8]) -> bool {
        said.starts_with(self.prefix.as_bytes())
    }

    /// The answer; `None` where there is none.
    pub(super) async fn answer(&self, room: &MyRoom, message: &Message) -> Option<Vec<u8>> {
        let said = message.payload.strip_prefix(self.prefix.as_bytes())?;
        let Some(shell) = &self.shell else {
            return Some(said.get(..self.output_max).unwrap_or(said).to_vec());
        };
        let at = time::Duration::milliseconds(i64::try_from(message.header.sent_ms).ok()?);
        let sent = time::OffsetDateTime::UNIX_EPOCH.checked_add(at);
        let env = [
            ("UNIBUS_ROOM", room.id.to_string()),
            ("UNIBUS_SUBJECT", room.subject.to_string()),
            ("UNIBUS_FROM", message.from().to_string()),
            ("UNIBUS_ID", message.id().to_string()),
            ("UNIBUS_TIME", sent.map_or_else(String::new, text::rfc3339)),
        ];
        let Printed { output, problem } = shell.run(&env, Bytes::copy_from_slice(said)).await;
        let answer = output.trim_ascii_end().to_vec();
        let Some(problem) = problem else {
            return (!answer.is_empty()).then_some(answer);
        };
        output::tell(&format!("unibus: {:?}: {problem}", shell.command));
        Some(match answer.is_empty() {
            true => format!("no answer: the command {problem}").into_bytes(),
            false => answer,
        })
    }
}

#[cfg(test)]
mod tests {
    use unibus_client::Identity;
    use unibus_client::rooms::frame::{FrameId, FrameKind, Header};

    use super::wants_answer;

    fn header(from: &Identity, at: u64, reply_to: Option<u64>) -> Header {
        Header {
            id: id(at),
            room: "r".parse().unwrap(),
            epoch: 1,
            from: from.endpoint().clone(),
            kind: FrameKind::message(),
            sent_ms: at,
            thread: None,
            reply_to: reply_to.map(id),
        }
    }

    fn id(at: u64) -> FrameId {
        FrameId::new(at, [0; 10])
    }

    #[test]
    fn two_workers_and_a_person_come_to_an_end() {
        let [person, one, two] =
            [1, 2, 3].map(|at| Identity::from_secrets([at; 32], [at; 32]).unwrap());
        // Each worker answers whatever it may, in turn; the person begins, and replies to an answer.
        let mut said = vec![header(&person, 0, None)];
        let mut next = 0;
        while next < said.len() {
            assert!(said.len() < 20, "they talk for ever");
            let message = said[next].clone();
            next += 1;
            for worker in [&one, &two] {
                let me = worker.endpoint();
                let is_own = |id| said.iter().any(|m| m.id == id && m.from == *me);
                if wants_answer(&message, me, is_own) {
                    let to = message.sent_ms;
                    said.push(header(worker, said.len() as u64, Some(to)));
                }
            }
            if next == 3 {
                let to = said.iter().position(|m| m.from == *one.endpoint()).unwrap();
                said.push(header(&person, said.len() as u64, Some(to as u64)));
            }
        }
        // Both answer the person, and one of them the reply to it.
        assert_eq!(said.len(), 5);
        assert_eq!(said[4].from, *one.endpoint());
    }
}
