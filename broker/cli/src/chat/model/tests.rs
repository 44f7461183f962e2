//! The core against what people and sessions do to it, without either.

use std::collections::BTreeMap;

use unibus_client::rooms::frame::FrameId;
use unibus_client::{Identity, MembershipChange, MyRoom};
use unibus_proto::control::{EndpointId, MemberRole, Policy};

use super::heard::Heard;
use super::keys::Key;
use super::log::{Body, Entry, Page, Part, Reaction, Said, Told, What};
use super::names::Names;
use super::state::{Chat, Errand, Input, Look, News, Order, Person, Sheet, Speaking};

/// Monday 30 November 2026, 12:31 UTC.
pub(in crate::chat) const NOON: u64 = 1_796_041_860_000;

pub(in crate::chat) fn who(at: u8) -> Identity {
    Identity::from_secrets([at; 32], [at + 100; 32]).unwrap()
}

pub(in crate::chat) fn frame(seq: u64) -> FrameId {
    FrameId::new(NOON + seq, [0; 10])
}

pub(in crate::chat) fn room(id: &str, joined: bool) -> MyRoom {
    MyRoom {
        id: id.parse().unwrap(),
        subject: format!("team.{id}").parse().unwrap(),
        epoch: 1,
        policy: Policy::MATRIX,
        role: MemberRole::Member,
        joined,
        needs_rekey: false,
    }
}

/// Something that `who` says at a place.
pub(in crate::chat) fn said(seq: u64, who: &Identity, text: &str) -> Told {
    answer(seq, who, text, None, None)
}

pub(in crate::chat) fn answer(
    seq: u64,
    who: &Identity,
    text: &str,
    reply_to: Option<u64>,
    thread: Option<u64>,
) -> Told {
    Told::Entry(Entry {
        seq: Some(seq),
        at_ms: NOON + seq * 1000,
        what: What::Said(Said {
            id: frame(seq),
            from: who.endpoint().clone(),
            body: Body::Text(text.into()),
            reply_to: reply_to.map(frame),
            thread: thread.map(frame),
        }),
    })
}

pub(in crate::chat) fn reaction(seq: u64, who: &Identity, to: u64, reaction: &str) -> Told {
    Told::Reaction(Reaction {
        seq: Some(seq),
        to: frame(to),
        reaction: reaction.into(),
        from: who.endpoint().clone(),
    })
}

/// A chat of one person with somebody else, and what is done to it.
pub(in crate::chat) struct World {
    pub(in crate::chat) chat: Chat,
    pub(in crate::chat) me: Identity,
    pub(in crate::chat) ann: Identity,
}

impl World {
    pub(in crate::chat) fn new() -> Self {
        Self::with_marks(&[])
    }

    pub(in crate::chat) fn with_marks(marks: &[(&str, u64)]) -> Self {
        let (me, ann) = (who(1), who(2));
        let mut names = Names::default();
        names.add("ann", &ann.contact()).unwrap();
        let marks: BTreeMap<_, _> = marks
            .iter()
            .map(|(id, mark)| (id.parse().unwrap(), *mark))
            .collect();
        let chat = Chat::new(&me, names, marks, NOON);
        Self { chat, me, ann }
    }

    pub(in crate::chat) fn news(&mut self, news: News) -> Vec<Order> {
        self.chat.take(Input::News(news))
    }

    /// Makes a room known, with these messages in it, the last at `next`.
    pub(in crate::chat) fn open(&mut self, id: &str, told: Vec<Told>, next: u64) {
        self.news(News::Room(room(id, true)));
        let page = Page {
            told,
            next,
            previous: None,
        };
        self.load(id, Part::Last, page);
    }

    pub(in crate::chat) fn load(&mut self, id: &str, part: Part, page: Page) {
        let room = id.parse().unwrap();
        self.news(News::Loaded { room, part, page });
    }

    pub(in crate::chat) fn hear(&mut self, id: &str, told: Told) {
        let heard = Heard::Told(told);
        let room = id.parse().unwrap();
        self.news(News::Heard { room, heard });
    }

    pub(in crate::chat) fn key(&mut self, key: Key) -> Vec<Order> {
        self.chat.take(Input::Key(key))
    }

    /// Writes a line and enters it.
    pub(in crate::chat) fn enter(&mut self, line: &str) -> Vec<Order> {
        for c in line.chars() {
            self.key(Key::Char(c));
        }
        self.key(Key::Enter)
    }

    pub(in crate::chat) fn tick(&mut self, now_ms: u64) -> Vec<Order> {
        let connected = true;
        self.chat.take(Input::Tick { now_ms, connected })
    }

    pub(in crate::chat) fn unread(&self, id: &str) -> (usize, bool) {
        let found = self.chat.rooms.iter().find(|room| room.id.as_str() == id);
        found.map(|room| (room.unread, room.unread_more)).unwrap()
    }

    pub(in crate::chat) fn notice(&self) -> &str {
        self.chat.notice.as_ref().map_or("", |notice| &notice.text)
    }

    fn spoken(&self, orders: &[Order]) -> Speaking {
        match orders {
            [Order::Say(speaking)] => speaking.clone(),
            other => panic!("{other:?}, {:?}", self.chat.notice),
        }
    }
}

#[test]
fn what_is_written_is_said_and_comes_back_once() {
    let mut world = World::new();
    world.open("tea", vec![], 0);
    let orders = world.enter("hello");
    let speaking = world.spoken(&orders);
    assert_eq!((speaking.text.as_str(), speaking.thread), ("hello", None));
    let pending = |world: &World| world.chat.room().unwrap().pending.len();
    assert!(world.chat.line.is_empty() && pending(&world) == 1);
    let sent = News::Sent {
        room: speaking.room.clone(),
        ticket: speaking.ticket,
        id: frame(1),
    };
    // Acknowledged first, then heard.
    world.news(sent);
    assert_eq!(pending(&world), 1);
    let me = who(1);
    world.hear("tea", said(1, &me, "hello"));
    assert_eq!(pending(&world), 0);
    // And the other way round.
    let orders = world.enter("again");
    let ticket = world.spoken(&orders).ticket;
    world.hear("tea", said(2, &me, "again"));
    assert_eq!(pending(&world), 1);
    let id = frame(2);
    let room = speaking.room;
    world.news(News::Sent { room, ticket, id });
    assert_eq!((pending(&world), world.unread("tea")), (0, (0, false)));
}

#[test]
fn what_can_not_be_sent_goes_back_into_the_line() {
    let mut world = World::new();
    world.open("tea", vec![], 0);
    let orders = world.enter("precious");
    let Speaking { room, ticket, .. } = world.spoken(&orders);
    let words = "no server answered".to_owned();
    world.news(News::NotSent {
        room,
        ticket,
        words,
    });
    assert_eq!(world.chat.line.text(), "precious");
    assert!(world.chat.room().unwrap().pending.is_empty());
    assert!(world.notice().contains("no server answered"));
}

#[test]
fn unread_messages_are_counted_until_they_are_in_view() {
    let mut world = World::with_marks(&[("b", 4)]);
    let ann = who(2);
    world.open("a", vec![said(1, &ann, "one")], 1);
    assert_eq!(world.unread("a"), (0, false), "a room that is new here");
    let told = (3..=7).map(|seq| said(seq, &ann, "x")).collect();
    world.open("b", told, 7);
    assert_eq!(world.unread("b"), (3, false));
    world.hear("b", said(8, &ann, "y"));
    world.hear("b", reaction(9, &ann, 8, "+1"));
    let me = who(1);
    world.hear("b", said(10, &me, "from my phone"));
    assert_eq!(
        world.unread("b"),
        (4, false),
        "neither reactions nor my own"
    );
    world.key(Key::Tab);
    assert_eq!(world.chat.current.as_ref().unwrap().as_str(), "b");
    assert_eq!(world.unread("b"), (0, false));
    assert_eq!(world.chat.room().unwrap().new_after, Some(4));
    assert_eq!(world.chat.marks[&"b".parse().unwrap()], 10);
    // Scrolled up, what comes is not in view.
    world.key(Key::Up);
    world.hear("b", said(11, &ann, "z"));
    assert_eq!(world.unread("b"), (1, false));
    world.key(Key::Esc);
    assert_eq!(world.unread("b"), (0, false));
}

#[test]
fn more_unread_than_a_page_is_said_to_be_more() {
    let mut world = World::with_marks(&[("b", 10)]);
    let ann = who(2);
    world.open("a", vec![], 0);
    let told = (101..=200).map(|seq| said(seq, &ann, "x")).collect();
    world.open("b", told, 200);
    assert_eq!(world.unread("b"), (100, true));
}

#[test]
fn replies_threads_and_reactions_go_to_what_is_meant() {
    let mut world = World::new();
    let (me, ann) = (who(1), who(2));
    let told = vec![
        said(1, &ann, "tea?"),
        said(2, &me, "yes"),
        answer(3, &ann, "milk?", None, Some(1)),
        said(4, &me, "what a day"),
    ];
    world.open("tea", told, 4);
    // Nothing selected: the last message of somebody else.
    let orders = world.enter("/react 🫖");
    assert!(matches!(&orders[..], [Order::React { to, reaction, .. }]
        if *to == frame(3) && reaction == "🫖"));
    // A reply to a message of a thread belongs there.
    let orders = world.enter("/reply no");
    let spoken = world.spoken(&orders);
    assert_eq!(
        (spoken.reply_to, spoken.thread),
        (Some(frame(3)), Some(frame(1)))
    );
    // Selected: from below the third is the second.
    for _ in 0..3 {
        world.key(Key::Up);
    }
    world.key(Key::Reply);
    let orders = world.enter("sure");
    let spoken = world.spoken(&orders);
    assert_eq!((spoken.reply_to, spoken.thread), (Some(frame(2)), None));
    assert_eq!((world.chat.replying, world.chat.selected), (None, None));
    // In a thread, everything that is said belongs to it.
    for _ in 0..4 {
        world.key(Key::Up);
    }
    world.key(Key::Thread);
    assert_eq!(world.chat.visible_said().len(), 2);
    let orders = world.enter("with milk");
    assert_eq!(world.spoken(&orders).thread, Some(frame(1)));
    world.key(Key::Esc);
    assert_eq!(world.chat.thread, None);
}

#[test]
fn scrolling_loads_older_messages_and_comes_back() {
    let mut world = World::new();
    let ann = who(2);
    world.news(News::Room(room("tea", true)));
    let messages = |from: u64, to: u64| Page {
        told: (from..=to).map(|seq| said(seq, &ann, "x")).collect(),
        next: to,
        previous: (from > 1).then_some(from),
    };
    world.load("tea", Part::Last, messages(1001, 1100));
    let keys = world.chat.visible();
    world.chat.drawn.entries = Some((keys[80], keys[99]));
    assert!(world.key(Key::PageUp).is_empty());
    assert_eq!(world.chat.selected, Some(keys[80]));
    world.chat.drawn.entries = Some((keys[0], keys[19]));
    let orders = world.key(Key::PageUp);
    assert!(
        matches!(
            &orders[..],
            [Order::Load {
                part: Part::Before(1001),
                ..
            }]
        ),
        "{orders:?}"
    );
    assert!(world.key(Key::Up).is_empty(), "one page at a time");
    for from in [901, 801, 701, 601, 501] {
        world.load("tea", Part::Before(from + 100), messages(from, from + 99));
    }
    assert_eq!(world.chat.selected, Some(keys[0]), "what is selected stays");
    assert!(world.chat.room().unwrap().log.torn());
    let orders = world.key(Key::Esc);
    assert!(
        matches!(
            &orders[..],
            [Order::Load {
                part: Part::Last,
                ..
            }]
        ),
        "{orders:?}"
    );
    world.hear("tea", said(1101, &ann, "new"));
    assert_eq!(world.unread("tea"), (1, false));
    world.load("tea", Part::Last, messages(1002, 1101));
    assert_eq!(world.unread("tea"), (0, false));
    assert_eq!(world.chat.selected, None);
}

#[test]
fn invitations_are_joined_and_rooms_left_on_purpose() {
    let mut world = World::new();
    world.news(News::Room(room("tea", false)));
    assert!(world.enter("hello").is_empty());
    assert!(world.notice().contains("/join"));
    world.key(Key::Esc);
    let orders = world.enter("/join");
    let [
        Order::Errand {
            ticket,
            errand: Errand::Join(_),
        },
    ] = &orders[..]
    else {
        panic!("{orders:?}");
    };
    let outcome = Ok("welcome".to_owned());
    world.news(News::Done {
        ticket: *ticket,
        outcome,
    });
    let orders = world.news(News::Room(room("tea", true)));
    assert!(matches!(
        &orders[..],
        [Order::Open {
            persisted: true,
            ..
        }]
    ));
    assert!(
        world.news(News::Room(room("tea", true))).is_empty(),
        "opened once"
    );
    assert!(world.enter("/leave").is_empty());
    assert!(world.notice().contains("once more"));
    let orders = world.enter("/leave");
    assert!(matches!(
        &orders[..],
        [Order::Errand {
            errand: Errand::Leave(_),
            ..
        }]
    ));
    let orders = world.news(News::RoomGone("tea".parse().unwrap()));
    assert!(matches!(&orders[..], [Order::Close(_)]));
    assert!(world.chat.rooms.is_empty() && world.chat.current.is_none());
}

#[test]
fn drafts_stay_with_their_rooms() {
    let mut world = World::new();
    world.open("a", vec![], 0);
    world.open("b", vec![], 0);
    world.key(Key::Char('x'));
    world.key(Key::Tab);
    assert!(world.chat.line.is_empty());
    world.enter("/go team.a");
    assert_eq!(world.chat.line.text(), "x");
    assert_eq!(world.chat.current.as_ref().unwrap().as_str(), "a");
}

#[test]
fn who_belongs_to_a_room_is_looked_at_when_it_changes() {
    let mut world = World::new();
    world.open("tea", vec![], 0);
    assert!(matches!(&world.tick(NOON)[..], [Order::Look(_)]));
    assert!(world.tick(NOON).is_empty());
    let people: Vec<Person> = [&world.me, &world.ann]
        .map(|who| Person {
            endpoint: who.endpoint().clone(),
            owner: false,
            joined: true,
        })
        .into();
    let room: unibus_proto::control::RoomId = "tea".parse().unwrap();
    let look = Some(Look {
        epoch: 3,
        people,
        ..Look::default()
    });
    world.news(News::Looked {
        room: room.clone(),
        look,
    });
    let shown = world.chat.room().unwrap();
    assert_eq!((shown.epoch, shown.people.len()), (3, 2));
    let stranger: EndpointId = "00112233445566778899aabbccddeeff".parse().unwrap();
    let reason = unibus_client::rooms::roster::InventedReason::Signature;
    let invented = MembershipChange::Invented {
        endpoint: stranger,
        reason,
    };
    let heard = Heard::Change(invented);
    world.news(News::Heard { room, heard });
    assert!(world.notice().contains("no key"), "{}", world.notice());
    assert!(matches!(&world.tick(NOON)[..], [Order::Look(_)]));
}

#[test]
fn names_are_given_and_used() {
    let mut world = World::new();
    world.open("tea", vec![], 0);
    let ann = world.ann.contact();
    let orders = world.enter(&format!("/name {ann} anna"));
    assert!(matches!(&orders[..], [Order::Remember(line)] if *line == format!("anna {ann}\n")));
    let orders = world.enter("/invite anna");
    assert!(
        matches!(&orders[..], [Order::Errand { errand: Errand::Invite { party, .. }, .. }]
        if party == world.ann.party())
    );
    world.enter("/invite nobody");
    assert!(world.notice().contains("neither a name nor a contact"));
    assert_eq!(world.chat.line.text(), "/invite nobody", "to be mended");
}

#[test]
fn a_file_is_saved_under_its_own_name_in_this_folder() {
    let mut world = World::new();
    let mut told = said(1, &who(2), "");
    if let Told::Entry(Entry {
        what: What::Said(said),
        ..
    }) = &mut told
    {
        let file = unibus_client::rooms::blob::BlobRef {
            hash: unibus_client::rooms::blob::BlobHash([0; 32]),
            key: unibus_client::rooms::blob::BlobKey::from_bytes([0; 32]),
            size: 5,
            name: None,
            media_type: None,
        };
        let name = "../cat.png".into();
        said.body = Body::File {
            file: Box::new(file),
            name,
        };
    }
    world.open("tea", vec![told], 1);
    let orders = world.enter("/save");
    assert!(
        matches!(&orders[..], [Order::Errand { errand: Errand::Save { path, .. }, .. }]
        if path.to_str() == Some("cat.png"))
    );
}

#[test]
fn sheets_open_scroll_and_close() {
    let mut world = World::new();
    world.open("tea", vec![said(1, &who(2), "tea?")], 1);
    world.enter("/help");
    assert_eq!(world.chat.sheet, Some(Sheet::Help));
    world.chat.drawn.scroll_max = 5;
    world.chat.drawn.sheet_rows = 4;
    world.key(Key::PageDown);
    world.key(Key::PageDown);
    assert_eq!(world.chat.scroll, 5);
    world.key(Key::Char('h'));
    assert_eq!((world.chat.sheet, world.chat.line.text()), (None, "h"));
    world.key(Key::Backspace);
    world.key(Key::Up);
    world.key(Key::Enter);
    assert!(matches!(world.chat.sheet, Some(Sheet::Message(_))));
    world.key(Key::Esc);
    assert_eq!(world.chat.sheet, None);
}

#[test]
fn ends_and_pastes() {
    let mut world = World::new();
    world.chat.take(Input::Paste("a\x1b[31mb\r\nc".into()));
    assert_eq!(world.chat.line.text(), "a[31mb\nc");
    assert!(world.key(Key::EndOfFile).is_empty(), "something is written");
    world.key(Key::EraseLine);
    assert!(matches!(&world.key(Key::EndOfFile)[..], [Order::Quit]));
    assert!(matches!(&world.enter("/quit")[..], [Order::Quit]));
    assert!(matches!(&world.key(Key::Quit)[..], [Order::Quit]));
}
