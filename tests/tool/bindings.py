"""What an application in Python does with the generated bindings: meets somebody in a room, talks, shares.

usage: bindings.py FOLDER IDENTITY CONTROL NATS CONTACT
FOLDER holds unibus.py and its library; CONTACT is whom to invite. Says `invited ROOM` when the other may join,
and `done` at the end.
"""

import asyncio
import sys


async def until(events, wanted):
    """The next event of a kind; others are let pass."""
    while True:
        event = await asyncio.wait_for(events.next(), 60)
        assert event is not None, "the subscription ended"
        if isinstance(event, wanted):
            return event


async def main(folder, identity, control, nats, contact):
    sys.path.insert(0, folder)
    import unibus
    from unibus import BusError, HistoryPart, RoomEvent, Speech, StartAt

    me = unibus.Identity.load(identity)
    assert me.contact().startswith("unibus-contact:") and len(me.endpoint()) == 32
    options = unibus.ConnectOptions(servers=[unibus.Server(control=control, nats=nats)])
    session = await unibus.Session.connect(me, options)
    policy = unibus.RoomPolicy(encrypted=True, persisted=True, shared_history=False)
    room = await session.create_room("team.python", policy)
    events = await session.subscribe(room, StartAt.BEGINNING())
    await until(events, RoomEvent.CAUGHT_UP)

    root = await session.publish(room, Speech(payload="tea?".encode()))
    await session.react(room, root.id, "🫖")
    in_thread = Speech(payload=b"milk?", thread=root.id)
    await session.publish(room, in_thread)
    said = (await until(events, RoomEvent.SAID)).said
    assert (said.text, said.sender, said.id) == ("tea?", me.endpoint(), root.id), said
    reacted = await until(events, RoomEvent.REACTED)
    assert (reacted.to, reacted.reaction) == (root.id, "🫖"), reacted
    assert (await until(events, RoomEvent.SAID)).said.thread == root.id

    content = bytes(range(256)) * 1000
    reference = await session.put_blob(content, "numbers.bin", None)
    await session.share(room, reference)
    shared = await until(events, RoomEvent.SHARED)
    assert (shared.name, shared.size) == ("numbers.bin", len(content)), shared
    assert await session.get_blob(shared.reference) == content

    watch = await session.watch_rooms()
    added = await asyncio.wait_for(watch.next(), 60)
    assert added.room.room == room and added.room.owner, added
    await session.invite(room, contact)
    print("invited", room, flush=True)
    await until(events, RoomEvent.JOINED)
    heard = (await until(events, RoomEvent.SAID)).said
    answer = await session.reply(room, heard.id, f"you said: {heard.text}")
    await session.refresh_session()
    page = await session.history(room, HistoryPart.AFTER(answer.seq - 1, 10))
    assert page.events[0].said.reply_to == heard.id and page.next == answer.seq, page
    info = await session.room_info(room)
    assert (info.owner, len(info.members), info.invented) == (me.endpoint(), 2, []), info
    assert [mine.subject for mine in await session.list_my_rooms()] == ["team.python"]

    for call, kind in [
        (session.join("no such room"), BusError.Invalid),
        (session.join("nosuchroom"), BusError.Refused),
        (session.invite(room, "nobody"), BusError.Invalid),
    ]:
        try:
            await call
        except kind as error:
            assert error.words, error
        else:
            raise AssertionError(f"not refused with {kind}")
    await session.disconnect()
    while await asyncio.wait_for(events.next(), 60) is not None:
        pass
    print("done", flush=True)


asyncio.run(main(*sys.argv[1:]))
