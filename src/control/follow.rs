//! On every node: what is applied to the users', rooms' and members' buckets goes into the
//! directory, before the change is acknowledged. Reads only records that are new; starts over where
//! a bucket was made, removed or emptied. Runs inside apply: never waits for the replica.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use unibus_proto::control::{EndpointId, RoomId, member_notices, room_notices};
use unibus_proto::headers::HeaderMap;
use unibus_state::{Effect, Location, State, StoredMessage, Stream};

use super::buckets::Bucket;
use crate::access::{Book, Change, Directory};

/// The buckets that decide what a connection may do.
const FOLLOWED: [(Bucket, Book); 3] = [
    (Bucket::Users, Book::Users),
    (Bucket::Rooms, Book::Rooms),
    (Bucket::Members, Book::Members),
];

/// How far one bucket has been followed.
#[derive(Debug, Default)]
struct Seen {
    uid: u64,
    last_seq: u64,
    keys: HashSet<Box<[u8]>>,
}

/// Reads the stored bytes of a record.
type ReadRecord<'a> = &'a dyn Fn(&Location) -> Result<Bytes, String>;

/// Follows the buckets into a directory.
#[derive(Debug)]
pub(crate) struct Follower {
    directory: Arc<Directory>,
    seen: Mutex<[Seen; FOLLOWED.len()]>,
}

impl Follower {
    pub(crate) fn new(directory: Arc<Directory>) -> Self {
        Self {
            directory,
            seen: Mutex::default(),
        }
    }

    /// Takes what an entry changed; answers with the notices that it is worth.
    pub(crate) fn applied(
        &self,
        state: &State,
        effects: &[Effect],
        read: ReadRecord<'_>,
    ) -> BTreeSet<News> {
        let touched = FOLLOWED.map(|(bucket, _)| touched(effects, bucket.stream()));
        if touched.iter().all(Option::is_none) {
            return BTreeSet::new();
        }
        let changes = self.follow(state, touched, read);
        // Where a bucket is new nobody is told of what it holds.
        let news = changes.iter().filter(|change| !change.anew);
        let news = news.flat_map(|change| change.records.iter().map(|(key, _)| (change.book, key)));
        let news = news.flat_map(|(book, key)| news_of(book, key)).collect();
        self.directory.take(changes);
        news
    }

    /// Starts over with what the state holds.
    pub(crate) fn resync(&self, state: &State, read: ReadRecord<'_>) {
        let changes = self.follow(state, [Some(true); FOLLOWED.len()], read);
        self.directory.take(changes);
    }

    fn follow(
        &self,
        state: &State,
        touched: [Option<bool>; FOLLOWED.len()],
        read: ReadRecord<'_>,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut all_seen = self.seen.lock();
        for (((bucket, book), touched), seen) in
            FOLLOWED.into_iter().zip(touched).zip(all_seen.iter_mut())
        {
            let Some(anew) = touched else { continue };
            let stream = state.stream(bucket.stream());
            let anew = anew || stream.is_none_or(|stream| seen.must_start_over(stream));
            changes.push(match stream {
                None => Change::emptied(book),
                Some(stream) => seen.follow(stream, bucket, book, anew, read),
            });
        }
        changes
    }
}

/// Something that clients are told to look at.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct News {
    /// Where they hear of it.
    pub(crate) subject: String,
    pub(crate) room: RoomId,
}

/// What a changed record is worth telling: to the room's members, and to whom a membership is about.
fn news_of(book: Book, key: &str) -> Vec<News> {
    let news = |subject, room: &RoomId| News {
        subject,
        room: room.clone(),
    };
    match book {
        Book::Users => Vec::new(),
        Book::Rooms => {
            let room = key.parse::<RoomId>();
            room.iter()
                .map(|room| news(room_notices(room), room))
                .collect()
        }
        Book::Members => {
            let ids = key.split_once('.').and_then(|(room, endpoint)| {
                let room = room.parse::<RoomId>().ok()?;
                Some((room, endpoint.parse::<EndpointId>().ok()?))
            });
            let Some((room, endpoint)) = ids else {
                return Vec::new();
            };
            vec![
                news(room_notices(&room), &room),
                news(member_notices(&endpoint), &room),
            ]
        }
    }
}

/// Whether effects touch a bucket: `Some(true)` = all of it.
fn touched(effects: &[Effect], stream: &str) -> Option<bool> {
    let mut found = None;
    for effect in effects {
        match effect {
            Effect::StreamCreated { name }
            | Effect::StreamUpdated { name }
            | Effect::StreamRemoved { name }
                if **name == *stream =>
            {
                return Some(true);
            }
            Effect::StreamAdvanced { name } if **name == *stream => found = Some(false),
            _ => {}
        }
    }
    found
}

impl Seen {
    fn follow(
        &mut self,
        stream: &Stream,
        bucket: Bucket,
        book: Book,
        mut anew: bool,
        read: ReadRecord<'_>,
    ) -> Change {
        let mut records = Vec::new();
        if !anew {
            records = self.news(stream, bucket, read);
            anew = !self.is_whole(stream);
        }
        if anew {
            *self = Self::default();
            records = self.news(stream, bucket, read);
        }
        Change {
            book,
            anew,
            records,
        }
    }

    /// This is another stream of the same name, or records went away without a word (a purge).
    fn must_start_over(&self, stream: &Stream) -> bool {
        stream.uid().0 != self.uid || stream.last_seq() <= self.last_seq
    }

    /// Whether every key that was ever seen still has a record, if only a tombstone.
    fn is_whole(&self, stream: &Stream) -> bool {
        stream.state().num_subjects == self.keys.len() as u64
    }

    /// The records after the last one seen, oldest first; `None` = the key is gone.
    fn news(
        &mut self,
        stream: &Stream,
        bucket: Bucket,
        read: ReadRecord<'_>,
    ) -> Vec<(String, Option<Bytes>)> {
        let mut records = Vec::new();
        let mut next = self.last_seq + 1;
        while let Some((seq, at)) = stream.next_for::<&[u8]>(&[], next) {
            next = seq + 1;
            let Some(message) = stream.message(seq) else {
                continue;
            };
            self.keys.insert(message.subject.into());
            let key = std::str::from_utf8(message.subject)
                .ok()
                .and_then(|subject| subject.strip_prefix(bucket.prefix()));
            let Some(key) = key else { continue };
            // Fail closed: what can't be read grants nothing.
            let value = read(&at).and_then(value_of).unwrap_or_else(|error| {
                tracing::error!(%key, %error, "a record can't be read; it grants nothing");
                None
            });
            records.push((key.to_owned(), value));
        }
        self.uid = stream.uid().0;
        self.last_seq = stream.last_seq();
        records
    }
}

/// The value of a stored record; `None` for a tombstone.
pub(super) fn value_of(record: Bytes) -> Result<Option<Bytes>, String> {
    let message = StoredMessage::decode(record).map_err(|error| error.to_string())?;
    let headers = HeaderMap::parse(&message.headers);
    let gone = headers.is_ok_and(|headers| headers.get("KV-Operation").is_some());
    Ok((!gone).then_some(message.payload))
}
