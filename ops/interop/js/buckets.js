// Key-value buckets and object stores.

import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { Kvm } from "@nats-io/kv";
import { Objm } from "@nats-io/obj";
import { within } from "./core.js";

const BUCKET = "interop-js";

async function bucket(connect, options, body) {
  await within([connect, connect], async (a, b) => {
    const kv = await new Kvm(a).create(BUCKET, options);
    try {
      await body(kv, await new Kvm(b).open(BUCKET));
    } finally {
      await kv.destroy();
    }
  });
}

async function collect(iterator) {
  const all = [];
  for await (const item of iterator) all.push(item);
  return all;
}

async function objects(connect, options) {
  await within([connect, connect], async (a, b) => {
    const store = await new Objm(a).create("interop-js-objects", options);
    try {
      const data = new Uint8Array(randomBytes(3 * 1024 * 1024 + 17));
      const digest = createHash("sha256").update(data).digest("base64url");
      const info = await store.putBlob({ name: "big", headers: undefined }, data);
      assert.equal(info.size, data.length);
      assert.ok(info.digest.includes(digest.replace(/=+$/, "")), info.digest);
      const other = await new Objm(b).open("interop-js-objects", { check: true, ...options });
      assert.deepEqual(await other.getBlob("big"), data);
      await other.putBlob({ name: "small" }, new Uint8Array([1, 2, 3]));
      assert.deepEqual((await store.list()).map((o) => o.name).sort(), ["big", "small"]);
      assert.ok((await store.delete("big")).success);
      assert.equal(await other.getBlob("big"), null);
      assert.equal((await store.status()).bucket, "interop-js-objects");
    } finally {
      await store.destroy();
    }
  });
}

export const buckets = {
  "keys are put, read, compared and deleted": (connect) =>
    bucket(connect, { history: 5 }, async (kv, other) => {
      const first = await kv.create("a", "1");
      await assert.rejects(kv.create("a", "2"));
      assert.equal((await other.get("a")).string(), "1");
      const second = await other.update("a", "2", first);
      await assert.rejects(kv.update("a", "3", first));
      assert.equal((await kv.get("a", { revision: first })).string(), "1");
      await kv.delete("a");
      assert.equal((await other.get("a")).operation, "DEL");
      assert.equal((await collect(await kv.history({ key: "a" }))).length, 3);
      await kv.put("b.c", "x");
      assert.deepEqual((await collect(await other.keys())).sort(), ["b.c"]);
      await kv.purge("a");
      assert.equal((await collect(await kv.history({ key: "a" }))).length, 1);
      assert.ok(second > first);
      const status = await kv.status();
      assert.deepEqual([status.bucket, status.history], [BUCKET, 5]);
    }),

  "a watch sees what is there and what comes": (connect) =>
    bucket(connect, {}, async (kv, other) => {
      await kv.put("w.1", "a");
      await kv.put("w.2", "b");
      const seen = [];
      const watch = await other.watch({ key: "w.*" });
      const reading = (async () => {
        for await (const entry of watch) {
          seen.push(`${entry.key}=${entry.string()}`);
          if (seen.length === 2) await kv.put("w.1", "c");
          if (seen.length === 3) break;
        }
      })();
      await reading;
      assert.deepEqual(seen, ["w.1=a", "w.2=b", "w.1=c"]);
    }),

  "a key with a time to live goes": (connect) =>
    bucket(connect, { markerTTL: 2000 }, async (kv) => {
      await kv.create("short", "x", "1s");
      assert.equal((await kv.get("short")).string(), "x");
      const watch = await kv.watch({ key: "short" });
      for await (const entry of watch) {
        if (entry.operation !== "PUT") break;
      }
    }),

  "objects of many chunks are put, read and deleted": (connect) => objects(connect, {}),

  // Undocumented in 3.4: its chunks are a fast batch of another project's making (ADR-50).
  "objects whose chunks are one fast batch": (connect) => objects(connect, { allowBatched: true }),
};
