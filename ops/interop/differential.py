#!/usr/bin/env python3
"""Asks this project's node and a real nats-server the same things and prints where the answers differ.

usage: ops/interop/differential.py NATS_SERVER UNIBUS_NODE [-v]

Both listen on loopback and are ended at the end. Times, ids, names and sizes of processes are made equal
before they are compared; what is known to differ on purpose stands in EXPECTED with its reason. Ends with 1
where anything else differs. Needs Python 3 and nats-py.
"""
import asyncio, json, os, re, socket, subprocess, sys, tempfile

import nats

#: Differences on purpose: a pattern of "step path", and why.
EXPECTED = [
    (r"STREAM\.NAMES \.streams$", "an empty list is [], not null; clients take both"),
    (r"sampling configuration|invalid JSON|\.error\.description: .*JSON", "the words of another JSON parser"),
    (r"STREAM\.INFO\S* \.state\.(num_)?deleted", "an empty stream has no deleted message 0"),
    (r"\$JS\.API\.(STREAM\.)?NOPE|ACCOUNT\.PURGE|META\.LEADER", "an error at once, where nats-server is silent"),
    (r"MSG\.DELETE\S* \.error", "a sequence past the end is told like one that is gone, not as a failing store"),
    (r"CREATE\.b \.error", "mirror filters are told like other transforms"),
    (r"\.priority_groups$", "every group is told, not the first alone"),
    (r"\.ack_floor\.last_active$", "nobody acknowledged: a limit removed the messages"),
    (r"SNAPSHOT\.S \.error", "says what is missing"),
    (r"ACK\.Q\.c\.1\.6", "what is no acknowledgement is not acknowledged"),
    (r"Q\.l \.(ack_floor|delivered)\.stream_seq", "positions begin before the stream, not before the first of the set"),
    (r"DIRECT\.GET\.Q \[2\]\.headers\.Nats-Num-Pending", "counts what was sent, also without headers"),
    (r"REQ\.USER\.INFO \.server\.", "who the server is"),
    (r"API\.INFO \.(api\.(total|errors)|consumers)$", "silent requests are none; mirrors and sources are no consumers here"),
]

TIME = re.compile(r"^\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:\d\d)$")
#: Keys whose values depend on the process, not on the behaviour.
OWN = {
    "server_id", "server_name", "name_hash", "cluster", "domain", "peer", "leader", "raft_group", "active",
    "created", "ts", "first_ts", "last_ts", "last_active", "time", "start", "now", "uptime",
    "reserved_memory", "reserved_storage", "_nats.ver", "_nats.level", "_nats.req.level", "pause_remaining",
}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def plain(value, key=""):
    """The value without what differs by nature."""
    if isinstance(value, dict):
        return {k: ("*" if k in OWN and not isinstance(v, (dict, list)) else plain(v, k)) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v, key) for v in value]
    if isinstance(value, str) and TIME.match(value):
        return "*" if not value.startswith("0001-") else value
    return value


def differences(a, b, path=""):
    """Paths at which two values differ, each with both values."""
    if isinstance(a, dict) and isinstance(b, dict):
        for k in sorted(a.keys() | b.keys()):
            if k not in a:
                yield f"{path}.{k}", "absent", b[k]
            elif k not in b:
                yield f"{path}.{k}", a[k], "absent"
            else:
                yield from differences(a[k], b[k], f"{path}.{k}")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b)):
            yield from differences(x, y, f"{path}[{i}]")
    elif a != b:
        yield path or ".", a, b


class Server:
    """A process of either, and a client of it."""

    def __init__(self, command, folder):
        self.port, self.folder = free_port(), folder
        os.makedirs(folder, exist_ok=True)
        args = [*command, "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", os.path.join(folder, "js")]
        self.process = subprocess.Popen(args, stderr=open(os.path.join(folder, "log"), "w"), stdout=subprocess.DEVNULL)

    async def connect(self):
        for _ in range(100):
            try:
                self.client = await nats.connect(f"nats://127.0.0.1:{self.port}", allow_reconnect=False, inbox_prefix="_INBOX")
                return self
            except Exception:
                await asyncio.sleep(0.1)
        raise SystemExit(f"no server on {self.port}: see {self.folder}/log")

    async def ask(self, subject, body, headers=None, timeout=2):
        data = body if isinstance(body, bytes) else b"" if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        try:
            m = await self.client.request(subject, data, timeout=timeout, headers=headers)
        except nats.errors.NoRespondersError:
            return {"status": 503}
        except (nats.errors.TimeoutError, asyncio.TimeoutError):
            return {"timeout": True}
        try:
            answer = json.loads(m.data) if m.data else {}
        except ValueError:
            answer = {"text": m.data.decode(errors="replace")}
        if m.headers:
            answer = {"headers": dict(m.headers), "body": answer}
        return answer

    async def gather(self, subject, body, headers=None):
        """Every message that a request brings, until nothing has come for a while."""
        inbox, found = self.client.new_inbox(), []
        subscription = await self.client.subscribe(inbox)
        data = b"" if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        await self.client.publish(subject, data, reply=inbox, headers=headers)
        while len(found) < 1000:
            try:
                m = await subscription.next_msg(timeout=0.6)
            except (nats.errors.TimeoutError, asyncio.TimeoutError):
                break
            # Stream, consumer and counts of an acknowledgement subject; not its time.
            reply = re.sub(r"\.\d{18,}\.", ".TIME.", m.reply or "")
            headers_told = {k: "*" if k in ("Nats-Time-Stamp",) else v for k, v in (m.headers or {}).items()}
            subject_told = "INBOX" if m.subject == inbox else m.subject
            found.append({"subject": subject_told, "reply": reply, "headers": headers_told, "data": m.data.decode(errors="replace")})
        await subscription.unsubscribe()
        return found

    async def stop(self):
        await self.client.close()
        self.process.terminate()
        self.process.wait(10)


A, C, S = "$JS.API", "$JS.API.CONSUMER", "$JS.API.STREAM"


def stream(name="S", **more):
    return {"name": name, "subjects": [f"{name}.>"], "retention": "limits", "storage": "file", "num_replicas": 1,
            "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_age": 0, "discard": "old", **more}


def consumer(st="S", name="c", **more):
    return {"stream_name": st, "config": {"name": name, "durable_name": name, "ack_policy": "explicit", "deliver_policy": "all", "replay_policy": "instant", **more}, "action": ""}


from differential_steps import steps  # noqa: E402


async def main():
    real, ours = sys.argv[1], sys.argv[2]
    verbose = "-v" in sys.argv[3:]
    folder = tempfile.mkdtemp(prefix="differential")
    servers = [Server([real], f"{folder}/real"), Server([ours, "nats-server"], f"{folder}/ours")]
    found = 0
    try:
        for server in servers:
            await server.connect()
        for number, (subject, body, *headers) in enumerate(steps(stream, consumer)):
            headers = headers[0] if headers else None
            if subject.startswith("*"):
                subject = subject[1:]
                answers = await asyncio.gather(*[server.gather(subject, body, headers) for server in servers])
            else:
                answers = [plain(await server.ask(subject, body, headers)) for server in servers]
            step = f"{number} {subject} {json.dumps(body) if not isinstance(body, bytes) else body!r}"
            if verbose:
                print(step, json.dumps(answers[0]))
            for path, a, b in differences(*answers):
                told = f"{subject} {path}: {a} {b}"
                if any(re.search(pattern, f"{subject} {path}") or re.search(pattern, told) for pattern, _ in EXPECTED):
                    continue
                found += 1
                print(f"{step[:220]}\n    {path}: nats-server {json.dumps(a)[:300]} | here {json.dumps(b)[:300]}")
    finally:
        for server in servers:
            await server.stop()
    print(f"{found} differences")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
