#!/usr/bin/env python3
"""Puts one large object into a node and gets it out again, and says how much memory node and client held.

    ops/bench/objects.py [--node BINARY] [--tool BINARY] [--gib 3] [--cache-mb N] [--chunk 128K] --dir FOLDER

The client is the program `unibus` (`object put` from its standard input, `object get` to its standard
output), so nothing but the store takes disk: about the object and what a checkpoint keeps of the log. A
line of JSON for the start, each way, and a repetition of the way out: MiB a second, the most resident and
anonymous MiB of each node and of the client while it ran, sampled ten times a second, and each node's
resident MiB at each eighth of the object. What comes out is compared with what went in by SHA-256.
Std only; nothing is left behind in --dir.
"""
import argparse, hashlib, json, os, pathlib, shutil, signal, socket, subprocess, tempfile, threading, time

PIECE = 1 << 20


def port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def memory(pid):
    """Resident and anonymous MiB; zeros where the process is gone."""
    found = {}
    try:
        for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
            key, _, value = line.partition(":")
            if key in ("VmRSS", "RssAnon"):
                found[key] = int(value.split()[0]) / 1024
    except OSError:
        pass
    return found.get("VmRSS", 0), found.get("RssAnon", 0)


class Watch(threading.Thread):
    """Samples processes until it is told to stop."""

    def __init__(self, pids):
        super().__init__(daemon=True)
        self.most = {pid: [0, 0] for pid in pids}
        self.over = threading.Event()
        self.start()

    def run(self):
        while not self.over.wait(0.1):
            for pid, most in self.most.items():
                for at, now in enumerate(memory(pid)):
                    most[at] = max(most[at], now)

    def end(self):
        self.over.set()
        self.join()
        return {pid: [round(mib) for mib in most] for pid, most in self.most.items()}


class Node:
    def __init__(self, binary, folder, name, extra):
        self.folder, self.log = folder, folder / f"{name}.log"
        self.port = port()
        out = open(self.log, "ab")
        self.proc = subprocess.Popen(
            [binary, "--bind", "127.0.0.1", "--port", str(self.port), "--http-port", str(port()), "--monitor-port", "0",
             "--data-dir", str(folder / name), *extra], stdout=out, stderr=out, cwd=folder)

    def ready(self):
        end = time.time() + 120
        while time.time() < end and self.proc.poll() is None:
            try:
                return socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
            except OSError:
                time.sleep(0.05)
        raise SystemExit(f"objects: the node does not listen:\n{self.log.read_text()[-2000:]}")

    def stop(self):
        if self.proc.poll() is not None:
            return
        self.proc.send_signal(signal.SIGTERM)
        try:
            self.proc.wait(60)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()


def pieces(size):
    """The object: pieces that do not repeat, made as they are needed."""
    base = os.urandom(PIECE - 8)
    for at in range(size // PIECE):
        yield at.to_bytes(8, "little") + base


def run(what, nodes, tool, arguments, size, feed):
    """One way. Returns the SHA-256 of what went through."""
    pipe = {"stdin": subprocess.PIPE} if feed else {"stdout": subprocess.PIPE}
    began = time.time()
    client = subprocess.Popen([tool, *arguments], **pipe)
    watch = Watch([client.pid] + [node.proc.pid for node in nodes])
    digest, done, eighths = hashlib.sha256(), 0, [[] for _ in nodes]
    source = feed if feed else iter(lambda: client.stdout.read(PIECE), b"")
    for piece in source:
        if feed:
            client.stdin.write(piece)
        digest.update(piece)
        before, done = done, done + len(piece)
        if before * 8 // size != done * 8 // size:
            for node, row in zip(nodes, eighths):
                row.append(round(memory(node.proc.pid)[0]))
    if feed:
        client.stdin.close()
    status = client.wait()
    spent, most = time.time() - began, watch.end()
    if status != 0 or done != size:
        raise SystemExit(f"objects: {what}: status {status}, {done} of {size} bytes")
    print(json.dumps({
        "what": what, "mib": size >> 20, "mib_per_s": round(size / spent / 2**20, 1), "client_rss_and_anon_mib": most[client.pid],
        "node_rss_and_anon_mib": [most[node.proc.pid] for node in nodes], "node_rss_at_eighths_mib": eighths,
        "load": round(os.getloadavg()[0], 2)}), flush=True)
    return digest.hexdigest()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--node", default="target/release/unibus-node")
    ap.add_argument("--tool", default="target/release/unibus")
    ap.add_argument("--gib", type=float, default=3)
    ap.add_argument("--cache-mb", type=int)
    ap.add_argument("--chunk", default="128K")
    ap.add_argument("--dir", required=True, help="where the store is made")
    a = ap.parse_args()
    size = int(a.gib * 1024) * PIECE
    folder = pathlib.Path(tempfile.mkdtemp(prefix="objects-", dir=a.dir))
    tool = str(pathlib.Path(a.tool).resolve())
    extra = ["--cache-mb", str(a.cache_mb)] if a.cache_mb else []
    nodes = []
    os.environ["XDG_CONFIG_HOME"] = str(folder / "config")
    try:
        nodes.append(Node(str(pathlib.Path(a.node).resolve()), folder, "n1", extra))
        for node in nodes:
            node.ready()
        at = ["--server", f"nats://127.0.0.1:{nodes[0].port}"]
        subprocess.run([tool, *at, "object", "add", "LARGE"], check=True, stdout=subprocess.DEVNULL)
        print(json.dumps({"what": "start", "cache_mb": a.cache_mb or "default",
                          "node_rss_and_anon_mib": [[round(mib) for mib in memory(node.proc.pid)] for node in nodes]}), flush=True)
        put = run("put", nodes, tool, [*at, "object", "put", "LARGE", "-", "--name", "large", "--chunk-size", a.chunk], size, pieces(size))
        for what in ("get", "get again"):
            if run(what, nodes, tool, [*at, "object", "get", "LARGE", "large", "--output", "-"], size, None) != put:
                raise SystemExit(f"objects: {what}: what came out is not what went in")
    finally:
        for node in nodes:
            node.stop()
        shutil.rmtree(folder, ignore_errors=True)


main()
