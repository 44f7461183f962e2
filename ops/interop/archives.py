#!/usr/bin/env python3
"""Backs a stream up at one server and restores it at another, there and back.

    pip install nats-py
    ops/interop/archives.py nats://127.0.0.1:4222 nats://127.0.0.1:4223

Meant for a node of ours and a nats-server with JetStream: messages, headers, times, deleted sequences and
the positions of a consumer have to be the same on both sides. Exits with 1 at the first difference.
"""
import asyncio
import json
import sys

import nats


async def ask(nc, subject, body=None):
    payload = json.dumps(body).encode() if body is not None else b""
    answer = json.loads((await nc.request(f"$JS.API.{subject}", payload, timeout=20)).data)
    assert "error" not in answer, answer
    return answer


async def back_up(nc, stream):
    inbox = nc.new_inbox()
    chunks = await nc.subscribe(inbox)
    answer = await ask(nc, f"STREAM.SNAPSHOT.{stream}", {"deliver_subject": inbox, "chunk_size": 65536})
    archive = []
    while (chunk := await chunks.next_msg(timeout=20)).data:
        archive.append(chunk.data)
        if chunk.reply:
            await nc.publish(chunk.reply, b"")
    return answer, archive


async def restore(nc, stream, answer, archive):
    body = {"config": answer["config"], "state": answer["state"]}
    deliver = (await ask(nc, f"STREAM.RESTORE.{stream}", body))["deliver_subject"]
    for chunk in [*archive, b""]:
        reply = await nc.request(deliver, chunk, timeout=30)
        if reply.data:
            done = json.loads(reply.data)
            assert "error" not in done, done


async def fill(js, stream):
    await js.add_stream(name=stream, subjects=[f"{stream}.>"])
    for n in range(300):
        headers = {"N": str(n)} if n % 3 == 0 else None
        await js.publish(f"{stream}.{n % 9}", f"{n} ".encode() * (n + 1), headers=headers)
    for seq in (1, 2, 5, 6, 7, 100, 299):
        await js.delete_msg(stream, seq)
    await js.purge_stream(stream, subject=f"{stream}.4")
    consumer = await js.pull_subscribe(f"{stream}.>", durable="d")
    messages = await consumer.fetch(20)
    for message in messages[:5] + messages[8:10]:
        await message.ack_sync()
    await messages[6].nak()
    await consumer.fetch(3)


async def content(nc, js, stream):
    info = await ask(nc, f"STREAM.INFO.{stream}")
    state = info["state"]
    messages = {}
    for seq in range(state["first_seq"], state["last_seq"] + 1):
        try:
            raw = await ask(nc, f"STREAM.MSG.GET.{stream}", {"seq": seq})
            messages[seq] = raw["message"]
        except AssertionError:
            messages[seq] = None
    listed = await ask(nc, f"CONSUMER.LIST.{stream}")
    keys = ("num_ack_pending", "num_redelivered", "num_pending")
    consumers = {
        c["name"]: [c[k] for k in keys] + [c[p][s] for p in ("delivered", "ack_floor") for s in ("stream_seq", "consumer_seq")]
        for c in listed["consumers"]
    }
    numbers = {k: state[k] for k in ("messages", "bytes", "first_seq", "last_seq")}
    return numbers, messages, consumers, info["created"]


async def main(*urls):
    clients = [await nats.connect(url) for url in urls]
    for source, target, stream in ((0, 1, "THERE"), (1, 0, "BACK")):
        a, b = clients[source], clients[target]
        await fill(a.jetstream(), stream)
        expected = await content(a, a.jetstream(), stream)
        await restore(b, stream, *await back_up(a, stream))
        found = await content(b, b.jetstream(), stream)
        assert found == expected, (found[0], expected[0], found[2:], expected[2:])
        for client in (a, b):
            await client.jetstream().delete_stream(stream)
        print(f"{urls[source]} -> {urls[target]}: {expected[0]}")
    for client in clients:
        await client.close()


asyncio.run(main(*sys.argv[1:]))
