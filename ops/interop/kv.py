#!/usr/bin/env python3
"""Every key-value operation through nats-py, a client nobody here wrote.

    pip install nats-py nkeys
    ops/interop/kv.py nats://127.0.0.1:4222 [SEED_FILE] [MORE_URLS…]

Writes at the first URL, reads at every URL, and exits with 1 at the first difference.
"""
import asyncio
import sys

import nats
from nats.js.api import KeyValueConfig
from nats.js.errors import BucketNotFoundError, KeyNotFoundError, KeyWrongLastSequenceError


async def expect(error, call):
    try:
        await call
    except error:
        return
    raise AssertionError(f"expected {error.__name__}")


async def operations(js, others):
    kv = await js.create_key_value(KeyValueConfig(bucket="interop", history=5))
    readers = [await other.key_value("interop") for other in others]
    first = await kv.put("a", b"1")
    for reader in readers:
        entry = await reader.get("a")
        assert (entry.revision, entry.value) == (first, b"1"), entry
    created = await kv.create("b", b"x")
    await expect(KeyWrongLastSequenceError, kv.create("b", b"y"))
    updated = await kv.update("b", b"y", last=created)
    await expect(KeyWrongLastSequenceError, kv.update("b", b"z", last=created))
    assert (await kv.get("b", revision=created)).value == b"x"
    assert (await kv.get("b")).revision == updated
    watcher = await readers[-1].watchall()
    seen = []
    while (update := await watcher.updates(timeout=10)) is not None:
        seen.append(update.key)
    assert sorted(seen) == ["a", "b"], seen
    await kv.put("c", b"live")
    update = await watcher.updates(timeout=10)
    assert (update.key, update.value) == ("c", b"live")
    await watcher.stop()
    for n in range(5):
        await kv.put("h", str(n).encode())
    assert [e.value for e in await kv.history("h")] == [b"0", b"1", b"2", b"3", b"4"]
    await kv.delete("a")
    await expect(KeyNotFoundError, kv.get("a"))
    await kv.purge("h")
    assert len(await kv.history("h")) == 1
    assert sorted(await kv.keys()) == ["b", "c"]
    assert (await kv.status()).history == 5
    assert await js.delete_key_value("interop")
    await expect(BucketNotFoundError, js.key_value("interop"))


async def main(url, seed=None, *more):
    options = {"nkeys_seed": seed} if seed else {}
    clients = [await nats.connect(u, **options) for u in (url, *more)]
    await operations(clients[0].jetstream(), [c.jetstream() for c in clients])
    for client in clients:
        await client.close()
    print("nats-py: every key-value operation behaves")


asyncio.run(main(*sys.argv[1:]))
