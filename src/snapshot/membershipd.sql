-- The tables of a membershipd database, as migrate-to-kv reads them. Other tables and columns are
-- left alone. Times are RFC 3339 text or Unix seconds; NULL where a column may be NULL is "none".

CREATE TABLE users (
    sign_pub    TEXT PRIMARY KEY,               -- Ed25519 public key: 64 hex digits, or an nkey U…
    name        TEXT NOT NULL DEFAULT '',       -- for people
    role        TEXT NOT NULL,                  -- admin, member or service
    status      TEXT NOT NULL DEFAULT 'active', -- active or revoked
    grants      TEXT,                           -- JSON of a service's grants: publish, subscribe, streams, buckets
    created_at  TEXT NOT NULL,
    revoked_at  TEXT                            -- set where status is revoked
);

CREATE TABLE rooms (
    id              TEXT PRIMARY KEY,           -- 1 to 64 letters, digits, '-' and '_'
    subject         TEXT NOT NULL UNIQUE,       -- where its messages are published; literal
    policy          TEXT NOT NULL,              -- nats, matrix, or JSON: {"encrypted":…,"persisted":…,"history":…}
    owner           TEXT NOT NULL,              -- the owner's endpoint id: 32 hex digits
    epoch           INTEGER NOT NULL,           -- of the current room key; 1 or more
    created_at      TEXT NOT NULL,
    owner_signature TEXT NOT NULL,              -- base64, over the room's statement
    needs_rekey     INTEGER NOT NULL DEFAULT 0  -- 1 = somebody left and the room was not rekeyed yet
);

CREATE TABLE members (
    room_id           TEXT NOT NULL REFERENCES rooms (id),
    endpoint          TEXT NOT NULL,            -- follows from sign_pub
    sign_pub          TEXT NOT NULL,
    kex_pub           TEXT NOT NULL,            -- X25519 public key: 64 hex digits
    role              TEXT NOT NULL,            -- owner or member
    joined_at         TEXT,                     -- NULL = invited, not joined yet
    inviter           TEXT NOT NULL,            -- endpoint id
    inviter_signature TEXT NOT NULL,            -- base64, over the member's statement
    PRIMARY KEY (room_id, endpoint)
);

CREATE TABLE room_keys (
    room_id          TEXT NOT NULL REFERENCES rooms (id),
    epoch            INTEGER NOT NULL,
    endpoint         TEXT NOT NULL,             -- whom it is sealed to
    sealed_key       TEXT NOT NULL,             -- base64, or a BLOB
    sealer           TEXT NOT NULL,             -- endpoint id
    sealer_signature TEXT NOT NULL,             -- base64, over the sealed key's statement
    PRIMARY KEY (room_id, epoch, endpoint)
);
