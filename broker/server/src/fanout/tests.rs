//! What a publisher's staging may take, over outbounds without sockets.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use super::staging::{BUFFER_BYTES_SMALL, STAGED_BYTES_MAX, STAGING_BYTES_KEPT};
use super::*;

const MIB: usize = 1024 * 1024;

struct Room {
    table: Table,
    services: ServiceTable,
    fanout: Fanout,
}

impl Room {
    fn new() -> Self {
        Self {
            table: Table::new(None),
            services: ServiceTable::default(),
            fanout: Fanout::new(),
        }
    }

    /// A connection with so many subscriptions, that may have so many bytes waiting.
    fn join(&mut self, id: u64, subscriptions: usize, pending_max: usize) -> Arc<Outbound> {
        let outbound = Arc::new(Outbound::for_client(id, pending_max, None));
        for sid in 0..subscriptions {
            let sid = sid.to_string();
            let one = Subscription::new(Arc::clone(&outbound), sid.as_bytes(), None);
            self.table.subscribe(b"room", &Arc::new(one));
        }
        outbound
    }

    /// Returns how many receivers there were.
    fn publish(&mut self, bytes: usize) -> usize {
        let message = Message {
            subject: b"room",
            shown: None,
            reply: None,
            header_len: 0,
            data: &vec![b'x'; bytes],
        };
        let reach = Reach {
            peers: true,
            account: None,
            services: None,
            except: None,
        };
        self.fanout.sync(&self.table, &self.services);
        let fanout = &mut self.fanout;
        fanout
            .publish(&self.table, &self.services, &message, &reach, |_| true)
            .unwrap()
    }

    /// Ends the burst. Returns the capacity of all staging buffers, in bytes.
    fn finish(&mut self) -> usize {
        self.fanout.hand_over();
        self.fanout.flush();
        let targets = self.fanout.stage.targets.iter();
        let capacity = targets.map(|target| target.staged.capacity()).sum();
        assert_eq!(capacity, self.fanout.kept());
        capacity
    }
}

#[test]
fn a_connection_with_many_subscriptions_is_closed_within_the_message_that_is_too_much() {
    let mut room = Room::new();
    let slow = room.join(1, 2_000, 4 * MIB);
    let other = room.join(2, 1, 4 * MIB);
    let receivers = room.publish(MIB / 2);
    assert!(receivers < 12, "{receivers} of 8 that fit");
    assert!(slow.is_closed() && !other.is_closed());
    assert!(room.fanout.stage.staged_bytes < 2 * MIB);
    room.finish();
    assert!(other.pending() > MIB / 2);
}

#[test]
fn a_fan_out_hands_over_before_it_has_staged_more_than_its_budget() {
    let mut room = Room::new();
    let members: Vec<_> = (1..=40).map(|id| room.join(id, 1, 4 * MIB)).collect();
    assert_eq!(room.publish(MIB), 40);
    let staged = room.fanout.stage.staged_bytes;
    assert!(staged <= STAGED_BYTES_MAX, "{staged}");
    let waiting: usize = members.iter().map(|member| member.pending()).sum();
    assert!(waiting + staged > 40 * MIB);
    assert!(room.fanout.is_full());
    room.finish();
    assert!(!room.fanout.is_full());
    assert!(members.iter().all(|member| member.pending() > MIB));
}

#[test]
fn what_waits_counts_with_what_is_staged() {
    let mut room = Room::new();
    let slow = room.join(1, 3, 2 * MIB);
    room.publish(MIB / 2);
    room.finish();
    assert!(!slow.is_closed());
    room.publish(MIB / 2);
    assert!(slow.is_closed());
}

#[test]
fn buffers_are_kept_within_a_budget_and_while_they_are_used() {
    let mut room = Room::new();
    let members: Vec<_> = (1..=100).map(|id| room.join(id, 1, 64 * MIB)).collect();
    let mut kept = 0;
    for _ in 0..3 {
        room.publish(100_000);
        kept = room.finish();
        for member in &members {
            // As the task of a connection over TLS writes.
            let mut chunk = member.take_chunk().unwrap();
            let before = chunk.len();
            chunk.clear();
            member.wrote(chunk, before, Ok(()));
        }
    }
    assert!((MIB..=STAGING_BYTES_KEPT).contains(&kept), "{kept}");
    room.publish(1);
    let kept = room.finish();
    assert!(kept <= 100 * BUFFER_BYTES_SMALL, "{kept}");
    room.fanout.rest();
    assert_eq!(room.fanout.stage.targets.len(), 100);
    room.fanout.rest();
    assert!(room.fanout.stage.targets.is_empty());
}

#[test]
fn lines_count_as_messages_do() {
    let mut room = Room::new();
    let own = room.join(1, 0, MIB);
    for _ in 0..2_000 {
        room.fanout
            .lines(&own, |out| out.extend_from_slice(&[b'x'; 4096]));
    }
    assert!(own.is_closed());
    assert!(room.fanout.stage.staged_bytes < MIB);
}
