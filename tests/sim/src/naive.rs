//! What the state machine has to do, said again as simply as possible: streams as maps, rooms as sets.
//! Fed with the committed log, in order, beside the first replica that applies each entry.

use std::collections::{BTreeMap, BTreeSet};

use unibus_state::command::CommandRef;
use unibus_state::{Command, Entry, Outcome};

use crate::control;
use crate::streams::{REGISTER, STREAMS, header, of_subject};

/// A stream: messages by sequence.
#[derive(Clone, Debug, Default)]
pub(crate) struct NaiveStream {
    pub(crate) messages: BTreeMap<u64, (String, Vec<u8>)>,
    pub(crate) last_seq: u64,
    ids: BTreeMap<String, u64>,
}

/// Everything.
#[derive(Debug, Default)]
pub(crate) struct Naive {
    pub(crate) streams: BTreeMap<&'static str, NaiveStream>,
    /// Who belongs to which room, and since which entry that is so.
    members: BTreeMap<(usize, usize), Vec<(usize, bool)>>,
    nonces: BTreeSet<String>,
    /// The entry after which a user's requests count for nothing.
    revoked: BTreeMap<usize, usize>,
}

impl Naive {
    fn is_member(&self, index: usize, room: usize, user: usize) -> bool {
        let changes = self.members.get(&(room, user));
        let last = changes.and_then(|list| list.iter().rev().find(|(at, _)| *at <= index));
        last.is_some_and(|(_, joined)| *joined)
    }

    /// Whether a user may use a room's subject once entry `index` is applied.
    pub(crate) fn may_use(&self, index: usize, room: usize, user: usize) -> bool {
        let revoked = self.revoked.get(&user).is_some_and(|at| *at <= index);
        self.is_member(index, room, user) && !revoked
    }

    /// Takes an entry and what the state machine said to it.
    pub(crate) fn take(
        &mut self,
        index: usize,
        entry: &Entry,
        outcomes: &[Outcome],
    ) -> Result<(), String> {
        if entry.commands().count() != outcomes.len() {
            return Err(format!("entry {index}: {} outcomes", outcomes.len()));
        }
        for (command, outcome) in entry.commands().zip(outcomes) {
            let command = command.map_err(|error| format!("entry {index}: {error}"))?;
            self.command(index, &command, outcome)
                .map_err(|why| format!("entry {index}, {command:?}: {outcome:?}: {why}"))?;
        }
        Ok(())
    }

    fn command(
        &mut self,
        index: usize,
        command: &CommandRef<'_>,
        outcome: &Outcome,
    ) -> Result<(), String> {
        match command {
            CommandRef::Append(append) => {
                let subject = String::from_utf8_lossy(append.subject).into_owned();
                let (head, payload) = append.data.split_at(append.header_len as usize);
                let name = of_subject(&subject).ok_or("no such stream")?;
                let stream = self.streams.entry(name).or_default();
                stream.append(name, &subject, head, payload, outcome)
            }
            CommandRef::Other(command) => match &**command {
                Command::MessageDelete(delete) => {
                    let stream = self.streams.entry(STREAMS[0]).or_default();
                    let was_there = stream.messages.remove(&delete.seq).is_some();
                    same(was_there, *outcome == Outcome::Done)
                }
                Command::Control(change) if *outcome == Outcome::Done => {
                    self.control(index, &control::read(change))
                }
                _ => Ok(()),
            },
        }
    }

    fn control(&mut self, index: usize, done: &control::Done) -> Result<(), String> {
        if let Some(nonce) = &done.nonce
            && !self.nonces.insert(nonce.clone())
        {
            return Err("a nonce was accepted twice".into());
        }
        if let Some(at) = done.asker.and_then(|user| self.revoked.get(&user)) {
            return Err(format!("its signer was revoked by entry {at}"));
        }
        for user in &done.revoked {
            self.revoked.insert(*user, index);
        }
        for (room, user, joined) in &done.members {
            let changes = self.members.entry((*room, *user)).or_default();
            changes.push((index, *joined));
        }
        Ok(())
    }
}

impl NaiveStream {
    fn append(
        &mut self,
        name: &'static str,
        subject: &str,
        head: &[u8],
        payload: &[u8],
        outcome: &Outcome,
    ) -> Result<(), String> {
        let id = header(head, "Nats-Msg-Id");
        if let Some(first) = id.as_ref().and_then(|id| self.ids.get(id)) {
            return published(outcome, *first, true);
        }
        if let Some(expected) = header(head, "Nats-Expected-Last-Subject-Sequence") {
            let mut sequences = self.messages.iter().rev();
            let last = sequences.find(|(_, (at, _))| at == subject);
            if expected != last.map_or(0, |(seq, _)| *seq).to_string() {
                let refused = matches!(outcome, Outcome::Refused(r) if r.error.err_code == 10071);
                return same(true, refused);
            }
        }
        self.last_seq += 1;
        published(outcome, self.last_seq, false)?;
        let message = (subject.to_owned(), payload.to_vec());
        self.messages.insert(self.last_seq, message);
        self.ids.extend(id.map(|id| (id, self.last_seq)));
        if name == STREAMS[REGISTER] {
            // One revision is kept.
            let last = self.last_seq;
            self.messages
                .retain(|seq, (at, _)| *seq == last || at != subject);
        }
        Ok(())
    }
}

fn published(outcome: &Outcome, wanted: u64, again: bool) -> Result<(), String> {
    match outcome {
        Outcome::Published { seq, duplicate, .. } if (*seq, *duplicate) == (wanted, again) => {
            Ok(())
        }
        _ => Err(format!("wanted sequence {wanted}, a duplicate: {again}")),
    }
}

fn same(wanted: bool, found: bool) -> Result<(), String> {
    (wanted == found)
        .then_some(())
        .ok_or_else(|| format!("wanted {wanted}, found {found}"))
}
