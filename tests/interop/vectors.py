#!/usr/bin/env python3
"""Opens every vector of tests/vectors with a second implementation.

    pip install -r tests/interop/requirements.txt
    python3 tests/interop/vectors.py

Prints one line for each file, and exits with 1 at the first difference.
"""
import json
import pathlib

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from nkeys import from_seed

import unibus_room as unibus

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "vectors"


def load(name):
    return json.loads((FOLDER / name).read_text())


def people():
    vectors = load("identity.json")
    found = {}
    for name, v in vectors.items():
        who = unibus.Identity(bytes.fromhex(v["sign_secret"]), bytes.fromhex(v["kex_secret"]))
        assert who.sign_pub.hex() == v["sign_pub"], name
        assert who.kex_pub.hex() == v["kex_pub"], name
        assert who.endpoint == v["endpoint"], name
        assert from_seed(v["nkey_seed"].encode()).public_key.decode() == v["nkey"], name
        found[name] = who
    return found


def requests(who):
    v = load("request.json")
    for case in v["cases"]:
        body = case["body"].encode()
        args = case["method"], case["uri"], case["timestamp"], case["nonce"], body
        assert unibus.canonical_request(*args) == case["canonical"]
        assert unibus.signed_headers(who[v["signer"]], *args) == case["headers"]


def statements(who):
    v = load("statements.json")
    for name in ("room", "member"):
        assert who[v["signer"]].sign_text(v[name]["statement"]) == v[name]["signature"], name


def room_key(who):
    v = load("room_key.json")
    opened = unibus.open_room_key(
        who[v["recipient"]], v["room"], v["epoch"], unibus.unb64(v["sealed_key"]),
        unibus.unb64(v["signature"]), who[v["sealer"]].sign_pub,
    )
    assert opened.hex() == v["room_key"]


def message_key(who):
    v = load("message_key.json")
    room, epoch, sender, kind = v["info"].split("\n")[1:]
    key = unibus.message_key(
        bytes.fromhex(v["room_key"]), bytes.fromhex(v["salt"]), room, epoch, sender, kind
    )
    assert key.hex() == v["key"]


def frames(who):
    v = load("frames.json")
    sender, key = who[v["sender"]], bytes.fromhex(v["room_key"])
    for case in v["cases"]:
        data = bytes.fromhex(case["frame"])
        fields, plaintext = unibus.open_frame(data, sender.sign_pub, key)
        assert plaintext.hex() == case["plaintext"], case["name"]
        assert unibus.signed_bytes(fields).hex() == case["signed"], case["name"]
        assert unibus.associated(fields).hex() == case["associated"], case["name"]
        if fields["ep"]:
            header = {k: fields[k] for k in fields if k not in ("v", "n", "p", "sig", "from")}
            again = unibus.make_frame(sender, header, fields["n"], plaintext, key)
            assert again == data, case["name"]
    for case in v["garbage"]:
        try:
            unibus.decode(bytes.fromhex(case["frame"]))
        except unibus.Garbled:
            continue
        raise AssertionError(f"{case['name']} was read")


def blobs(_who):
    v = load("blob.json")
    key, piece = AESGCM(bytes.fromhex(v["key"])), v["piece"]
    nonce = bytes(4) + piece["index"].to_bytes(8, "big")
    end = "last" if piece["last"] else "more"
    aad = f"UNIBUS-BLOB-PIECE-1\n{piece['index']}\n{end}".encode()
    assert key.decrypt(nonce, bytes.fromhex(piece["sealed"]), aad).hex() == piece["plaintext"]
    nonce = b"\x01" + bytes(11)
    manifest = key.decrypt(nonce, bytes.fromhex(v["manifest"]["sealed"]), b"UNIBUS-BLOB-MANIFEST-1")
    manifest = unibus.cbor2.loads(manifest)
    hashes = "".join(v["manifest"]["pieces"])
    assert (manifest["size"], manifest["pieces"].hex()) == (v["manifest"]["size"], hashes)
    text = v["reference"]["text"].removeprefix("unibus-blob:")
    assert unibus.unb64(text).hex() == v["reference"]["encoded"]


def main():
    who = people()
    print("identity.json: ok")
    for check in (requests, statements, room_key, message_key, frames, blobs):
        check(who)
        print(f"{check.__name__}: ok")


main()
