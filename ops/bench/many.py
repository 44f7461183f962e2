#!/usr/bin/env python3
"""What many consumers cost an idle and a busy cluster, and how long the watch of a large bucket takes.

    ops/bench/many.py target/release/unibus-node
    ops/bench/many.py target/release/unibus-node --nats-server nats-server --consumers 50000 --keys 1000000

Three node processes on loopback, a stream with three replicas and as many durable pull consumers as asked
for, each with a filter of its own:

    made      time until all are there, asked for by one client with a window
    idle      processor time of all nodes together while nobody does anything, as a share of one core
    busy      messages a second into another stream, before the consumers are there and afterwards
    memory    resident bytes of each node a consumer, of the node that grew most

Then a bucket with as many keys, and a watch of all of them: time until the last is received, on a fresh
consumer that delivers the last value of each key. With --nats-server the watch is measured there too, at
one server that stores on disk. Needs only Python and Linux.
"""
import argparse
import asyncio
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from failover import Node, connect, free_ports, until  # noqa: E402

WINDOW = 256
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(process):
    """Processor seconds so far."""
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident(process):
    """Resident bytes."""
    for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


async def in_window(client, asks, window=WINDOW):
    """Asks everything with so many unanswered at a time; the answers that are errors."""
    failed, room, done = [], asyncio.Semaphore(window), []

    def answered(body):
        room.release()
        done.append(None)
        if body is None or b'"error"' in body:
            failed.append(body)

    count = 0
    for subject, body in asks:
        await room.acquire()
        client.ask(subject, body, answered)
        count += 1
        if count % 64 == 0:
            await asyncio.sleep(0)
    while len(done) < count:
        await asyncio.sleep(0.001)
    return failed


async def rate(client, subject, messages):
    begun = time.monotonic()
    failed = await in_window(client, ((subject, b"x" * 128) for _ in range(messages)))
    if failed:
        raise RuntimeError(f"{len(failed)} publishes failed: {failed[0]}")
    return messages / (time.monotonic() - begun)


async def make_stream(client, name, subjects, replicas, **more):
    config = {"name": name, "subjects": subjects, "num_replicas": replicas, "storage": "file", **more}

    async def make():
        made = await client.request(f"$JS.API.STREAM.CREATE.{name}", config)
        return "config" in made

    await until(f"the stream {name}", make)


async def idle(nodes, seconds):
    """Processor time of all nodes together, as a share of one core."""
    before = [cpu_s(node.process) for node in nodes]
    await asyncio.sleep(seconds)
    return sum(cpu_s(node.process) - b for node, b in zip(nodes, before)) / seconds


async def consumers(args, nodes):
    client = await connect(nodes[0].client_port)
    await make_stream(client, "many", ["many.>"], 3)
    await make_stream(client, "other", ["other.>"], 3)
    await rate(client, "other.x", args.messages // 4)
    quiet = await idle(nodes, args.seconds)
    alone = await rate(client, "other.x", args.messages)
    memory = [resident(node.process) for node in nodes]
    asks = (
        (
            f"$JS.API.CONSUMER.CREATE.many.c{n}.many.{n}",
            json.dumps(
                {
                    "stream_name": "many",
                    "config": {
                        "name": f"c{n}", "durable_name": f"c{n}", "filter_subject": f"many.{n}",
                        "ack_policy": "explicit", "deliver_policy": "all",
                    },
                }
            ).encode(),
        )
        for n in range(args.consumers)
    )
    begun = time.monotonic()
    failed = await in_window(client, asks)
    if failed:
        raise RuntimeError(f"{len(failed)} consumers failed: {failed[0]}")
    made = time.monotonic() - begun
    await asyncio.sleep(5)
    silent = await idle(nodes, args.seconds)
    together = await rate(client, "other.x", args.messages)
    grown = max(resident(node.process) - before for node, before in zip(nodes, memory))
    print(f"made: {args.consumers} consumers in {made:.1f} s")
    print(f"idle: {quiet * 100:.1f} % of a core without them, {silent * 100:.1f} % with them")
    print(f"busy: {alone:.0f} messages/s without them, {together:.0f} with them")
    print(f"memory: {grown / args.consumers:.0f} bytes a consumer", flush=True)


def watch(port, keys, prefix):
    """Seconds until the last value of every key was received."""
    inbox = f"_INBOX.{os.urandom(8).hex()}"
    config = {
        "deliver_subject": inbox, "ack_policy": "none", "deliver_policy": "last_per_subject",
        "filter_subject": f"{prefix}>", "max_deliver": 1, "mem_storage": True, "num_replicas": 1,
    }
    body = json.dumps({"stream_name": "KV_watched", "config": config})
    with socket.create_connection(("127.0.0.1", port)) as tcp:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        tcp.settimeout(120)
        hello = '{"verbose":false,"headers":true,"no_responders":true}'
        subject = "$JS.API.CONSUMER.CREATE.KV_watched"
        tcp.sendall(
            f"CONNECT {hello}\r\nSUB {inbox} 1\r\nSUB {inbox}.made 2\r\n"
            f"PUB {subject} {inbox}.made {len(body)}\r\n{body}\r\n".encode()
        )
        needle = f"\nMSG {prefix}".encode()
        begun, seen, rest = time.monotonic(), 0, b""
        while seen < keys:
            data = tcp.recv(1 << 20)
            if not data:
                raise RuntimeError(f"closed after {seen} keys")
            if b"\nPING\r" in data:
                tcp.sendall(b"PONG\r\n")
            data = rest + data
            seen += data.count(needle)
            rest = data[-(len(needle) - 1) :]
        return time.monotonic() - begun


async def bucket(args, port):
    client = await connect(port)
    await make_stream(
        client, "KV_watched", ["$KV.watched.>"], 1, max_msgs_per_subject=1, allow_direct=True,
        deny_delete=True, allow_rollup_hdrs=True, discard="new",
    )
    asks = ((f"$KV.watched.key.{n}", b"v" * 64) for n in range(args.keys))
    failed = await in_window(client, asks, 1024)
    if failed:
        raise RuntimeError(f"{len(failed)} puts failed: {failed[0]}")
    loop = asyncio.get_running_loop()
    times = []
    for _ in range(3):
        times.append(await loop.run_in_executor(None, watch, port, args.keys, "$KV.watched."))
    return sorted(times)[1]


def report_watch(who, keys, seconds):
    print(f"watch: {keys} keys from {who} in {seconds:.2f} s, {keys / seconds:.0f} a second", flush=True)


async def nats_server(args, folder):
    port = free_ports(1)[0]
    command = [args.nats_server, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder / "nats")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        async def up():
            (await connect(port)).transport.close()
            return True

        await until("nats-server is up", up)
        report_watch("nats-server", args.keys, await bucket(args, port))
    finally:
        process.terminate()
        process.wait(30)


async def bench(args, folder):
    names = ["n0", "n1", "n2"]
    ports = free_ports(3 * len(names))
    ports = [ports[3 * i : 3 * i + 3] for i in range(len(names))]
    routes = ", ".join(f'"nats-route://route:secret@127.0.0.1:{p[2]}"' for p in ports)
    binary = pathlib.Path(args.binary).resolve()
    nodes = [Node(binary, folder, name, p, routes) for name, p in zip(names, ports)]
    try:
        for node in nodes:
            node.start()
        loop = asyncio.get_running_loop()
        for node in nodes:
            await until("ready", lambda n=node: loop.run_in_executor(None, n.is_ready))
        if args.consumers:
            await consumers(args, nodes)
        if args.keys:
            report_watch("unibus", args.keys, await bucket(args, nodes[0].client_port))
    finally:
        for node in nodes:
            if node.process and node.process.poll() is None:
                node.process.terminate()
                node.process.wait(60)
    if args.keys and args.nats_server:
        await nats_server(args, folder)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("binary", help="the node's program, a release build")
    parser.add_argument("--consumers", type=int, default=50_000, help="0: leave that part out")
    parser.add_argument("--messages", type=int, default=100_000, help="for each measured rate")
    parser.add_argument("--seconds", type=float, default=10, help="of idleness measured")
    parser.add_argument("--keys", type=int, default=1_000_000, help="0: leave that part out")
    parser.add_argument("--nats-server", help="a nats-server to compare the watch with")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="many") as folder:
        asyncio.run(bench(args, pathlib.Path(folder)))


if __name__ == "__main__":
    main()
