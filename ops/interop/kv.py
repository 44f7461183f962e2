#!/usr/bin/env python3
"""Every key-value and object operation through nats-py, a client nobody here wrote.

    pip install nats-py nkeys
    ops/interop/kv.py nats://127.0.0.1:4222 [SEED_FILE|-] [MORE_URLS…]
    ops/interop/kv.py --cluster target/debug/unibus-node

The first form uses running nodes: every operation at each URL, reads of the others' writes at once, and ends
with 1 at the first difference. The second starts three nodes on loopback, does the same, kills the leader
with SIGKILL while each other node is used on and on, and uses the node again that comes back. An operation may fail
while there is no leader: whoever tries again, under other names, gets what he asks for.
"""
import asyncio
import logging
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

import nats
from nats.js.api import KeyValueConfig, ObjectMeta
from nats.js.errors import BucketNotFoundError, KeyNotFoundError, KeyWrongLastSequenceError, ObjectNotFoundError

#: It warns of servers that are older than what is tested.
logging.getLogger("nats").setLevel(logging.ERROR)

DATA = bytes(at // 7 % 251 for at in range(400_000))


async def expect(error, call):
    try:
        await call
    except error:
        return
    raise AssertionError(f"expected {error.__name__}")


async def until_none(watcher):
    """What a watch begins with, up to its mark."""
    seen = []
    while (update := await watcher.updates(timeout=10)) is not None:
        seen.append(update)
    return seen


async def keys(js, others, who):
    """Everything a bucket can do, about keys of `who`; `others` read at their nodes."""
    kv = await js.key_value("interop")
    readers = [await other.key_value("interop") for other in others]
    a, b, c, h = (f"{who}.{name}" for name in "abch")
    first = await kv.put(a, b"1")
    for reader in readers:
        entry = await reader.get(a)
        assert (entry.revision, entry.value) == (first, b"1"), entry
    created = await kv.create(b, b"x")
    await expect(KeyWrongLastSequenceError, kv.create(b, b"y"))
    updated = await kv.update(b, b"y", last=created)
    await expect(KeyWrongLastSequenceError, kv.update(b, b"z", last=created))
    assert (await kv.get(b, revision=created)).value == b"x"
    assert (await kv.get(b)).revision == updated
    watcher = await readers[-1].watch(f"{who}.>")
    seen = sorted(update.key for update in await until_none(watcher))
    assert seen == [a, b], seen
    await kv.put(c, b"live")
    update = await watcher.updates(timeout=10)
    assert (update.key, update.value) == (c, b"live")
    await watcher.stop()
    for n in range(5):
        await kv.put(h, str(n).encode())
    assert [e.value for e in await kv.history(h)] == [b"0", b"1", b"2", b"3", b"4"]
    await kv.delete(a)
    await expect(KeyNotFoundError, kv.get(a))
    await kv.purge(h)
    assert len(await kv.history(h)) == 1
    assert sorted(await kv.keys(filters=[f"{who}."])) == [b, c]
    assert (await kv.status()).history == 5


async def objects(js, others, who):
    """Everything an object store can do, about objects of `who`."""
    store = await js.object_store("interop")
    readers = [await other.object_store("interop") for other in others]
    watcher = await readers[-1].watch(include_history=False)
    await until_none(watcher)
    info = await store.put(who, DATA)
    assert (info.size, info.chunks) == (len(DATA), 4), info
    update = await watcher.updates(timeout=10)
    while not (update and update.name == who):
        update = await watcher.updates(timeout=10)
    await watcher.stop()
    for reader in readers:
        assert (await reader.get(who)).data == DATA
    assert (await readers[0].get_info(who)).digest == info.digest
    await store.update_meta(who, ObjectMeta(name=who, description="told"))
    assert (await readers[0].get_info(who)).description == "told"
    again = await store.put(who, b"less")
    assert again.nuid != info.nuid and (await readers[0].get(who)).data == b"less"
    assert who in [entry.name for entry in await readers[0].list()]
    await store.delete(who)
    await expect(ObjectNotFoundError, readers[0].get(who))
    status = await store.status()
    assert status.bucket == "interop" and not status.sealed


async def use(clients, at, who, others=True):
    """All operations at node `at`, read back at every node."""
    contexts = [client.jetstream(timeout=5) for client in clients]
    readers = contexts if others else [contexts[at]]
    await keys(contexts[at], readers, who)
    await objects(contexts[at], readers, who)


async def make(js, replicas):
    await js.create_key_value(KeyValueConfig(bucket="interop", history=5, replicas=replicas))
    await js.create_object_store("interop", replicas=replicas)


async def unmake(js):
    store = await js.object_store("interop")
    await store.seal()
    await expect(Exception, store.put("late", b"x"))
    await js.delete_object_store("interop")
    assert await js.delete_key_value("interop")
    await expect(BucketNotFoundError, js.key_value("interop"))


async def running(url, seed="-", *more):
    options = {} if seed == "-" else {"nkeys_seed": seed}
    clients = [await nats.connect(u, **options) for u in (url, *more)]
    js = clients[0].jetstream()
    await make(js, 1)
    for at in range(len(clients)):
        await use(clients, at, f"node{at}")
    await unmake(js)
    for client in clients:
        await client.close()
    print(f"nats-py: every key-value and object operation behaves at {len(clients)} nodes")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Node:
    """One of three, by nats-server's command line."""

    def __init__(self, binary, folder, at, ports, routes):
        self.name, self.url = f"n{at}", f"nats://127.0.0.1:{ports[at]}"
        routes = [f"nats://u:p@127.0.0.1:{port}" for port in routes]
        self.command = [
            binary, "nats-server", "-a", "127.0.0.1", "-p", str(ports[at]), "-n", self.name, "-js", "-sd", str(folder / self.name),
            "--cluster_name", "interop", "--cluster", routes[at], "--routes", ",".join(routes)]
        self.log = folder / f"{self.name}.log"
        self.start()

    def start(self):
        with open(self.log, "ab") as out:
            self.process = subprocess.Popen(self.command, stdout=out, stderr=out)

    def end(self, how):
        if self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(60)

    async def client(self):
        async def quiet(_):
            pass

        end = time.time() + 120
        while True:
            try:
                client = await nats.connect(self.url, error_cb=quiet, max_reconnect_attempts=-1, reconnect_time_wait=0.2)
                await client.jetstream(timeout=5).account_info()
                return client
            except Exception:
                if time.time() > end:
                    raise
                await asyncio.sleep(0.2)


async def on_and_on(clients, at, over):
    """Uses a node until it is told that it is enough, and once more. How often it worked, and failed."""
    worked = failed = 0
    while True:
        last = over.is_set()
        try:
            await use(clients, at, f"on{at}-{worked + failed}", others=False)
            worked += 1
            if last:
                return worked, failed
        except AssertionError:
            raise
        except Exception:
            failed += 1
            await asyncio.sleep(0.05)


async def cluster(binary):
    with tempfile.TemporaryDirectory(prefix="kv-") as folder:
        folder = pathlib.Path(folder)
        ports, routes = [free_port() for _ in range(3)], [free_port() for _ in range(3)]
        nodes = [Node(binary, folder, at, ports, routes) for at in range(3)]
        try:
            clients = [await node.client() for node in nodes]
            js = clients[0].jetstream(timeout=5)
            await make(js, 3)
            for at in range(3):
                await use(clients, at, f"calm{at}")
            leader = (await js.stream_info("KV_interop")).cluster.leader
            leader = next(at for at, node in enumerate(nodes) if node.name == leader)
            over = asyncio.Event()
            used = [asyncio.create_task(on_and_on(clients, at, over)) for at in range(3) if at != leader]
            await asyncio.sleep(1)
            await clients[leader].close()
            nodes[leader].end(signal.SIGKILL)
            await asyncio.sleep(5)
            nodes[leader].start()
            clients[leader] = await nodes[leader].client()
            over.set()
            counts = await asyncio.gather(*used)
            for at in range(3):
                await use(clients, at, f"back{at}")
            await unmake(clients[leader].jetstream(timeout=5))
            for client in clients:
                await client.close()
        finally:
            for node in nodes:
                node.end(signal.SIGTERM)
        print(f"nats-py: every key-value and object operation behaves at three nodes, and while {nodes[leader].name} was dead: {counts}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--cluster"]:
        asyncio.run(cluster(os.path.abspath(sys.argv[2])))
    else:
        asyncio.run(running(*sys.argv[1:]))
