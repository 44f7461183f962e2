//! From what the client library tells to what is shown: texts are cleaned here, before anything keeps them.
//! Pure.

use unibus_client::rooms::blob::BlobRef;
use unibus_client::{Event, HistoryPage, MembershipChange, Message, Undecryptable, Unreadable};

use super::clean::{clean, clean_line};
use super::log::{Body, Entry, Page, Reaction, Said, Told, What};

/// Of a message's text so much is kept, in bytes; a frame holds up to a mebibyte.
const TEXT_BYTES_MAX: usize = 16 * 1024;
/// Of a file's name and of a reason.
const NAME_BYTES_MAX: usize = 120;
/// Of a reaction: an emoji, or a short word.
const REACTION_BYTES_MAX: usize = 32;

/// Something that a room told.
#[derive(Clone, Debug)]
pub(in crate::chat) enum Heard {
    Told(Told),
    Change(MembershipChange),
    /// This identity belongs to it no more.
    Gone(String),
}

/// What an event says; `None` = nothing that is shown.
pub(in crate::chat) fn heard(event: Event) -> Option<Heard> {
    Some(Heard::Told(match event {
        Event::Message(message) => {
            let text = clean(&message.text(), TEXT_BYTES_MAX);
            said(&message, Body::Text(text))
        }
        Event::Reaction {
            to,
            reaction,
            message,
        } => {
            let reaction = clean_line(reaction.trim(), REACTION_BYTES_MAX);
            if reaction.trim().is_empty() {
                return None;
            }
            Told::Reaction(Reaction {
                seq: message.seq,
                to,
                reaction,
                from: message.from().clone(),
            })
        }
        Event::File { file, message } => {
            let name = file_name(&file);
            let file = Box::new(file);
            said(&message, Body::File { file, name })
        }
        Event::Other(message) => {
            let text = format!("(a frame of the kind {})", message.kind());
            said(&message, Body::Text(text))
        }
        Event::Undecryptable(frame) => unreadable(&frame),
        Event::Membership(change) => return Some(Heard::Change(change)),
        Event::Gone { words } => return Some(Heard::Gone(clean_line(&words, NAME_BYTES_MAX))),
        // Caught up; what the library learns to tell later.
        _ => return None,
    }))
}

/// A page of history.
pub(in crate::chat) fn page(page: HistoryPage) -> Page {
    let told = page.events.into_iter().filter_map(heard);
    Page {
        told: told
            .filter_map(|heard| match heard {
                Heard::Told(told) => Some(told),
                _ => None,
            })
            .collect(),
        next: page.next,
        previous: page.previous,
    }
}

/// A file's name as its sender calls it: shown, and the last part of it a proposal of where to save it.
fn file_name(file: &BlobRef) -> String {
    let name = clean_line(file.name.as_deref().unwrap_or_default(), NAME_BYTES_MAX);
    match name.trim() {
        "" => "file".to_owned(),
        name => name.to_owned(),
    }
}

fn said(message: &Message, body: Body) -> Told {
    let header = &message.header;
    Told::Entry(Entry {
        seq: message.seq,
        at_ms: header.sent_ms,
        what: What::Said(Said {
            id: header.id,
            from: header.from.clone(),
            body,
            reply_to: header.reply_to,
            thread: header.thread,
        }),
    })
}

fn unreadable(frame: &Undecryptable) -> Told {
    let why = match &frame.reason {
        Unreadable::NoKey(epoch) => format!("from before you came: no key of epoch {epoch}"),
        other => clean_line(&other.to_string(), NAME_BYTES_MAX),
    };
    Told::Entry(Entry {
        seq: frame.seq,
        at_ms: frame.claims.as_ref().map_or(0, |claims| claims.sent_ms),
        what: What::Unreadable { frames: 1, why },
    })
}
