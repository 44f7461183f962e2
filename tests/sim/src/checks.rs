//! What must hold after every entry on every node, and at the end of a run.

use crate::control;
use crate::streams::{CONSUMERS, ONE, STREAMS};
use crate::world::{Checked, World};

/// After an entry was applied or a checkpoint loaded.
pub(crate) fn after_apply(world: &mut World, node: usize) -> Checked {
    let member = &world.members[node];
    if let Some(broken) = member.disk.broken() {
        return Err(format!("node {node}: {broken}"));
    }
    for consumer in 0..CONSUMERS.len() {
        check_consumer(world, node, consumer)?;
    }
    check_work(world, node)
}

/// No room is half there.
pub(crate) fn check_rooms(world: &World, node: usize) -> Checked {
    control::check_rooms(&world.members[node]).map_err(|why| format!("node {node}: {why}"))
}

fn check_consumer(world: &World, node: usize, place: usize) -> Checked {
    let member = &world.members[node];
    let (stream_name, name) = CONSUMERS[place];
    let Some(stream) = member.state.stream(stream_name) else {
        return Ok(());
    };
    let Some(consumer) = stream.consumer(name) else {
        return Ok(());
    };
    let (ledger, reader) = (consumer.ledger(), &world.readers[place]);
    let (floor, delivered) = (ledger.ack_floor(), ledger.delivered());
    if floor > delivered || ledger.pending().keys().any(|seq| *seq <= floor.stream_seq) {
        return Err(format!(
            "node {node}, {name}: floor {floor:?}, delivered {delivered:?}"
        ));
    }
    // The floor is never ahead of the truth: below it, what is still there was acknowledged.
    for seq in 1..=floor.stream_seq {
        let mine = stream
            .message(seq)
            .is_some_and(|message| name != "one" || message.subject == ONE.as_bytes());
        if mine && !reader.acknowledged.contains(&seq) {
            return Err(format!(
                "node {node}, {name}: floor {floor:?}, but nobody acknowledged {seq}"
            ));
        }
    }
    for (seq, index) in &reader.answered {
        let settled = delivered.stream_seq >= *seq && !ledger.pending().contains_key(seq);
        if *index <= member.applied && !settled {
            return Err(format!(
                "node {node}, {name}: {seq} was answered by entry {index} and is open"
            ));
        }
    }
    Ok(())
}

/// Nothing leaves a work queue that nobody acknowledged.
fn check_work(world: &World, node: usize) -> Checked {
    let Some(stream) = world.members[node].state.stream(STREAMS[1]) else {
        return Ok(());
    };
    let acknowledged = &world.readers[1].acknowledged;
    let lost = (1..=stream.last_seq())
        .find(|seq| stream.get(*seq).is_none() && !acknowledged.contains(seq));
    lost.map_or(Ok(()), |seq| {
        Err(format!(
            "node {node}: {seq} of the work queue is gone, and nobody acknowledged it"
        ))
    })
}

/// Everything that was acknowledged is there, with the right bytes, on every node; nothing else is.
pub(crate) fn at_the_end(world: &World) -> Checked {
    let digest = world.members.first().map(|member| member.state.digest());
    for (node, member) in world.members.iter().enumerate() {
        if Some(member.state.digest()) != digest {
            return Err(format!("node {node} differs at the end"));
        }
        for name in [STREAMS[0], STREAMS[2]] {
            let (Some(stream), Some(naive)) =
                (member.state.stream(name), world.naive.streams.get(name))
            else {
                continue;
            };
            if stream.messages() != naive.messages.len() as u64 {
                return Err(format!(
                    "node {node}: {name} has {} messages",
                    stream.messages()
                ));
            }
            for (seq, (subject, payload)) in &naive.messages {
                let stored = stream.get(*seq).and_then(|at| member.disk.read(&at));
                let same = stored.is_some_and(|message| {
                    message.subject == subject.as_bytes() && message.payload == payload[..]
                });
                if !same {
                    return Err(format!("node {node}: {seq} of {name} is not {payload:?}"));
                }
            }
        }
    }
    acknowledged_once(world)?;
    everything_delivered(world)
}

fn acknowledged_once(world: &World) -> Checked {
    for publisher in &world.publishers {
        let name = crate::streams::of_subject(&publisher.subject).unwrap_or_default();
        let Some(naive) = world.naive.streams.get(name) else {
            continue;
        };
        for (n, seq) in &publisher.acknowledged {
            let stored = naive.messages.get(seq);
            let right = stored.is_none_or(|(subject, payload)| {
                *subject == publisher.subject && *payload == n.to_string().as_bytes()
            });
            let copies = naive.messages.values().filter(|(subject, payload)| {
                *subject == publisher.subject && *payload == n.to_string().as_bytes()
            });
            if !right || copies.count() > 1 {
                return Err(format!("{} {n}: {stored:?} at {seq}", publisher.subject));
            }
        }
    }
    Ok(())
}

fn everything_delivered(world: &World) -> Checked {
    for (place, (stream_name, name)) in CONSUMERS.iter().enumerate() {
        let member = &world.members[0];
        let Some(stream) = member.state.stream(stream_name) else {
            continue;
        };
        let reader = &world.readers[place];
        let missed = (1..=stream.last_seq()).find(|seq| {
            let mine = stream
                .message(*seq)
                .is_some_and(|message| *name != "one" || message.subject == ONE.as_bytes());
            mine && !reader.received.contains_key(seq)
        });
        if let Some(seq) = missed {
            return Err(format!("{name}: {seq} was never delivered"));
        }
        let open = stream
            .consumer(name)
            .map(|consumer| consumer.ledger().pending().len());
        if open != Some(0) {
            return Err(format!("{name}: {open:?} messages are open at the end"));
        }
    }
    Ok(())
}
