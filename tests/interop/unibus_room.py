"""Rooms of a unibus, written from rooms.md alone: identities, frames, keys, signed requests.

Owns no I/O. Everything cryptographic is done by published packages: blake3, cbor2, cryptography,
nkeys, pyhpke.
"""
import base64
import hashlib

import cbor2
from blake3 import blake3
from cryptography.exceptions import InvalidTag, InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey

SUITE = CipherSuite.new(
    KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.AES256_GCM
)


class Garbled(Exception):
    """Bytes that are no frame."""


def b64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text):
    text = text.rstrip("=").replace("-", "+").replace("_", "/")
    return base64.b64decode(text + "=" * (-len(text) % 4))


def endpoint_of(sign_pub):
    return blake3(sign_pub).digest()[:16].hex()


class Identity:
    def __init__(self, sign_secret, kex_secret):
        self.sign = Ed25519PrivateKey.from_private_bytes(sign_secret)
        self.kex = X25519PrivateKey.from_private_bytes(kex_secret)
        self.sign_pub = self.sign.public_key().public_bytes_raw()
        self.kex_pub = self.kex.public_key().public_bytes_raw()
        self.endpoint = endpoint_of(self.sign_pub)

    def sign_text(self, text):
        return b64url(self.sign.sign(text.encode()))

    def contact(self):
        return f"unibus-contact:{self.sign_pub.hex()}{self.kex_pub.hex()}"


def verify(sign_pub, signature, data):
    try:
        Ed25519PublicKey.from_public_bytes(sign_pub).verify(signature, data)
        return True
    except InvalidSignature:
        return False


def canonical_request(method, uri, timestamp, nonce, body):
    digest = hashlib.sha256(body).hexdigest()
    return f"UNIBUS-REQUEST-1\n{method}\n{uri}\n{timestamp}\n{nonce}\n{digest}"


def signed_headers(identity, method, uri, timestamp, nonce, body):
    text = canonical_request(method, uri, timestamp, nonce, body)
    return {
        "x-unibus-key": identity.sign_pub.hex(),
        "x-unibus-timestamp": str(timestamp),
        "x-unibus-nonce": nonce,
        "x-unibus-signature": identity.sign_text(text),
    }


def open_room_key(identity, room, epoch, sealed, signature, sealer_pub):
    digest = hashlib.sha256(sealed).hexdigest()
    statement = f"UNIBUS-SEALED-KEY-1\n{room}\n{epoch}\n{identity.endpoint}\n{digest}"
    if not verify(sealer_pub, signature, statement.encode()):
        raise Garbled("the sealed key is not signed by its sealer")
    info = f"UNIBUS-ROOM-KEY-1\n{room}\n{epoch}\n{identity.endpoint}".encode()
    context = SUITE.create_recipient_context(
        sealed[:32], KEMKey.from_pyca_cryptography_key(identity.kex), info=info
    )
    return context.open(sealed[32:])


def message_key(room_key, salt, room, epoch, sender, kind):
    info = f"UNIBUS-MESSAGE-1\n{room}\n{epoch}\n{sender}\n{kind}".encode()
    return HKDF(hashes.SHA256(), 32, salt, info).derive(room_key)


def encode(fields):
    """The one encoding: keys by their encoded bytes (RFC 8949 section 4.2.1)."""
    keys = sorted(fields, key=lambda key: cbor2.dumps(key))
    return cbor2.dumps({key: fields[key] for key in keys})


def decode(data):
    try:
        fields = cbor2.loads(data)
    except Exception as error:
        raise Garbled(str(error)) from error
    if not isinstance(fields, dict) or encode(fields) != data or fields.get("v") != 1:
        raise Garbled("not the deterministic encoding of a frame")
    for key in ("id", "room", "ep", "from", "ty", "ts", "p", "sig"):
        if key not in fields:
            raise Garbled(f"no {key}")
    return fields


def signed_bytes(fields):
    return b"UNIBUS-FRAME-1\n" + encode({k: v for k, v in fields.items() if k != "sig"})


def associated(fields):
    return encode({k: v for k, v in fields.items() if k not in ("sig", "p")})


def open_frame(data, sign_pub, room_key):
    """The fields of a frame and its payload in cleartext."""
    fields = decode(data)
    if endpoint_of(sign_pub) != fields["from"]:
        raise Garbled("another sender")
    if not verify(sign_pub, fields["sig"], signed_bytes(fields)):
        raise Garbled("the signature does not fit")
    if fields["ep"] == 0:
        return fields, fields["p"]
    key = message_key(
        room_key, fields["n"], fields["room"], fields["ep"], fields["from"], fields["ty"]
    )
    try:
        return fields, AESGCM(key).decrypt(bytes(12), fields["p"], associated(fields))
    except InvalidTag as error:
        raise Garbled("it can't be decrypted") from error


def make_frame(identity, fields, salt, plaintext, room_key):
    """An encrypted, signed frame; `fields` are its header."""
    fields = dict(fields, v=1, n=salt, **{"from": identity.endpoint})
    key = message_key(room_key, salt, fields["room"], fields["ep"], fields["from"], fields["ty"])
    fields["p"] = AESGCM(key).encrypt(bytes(12), plaintext, associated(fields))
    fields["sig"] = identity.sign.sign(signed_bytes(fields))
    return encode(fields)
