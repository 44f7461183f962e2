#!/usr/bin/env python3
"""Fills one stream of one node and says what that costs: disk, memory, and the time to start again.

    ops/bench/scale.py [--node BINARY] [--gib 2] [--size 1024] [--subjects 1] [--window 2048] --dir FOLDER

Bounded by --gib of payload. Prints a line of JSON for each quarter of the fill (payload bytes, messages
a second, resident MiB, bytes written to the disk a payload byte) and one for the restart (stop and start
until the stream answers, milliseconds; resident MiB; MiB in the store). Bytes written are those of the
block device below --dir, so that must be a file system which nobody else writes to, for instance

    truncate -s 9G image && mkfs.ext4 -q -F image && mount -o loop image folder

(`write_bytes` of /proc/PID/io is no measure: where the page cache holds large folios it counts a whole
folio for each append to one.) Std only; nothing is left behind in --dir.
"""
import argparse, json, os, pathlib, shutil, signal, socket, subprocess, tempfile, time


def port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Client:
    """The few operations of the protocol that this takes."""

    def __init__(self, to):
        self.sock = socket.create_connection(("127.0.0.1", to), timeout=60)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.left = b""
        self.sock.sendall(b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\nSUB _INBOX.scale 1\r\nPING\r\n')
        self.until(b"PONG\r\n")

    def until(self, mark):
        while mark not in self.left:
            got = self.sock.recv(1 << 16)
            if not got:
                raise SystemExit("scale: the node closed the connection")
            self.left += got
        before, self.left = self.left.split(mark, 1)
        return before

    def message(self):
        """The payload of the next message, headers included."""
        self.until(b"MSG ")
        length = int(self.until(b"\r\n").split()[-1])
        while len(self.left) < length + 2:
            self.left += self.sock.recv(1 << 16)
        payload, self.left = self.left[:length], self.left[length + 2 :]
        return payload

    def ask(self, subject, body=b""):
        self.sock.sendall(b"PUB %s _INBOX.scale %d\r\n%s\r\n" % (subject, len(body), body))
        return self.message()


class Node:
    def __init__(self, binary, folder):
        self.binary, self.folder = binary, folder
        self.port = port()

    def start(self):
        started = time.time()
        out = open(self.folder / "node.log", "ab")
        self.proc = subprocess.Popen(
            [self.binary, "--bind", "127.0.0.1", "--port", str(self.port), "--http-port", str(port()), "--monitor-port", "0",
             "--data-dir", str(self.folder / "data")], stdout=out, stderr=out, cwd=self.folder)
        return started

    def connect(self):
        end = time.time() + 600
        while time.time() < end and self.proc.poll() is None:
            try:
                return Client(self.port)
            except OSError:
                time.sleep(0.02)
        raise SystemExit(f"scale: the node does not listen; its log is {self.folder}/node.log")

    def of(self, file, key):
        for line in pathlib.Path(f"/proc/{self.proc.pid}/{file}").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1])

    def resident_mib(self):
        return self.of("status", "VmRSS") // 1024

    def written(self):
        """Bytes written to the device so far; what the kernel still holds is written first."""
        os.sync()
        device = os.stat(self.folder).st_dev
        stat = pathlib.Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
        return int(stat.read_text().split()[6]) * 512

    def stop(self):
        self.proc.send_signal(signal.SIGTERM)
        try:
            self.proc.wait(120)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()


def fill(client, count, size, subjects, window):
    """Publishes `count` messages, `window` of them unanswered."""
    head = b"PUB scale.%d _INBOX.scale %d\r\n"
    payload = os.urandom(size)
    block = 64
    frames = [b"".join((head % ((at + n) % subjects, size)) + payload + b"\r\n" for n in range(block)) for at in range(0, max(subjects, 1), block)]
    sent = answered = 0
    while answered < count:
        while sent < count and sent - answered + block <= window:
            client.sock.sendall(frames[sent // block % len(frames)])
            sent += block
        got = client.left + client.sock.recv(1 << 18)
        if b"error" in got:
            raise SystemExit(f"scale: {got[:300]!r}")
        whole = got.rfind(b"MSG ") if not got.endswith(b"}\r\n") else len(got)
        answered += got.count(b"MSG ", 0, whole)
        client.left = got[whole:]
    return sent


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--node", default="target/release/unibus-node")
    ap.add_argument("--gib", type=float, default=2)
    ap.add_argument("--size", type=int, default=1024)
    ap.add_argument("--subjects", type=int, default=1)
    ap.add_argument("--window", type=int, default=2048)
    ap.add_argument("--dir", required=True, help="where the store is made: on a device of its own")
    a = ap.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="scale-", dir=a.dir))
    node = Node(str(pathlib.Path(a.node).resolve()), folder)
    try:
        node.start()
        client = node.connect()
        config = json.dumps({"name": "SCALE", "subjects": ["scale.*"], "retention": "limits", "storage": "file", "num_replicas": 1})
        answer = client.ask(b"$JS.API.STREAM.CREATE.SCALE", config.encode())
        if b'"error"' in answer:
            raise SystemExit(f"scale: {answer!r}")
        first = last = node.written()
        stored, spent = 0, 0
        for quarter in range(4):
            began = time.time()
            more = fill(client, int(a.gib * 2**30 / a.size / 4), a.size, a.subjects, a.window)
            stored, spent = stored + more, spent + time.time() - began
            before, last = last, node.written()
            print(json.dumps({
                "payload_mib": stored * a.size >> 20, "msgs_per_s": round(stored / spent), "resident_mib": node.resident_mib(),
                "disk_bytes_a_payload_byte": round((last - first) / (stored * a.size), 3),
                "of_this_quarter": round((last - before) / (more * a.size), 3), "load": os.getloadavg()[0]}), flush=True)
        stopping = time.time()
        node.stop()
        stopped = time.time()
        started = node.start()
        client = node.connect()
        while json.loads(client.ask(b"$JS.API.STREAM.INFO.SCALE")).get("state", {}).get("messages") != stored:
            time.sleep(0.02)
        ready = time.time()
        used = sum(f.stat().st_size for f in (folder / "data").rglob("*") if f.is_file() and "snapshots" not in f.parts)
        print(json.dumps({"stop_ms": round((stopped - stopping) * 1e3), "start_ms": round((ready - started) * 1e3),
                          "resident_mib": node.resident_mib(), "store_mib": used >> 20}), flush=True)
    finally:
        if node.proc.poll() is None:
            node.stop()
        shutil.rmtree(folder, ignore_errors=True)


main()
