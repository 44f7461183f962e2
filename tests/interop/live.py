#!/usr/bin/env python3
"""Joins a live room as a second implementation: waits for an invitation, reads what was said, answers.

    pip install -r tests/interop/requirements.txt
    python3 tests/interop/live.py --http http://127.0.0.1:8470 --nats nats://127.0.0.1:4222

With --ca FILE both planes speak TLS. Prints its key (an admin adds it: `unibus-node user add U…`) and its
contact (the room's owner invites it), then answers every message until --answers were given. ops/interop/rooms.sh
runs it against a node and the Rust client.
"""
import argparse
import asyncio
import base64
import json
import os
import ssl
import time
import urllib.error
import urllib.request

import nats
from nkeys import PREFIX_BYTE_USER, encode_seed, from_seed

import unibus_room as unibus


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--http", required=True, help="control plane, http:// or https://")
    parser.add_argument("--nats", required=True, help="message plane, nats:// or tls://")
    parser.add_argument("--ca", help="CA of both planes' certificates (PEM)")
    parser.add_argument("--answers", type=int, default=1, help="how many messages to answer")
    return parser.parse_args()


class Plane:
    def __init__(self, url, tls, identity):
        self.url, self.tls, self.identity = url, tls, identity

    def call(self, method, uri, body=b""):
        nonce = base64.b64encode(os.urandom(16)).decode()
        headers = unibus.signed_headers(
            self.identity, method, uri, int(time.time()), nonce, body
        )
        request = urllib.request.Request(
            self.url + uri, data=body if method == "POST" else None, method=method, headers=headers
        )
        with urllib.request.urlopen(request, context=self.tls) as answer:
            return json.loads(answer.read())


def verified_members(room, members):
    """Signing keys by endpoint, of those whom the owner has admitted."""
    owner = next(m for m in members if m["endpoint"] == room["owner"] and m["role"] == "owner")
    owner_pub = bytes.fromhex(owner["sign_pub"])
    policy = room["policy"]
    words = (
        "encrypted" if policy["encrypted"] else "cleartext",
        "persisted" if policy["persisted"] else "ephemeral",
        policy["history"],
    )
    statement = "\n".join(
        ("UNIBUS-ROOM-1", room["id"], room["subject"], *words)
        + (owner["endpoint"], owner["sign_pub"], owner["kex_pub"])
    )
    signature = unibus.unb64(room["owner_signature"])
    assert unibus.verify(owner_pub, signature, statement.encode()), "the room is not its owner's"
    keys = {owner["endpoint"]: owner_pub}
    for m in members:
        if m["endpoint"] in keys:
            continue
        statement = "\n".join(
            ("UNIBUS-MEMBER-1", room["id"], m["endpoint"], m["sign_pub"], m["kex_pub"], m["role"])
        )
        signature = unibus.unb64(m["inviter_signature"])
        assert unibus.verify(owner_pub, signature, statement.encode()), f"{m['endpoint']} is invented"
        keys[m["endpoint"]] = bytes.fromhex(m["sign_pub"])
    return owner_pub, keys


async def invited(plane):
    uri = f"/members/{plane.identity.endpoint}/rooms"
    while True:
        try:
            rooms = plane.call("GET", uri)
            if rooms:
                return rooms[0]
        except urllib.error.HTTPError as error:
            if error.code != 401:
                raise
        await asyncio.sleep(0.3)


async def main():
    args = arguments()
    secret = os.urandom(32)
    me = unibus.Identity(secret, os.urandom(32))
    seed = encode_seed(secret, PREFIX_BYTE_USER)
    print("key", from_seed(seed).public_key.decode(), flush=True)
    print("contact", me.contact(), flush=True)
    tls = ssl.create_default_context(cafile=args.ca) if args.ca else None
    plane = Plane(args.http, tls, me)
    mine = await invited(plane)
    room_id = mine["room_id"]
    plane.call("POST", f"/rooms/{room_id}/join")
    room = plane.call("GET", f"/rooms/{room_id}")
    owner_pub, keys = verified_members(room, plane.call("GET", f"/rooms/{room_id}/members"))
    uri = f"/rooms/{room_id}/key?endpoint={me.endpoint}&epoch={room['epoch']}"
    sealed = plane.call("GET", uri)
    key = unibus.open_room_key(
        me, room_id, room["epoch"], unibus.unb64(sealed["sealed_key"]),
        unibus.unb64(sealed["sealer_signature"]), owner_pub,
    )
    print("joined", room_id, flush=True)

    client = await nats.connect(args.nats, nkeys_seed_str=seed.decode(), tls=tls)
    js, stream, answered, seq = client.jetstream(), f"UNIBUS_{room_id}", 0, 0
    while answered < args.answers:
        seq += 1
        reply = await client.request(
            f"$JS.API.DIRECT.GET.{stream}", json.dumps({"seq": seq}).encode(), timeout=5
        )
        if reply.headers and reply.headers.get("Status") == "404":
            seq -= 1
            await asyncio.sleep(0.2)
            continue
        fields, text = unibus.open_frame(
            reply.data, keys[unibus.decode(reply.data)["from"]], key
        )
        print("read", fields["ty"], text.decode(), flush=True)
        if fields["from"] == me.endpoint or fields["ty"] != "MSG":
            continue
        now = int(time.time() * 1000)
        header = {
            "id": now.to_bytes(6, "big") + b"\x70" + os.urandom(1) + b"\x80" + os.urandom(7),
            "room": room_id, "ep": room["epoch"], "ty": "MSG", "ts": now, "re": fields["id"],
        }
        answer = unibus.make_frame(me, header, os.urandom(24), b"you said: " + text, key)
        await js.publish(room["subject"], answer, stream=stream)
        answered += 1
    await client.drain()


asyncio.run(main())
