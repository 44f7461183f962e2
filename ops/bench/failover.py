#!/usr/bin/env python3
"""How long writes wait when a cluster of three loses its leader, or lets it go.

    ops/bench/failover.py target/release/unibus-node
    ops/bench/failover.py target/release/unibus-node --kills 100 --pauses 0 --stops 50 --colds 5

Three node processes on loopback, a stream with three replicas, and a publisher on every node that
writes every few milliseconds and waits for nothing. One after the other, each counted by a flag of
its own and bounded by it:

    kill      SIGKILL of the stream's leader
    pause     SIGSTOP of the stream's leader, for as long as writes are away and a little longer
    stop      SIGTERM to the stream's leader
    stepdown  the API's STREAM.LEADER.STEPDOWN
    cold      SIGKILL of all three, then all are started at once

Of each: the time from the event until a write that was begun after it is acknowledged, at the node
where that took longest of those that stay ("resume"; for `cold` from the first start), and the longest
time between two acknowledgements at one node from then on ("gap"). Needs only Python; ends with 1
when writes do not come back, or when one that was acknowledged is not in the stream afterwards.
"""
import argparse
import asyncio
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

SUBJECT = "failover.w"
STREAM = "failover"
PATIENCE_S = 60


def free_ports(count):
    sockets = []
    for _ in range(count):
        tcp = socket.socket()
        tcp.bind(("127.0.0.1", 0))
        sockets.append(tcp)
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Node:
    """A node process and how to start it again."""

    def __init__(self, binary, folder, name, ports, routes):
        self.name, self.client_port, self.monitor_port = name, ports[0], ports[1]
        self.log = open(folder / f"{name}.log", "ab")
        conf = folder / f"{name}.conf"
        conf.write_text(
            f"""
            server_name: {name}
            listen: "127.0.0.1:{ports[0]}"
            http: "127.0.0.1:{ports[1]}"
            jetstream {{ store_dir: "{folder / name}" }}
            cluster {{
                name: failover
                listen: "127.0.0.1:{ports[2]}"
                authorization {{ user: route, password: secret }}
                routes: [{routes}]
            }}
            """
        )
        self.args = [str(binary), "nats-server", "-c", str(conf)]
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            self.args, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log
        )

    def end(self, number):
        self.process.send_signal(number)

    def is_ready(self):
        try:
            url = f"http://127.0.0.1:{self.monitor_port}/healthz"
            with urllib.request.urlopen(url, timeout=1) as answer:
                return answer.status == 200
        except OSError:
            return False


class Client(asyncio.Protocol):
    """Just enough of the NATS protocol: publish with a reply subject, read what comes back."""

    def __init__(self):
        self.buffer = bytearray()
        self.waiting = {}
        self.number = 0
        self.inbox = f"_INBOX.{os.urandom(8).hex()}"
        self.transport = None
        self.opened = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        hello = {"verbose": False, "headers": True, "no_responders": True}
        connect = f"CONNECT {json.dumps(hello)}\r\nSUB {self.inbox}.* 1\r\nPING\r\n"
        transport.write(connect.encode())

    def connection_lost(self, _error):
        if not self.opened.done():
            self.opened.set_exception(ConnectionError("closed"))
        for answered in self.waiting.values():
            answered(None)
        self.waiting.clear()

    def data_received(self, data):
        self.buffer += data
        while (end := self.buffer.find(b"\r\n")) >= 0:
            words = bytes(self.buffer[:end]).split(b" ")
            if words[0] in (b"MSG", b"HMSG"):
                size = int(words[-1])
                if len(self.buffer) < end + 4 + size:
                    return
                body = bytes(self.buffer[end + 2 : end + 2 + size])
                del self.buffer[: end + 4 + size]
                answered = self.waiting.pop(int(words[1].rsplit(b".", 1)[1]), None)
                if answered:
                    answered(body if words[0] == b"MSG" else None)
                continue
            del self.buffer[: end + 2]
            if words[0] == b"PING":
                self.transport.write(b"PONG\r\n")
            elif words[0] == b"PONG" and not self.opened.done():
                self.opened.set_result(None)

    def ask(self, subject, body, answered):
        self.number += 1
        self.waiting[self.number] = answered
        head = f"PUB {subject} {self.inbox}.{self.number} {len(body)}\r\n"
        self.transport.write(head.encode() + body + b"\r\n")

    async def request(self, subject, value=None, within=5):
        done = asyncio.get_running_loop().create_future()
        body = b"" if value is None else json.dumps(value).encode()
        self.ask(subject, body, lambda body: done.done() or done.set_result(body))
        return json.loads(await asyncio.wait_for(done, within) or b"{}")


async def connect(port):
    _, client = await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", port)
    await asyncio.wait_for(client.opened, 5)
    return client


async def until(what, question, within=PATIENCE_S, pause=0.02):
    """The first true answer; answers that fail are none."""
    end = time.monotonic() + within
    while True:
        try:
            if answer := await question():
                return answer
        except (OSError, asyncio.TimeoutError, KeyError, ValueError):
            pass
        if time.monotonic() > end:
            raise RuntimeError(f"not within {within} s: {what}")
        await asyncio.sleep(pause)


class Writer:
    """Writes to one node at a steady pace and keeps when each write was begun and acknowledged."""

    def __init__(self, node, pace_s):
        self.node, self.pace_s = node, pace_s
        self.acks = []  # (begun, acknowledged)
        self.refused = 0
        self.sequences = set()
        self.task = asyncio.create_task(self.run())

    async def run(self):
        while True:
            try:
                client = await connect(self.node.client_port)
            except (OSError, asyncio.TimeoutError):
                await asyncio.sleep(0.02)
                continue
            due = time.monotonic()
            while not client.transport.is_closing():
                self.write(client)
                due = max(due + self.pace_s, time.monotonic() - 0.1)
                await asyncio.sleep(max(0, due - time.monotonic()))

    def write(self, client):
        begun = time.monotonic()

        def answered(body):
            ack = json.loads(body) if body else {}
            if "seq" in ack:
                self.acks.append((begun, time.monotonic()))
                self.sequences.add(ack["seq"])
            else:
                self.refused += 1

        client.ask(SUBJECT, b"x" * 128, answered)

    def resumed(self, since):
        """When the first write that was begun after `since` was acknowledged."""
        return min((acked for begun, acked in reversed(self.acks) if begun > since), default=None)

    def gap(self, since):
        """The longest time between two acknowledgements from `since` on."""
        times = sorted(acked for _, acked in self.acks if acked > since - 1)
        pairs = [(a, b) for a, b in zip(times, times[1:]) if b > since]
        return max((b - a for a, b in pairs), default=0.0)


class Bench:
    def __init__(self, nodes, args):
        self.nodes, self.args = nodes, args
        self.results = {}

    def note(self, event, resume, gap):
        self.results.setdefault(event, []).append((resume, gap))
        if self.args.verbose:
            print(f"{event}: resume {resume * 1000:.0f} ms, gap {gap * 1000:.0f} ms", flush=True)

    async def ready(self):
        loop = asyncio.get_running_loop()
        for node in self.nodes:
            await until(f"{node.name} is ready", lambda n=node: loop.run_in_executor(None, n.is_ready))

    async def leader(self):
        async def ask():
            names = set()
            for node in self.nodes:
                client = await connect(node.client_port)
                info = await client.request(f"$JS.API.STREAM.INFO.{STREAM}")
                client.transport.close()
                names.add(info["cluster"]["leader"])
            return len(names) == 1 and names.pop()

        name = await until("all agree on the leader", ask)
        return next(node for node in self.nodes if node.name == name)

    async def make_stream(self):
        config = {
            "name": STREAM, "subjects": ["failover.>"], "num_replicas": 3, "storage": "file",
            "max_age": 0, "retention": "limits", "discard": "old",
        }

        async def make():
            client = await connect(self.nodes[0].client_port)
            made = await client.request(f"$JS.API.STREAM.CREATE.{STREAM}", config)
            client.transport.close()
            return "config" in made

        await until("the stream is made", make)

    async def measure(self, event, act, writers, since=None):
        """Does it, and waits until every writer is acknowledged again and for a little longer."""
        if since is None:
            await asyncio.sleep(0.3)
        at = time.monotonic()
        await act()
        since = at if since is None else since

        async def back():
            return all(writer.resumed(at) for writer in writers)

        await until("writes are acknowledged", back, pause=0.005)
        await asyncio.sleep(self.args.watch_s)
        resume = max(writer.resumed(at) for writer in writers) - at
        self.note(event, resume, max(writer.gap(since) for writer in writers))

    async def end_leader(self, event, number, writers):
        leader = await self.leader()
        staying = [writer for writer in writers if writer.node is not leader]

        async def act():
            leader.end(number)

        await self.measure(event, act, staying)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, lambda: leader.process.wait(PATIENCE_S))
        leader.start()
        await self.ready()
        await asyncio.sleep(self.args.rest_s)

    async def pause(self, writers):
        leader = await self.leader()
        staying = [writer for writer in writers if writer.node is not leader]

        async def act():
            leader.end(signal.SIGSTOP)

        try:
            await self.measure("pause", act, staying)
        finally:
            leader.end(signal.SIGCONT)
        await self.ready()
        await asyncio.sleep(self.args.rest_s)

    async def stepdown(self, writers):
        await self.leader()
        client = await connect(self.nodes[0].client_port)

        async def act():
            answer = await client.request(f"$JS.API.STREAM.LEADER.STEPDOWN.{STREAM}", within=10)
            if not answer.get("success"):
                print(f"stepdown answered {answer}", file=sys.stderr)

        await self.measure("stepdown", act, writers)
        client.transport.close()
        await asyncio.sleep(self.args.rest_s)

    async def cold(self, writers):
        for node in self.nodes:
            node.end(signal.SIGKILL)
        for node in self.nodes:
            node.process.wait(PATIENCE_S)

        async def act():
            for node in self.nodes:
                node.start()

        await self.measure("cold", act, writers, since=time.monotonic())
        await self.ready()
        await asyncio.sleep(self.args.rest_s)

    async def run(self, writers):
        for _ in range(self.args.kills):
            await self.end_leader("kill", signal.SIGKILL, writers)
        for _ in range(self.args.pauses):
            await self.pause(writers)
        for _ in range(self.args.stops):
            await self.end_leader("stop", signal.SIGTERM, writers)
        for _ in range(self.args.stepdowns):
            await self.stepdown(writers)
        for _ in range(self.args.colds):
            await self.cold(writers)

    async def check(self, writers):
        """Everything acknowledged has a sequence of its own in the stream."""
        for writer in writers:
            writer.task.cancel()
        await asyncio.sleep(0.5)
        client = await connect(self.nodes[0].client_port)
        info = await client.request(f"$JS.API.STREAM.INFO.{STREAM}")
        acked = [seq for writer in writers for seq in writer.sequences]
        state = info["state"]
        lost = [seq for seq in acked if seq > state["last_seq"]]
        twice = sum(len(w.acks) for w in writers) - len(set(acked))
        print(
            f"{len(acked)} writes acknowledged, {sum(w.refused for w in writers)} refused or cut off, "
            f"{state['messages']} in the stream"
        )
        return not lost and not twice and state["messages"] >= len(set(acked))


def percentile(values, percent):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, -(-len(ordered) * percent // 100) - 1)]


def report(results):
    print("| event | times | resume p50 | p90 | p99 | max | gap p50 | p99 | max |  (ms)")
    print("|---|---|---|---|---|---|---|---|---|")
    for event, pairs in results.items():
        resumes, gaps = zip(*pairs)
        cells = [percentile(resumes, p) for p in (50, 90, 99, 100)]
        cells += [percentile(gaps, p) for p in (50, 99, 100)]
        row = " | ".join(f"{cell * 1000:.0f}" for cell in cells)
        print(f"| {event} | {len(pairs)} | {row} |")


async def bench(args, folder):
    binary = pathlib.Path(args.binary).resolve()
    names = ["n0", "n1", "n2"]
    ports = free_ports(3 * len(names))
    ports = [ports[3 * i : 3 * i + 3] for i in range(len(names))]
    routes = ", ".join(f'"nats-route://route:secret@127.0.0.1:{p[2]}"' for p in ports)
    nodes = [Node(binary, folder, name, p, routes) for name, p in zip(names, ports)]
    run = Bench(nodes, args)
    try:
        begun = time.monotonic()
        for node in nodes:
            node.start()
        await run.ready()
        formed = time.monotonic() - begun
        await run.make_stream()
        print(f"formed and ready after {formed * 1000:.0f} ms", flush=True)
        writers = [Writer(node, args.pace_ms / 1000) for node in nodes]
        await run.run(writers)
        report(run.results)
        return await run.check(writers)
    finally:
        for node in nodes:
            if node.process and node.process.poll() is None:
                node.process.kill()
                node.process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", help="the node's program, a release build")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--pauses", type=int, default=10)
    parser.add_argument("--stops", type=int, default=10)
    parser.add_argument("--stepdowns", type=int, default=10)
    parser.add_argument("--colds", type=int, default=3)
    parser.add_argument("--pace-ms", type=float, default=5, help="between two writes of a publisher")
    parser.add_argument("--watch-s", type=float, default=0.5, help="watched after writes are back")
    parser.add_argument("--rest-s", type=float, default=0.5, help="between two events")
    parser.add_argument("--keep", help="an empty folder for the nodes' data and logs")
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(args.keep or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        sys.exit(0 if asyncio.run(bench(args, folder)) else 1)


if __name__ == "__main__":
    main()
