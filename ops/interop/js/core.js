// Publish, subscribe, request, headers, queue groups, drain, services.

import assert from "node:assert/strict";
import {
  createInbox,
  headers,
  MsgHdrsImpl,
  NoRespondersError,
} from "@nats-io/nats-core";
import { Svcm } from "@nats-io/services";

export async function within(connects, body) {
  const connections = await Promise.all(connects.map((connect) => connect()));
  try {
    await body(...connections);
  } finally {
    await Promise.all(connections.map((connection) => connection.close()));
  }
}

async function take(iterator, count) {
  const taken = [];
  for await (const item of iterator) {
    taken.push(item);
    if (taken.length === count) break;
  }
  return taken;
}

export const core = {
  "publish and subscribe": (connect) =>
    within([connect, connect], async (a, b) => {
      const inbox = b.subscribe("interop.*.x", { max: 1000 });
      await b.flush();
      for (let n = 0; n < 1000; n++) a.publish("interop.a.x", `${n}`);
      const got = await take(inbox, 1000);
      assert.deepEqual(got.map((m) => m.string()), [...Array(1000).keys()].map(String));
    }),

  "a payload of 1 MiB and none larger": (connect) =>
    within([connect, connect], async (a, b) => {
      const inbox = b.subscribe("interop.big");
      await b.flush();
      const largest = new Uint8Array(a.info.max_payload).fill(7);
      a.publish("interop.big", largest);
      const [message] = await take(inbox, 1);
      assert.deepEqual(message.data, largest);
      assert.throws(() => a.publish("interop.big", new Uint8Array(a.info.max_payload + 1)));
    }),

  "request, reply and nobody": (connect) =>
    within([connect, connect], async (a, b) => {
      b.subscribe("interop.echo", { callback: (_, m) => m.respond(m.data) });
      await b.flush();
      const answer = await a.request("interop.echo", "hi", { timeout: 5000 });
      assert.equal(answer.string(), "hi");
      await assert.rejects(a.request("interop.nobody", "", { timeout: 5000 }), (error) =>
        error instanceof NoRespondersError || error.cause instanceof NoRespondersError
      );
      await assert.rejects(
        a.request("interop.nobody", "", { timeout: 5000, noMux: true, reply: createInbox() }),
      );
    }),

  "one request, many answers": (connect) =>
    within([connect, connect], async (a, b) => {
      b.subscribe("interop.many", {
        callback: (_, m) => {
          m.respond("1");
          m.respond("2");
          m.respond("");
        },
      });
      await b.flush();
      const answers = [];
      const many = await a.requestMany("interop.many", "", { strategy: "sentinel", maxWait: 5000 });
      for await (const m of many) answers.push(m.string());
      assert.deepEqual(answers.slice(0, 2), ["1", "2"]);
    }),

  "headers of every kind": (connect) =>
    within([connect, connect], async (a, b) => {
      const inbox = b.subscribe("interop.headers");
      await b.flush();
      const h = headers();
      h.append("Key", "one");
      h.append("Key", "two");
      h.set("Accents", "wért");
      a.publish("interop.headers", "x", { headers: h });
      const [message] = await take(inbox, 1);
      assert.deepEqual(message.headers.values("Key"), ["one", "two"]);
      assert.equal(message.headers.get("Accents"), "wért");
      assert.ok(message.headers instanceof MsgHdrsImpl);
    }),

  "a queue group shares": (connect) =>
    within([connect, connect, connect], async (a, b, c) => {
      let got = [0, 0];
      [b, c].forEach((member, at) =>
        member.subscribe("interop.q", { queue: "g", callback: () => got[at]++ })
      );
      await Promise.all([b.flush(), c.flush()]);
      for (let n = 0; n < 200; n++) a.publish("interop.q");
      await a.flush();
      await Promise.all([b.flush(), c.flush()]);
      assert.equal(got[0] + got[1], 200);
      assert.ok(got[0] > 0 && got[1] > 0, `${got}`);
    }),

  "drain loses nothing": async (connect) => {
    const [a, b] = await Promise.all([connect(), connect()]);
    let got = 0;
    b.subscribe("interop.drain", { callback: () => got++ });
    await b.flush();
    for (let n = 0; n < 500; n++) a.publish("interop.drain");
    await a.flush();
    await b.drain();
    assert.equal(got, 500);
    await a.close();
  },

  "unsubscribe after a number": (connect) =>
    within([connect], async (a) => {
      const inbox = a.subscribe("interop.max", { max: 3 });
      for (let n = 0; n < 5; n++) a.publish("interop.max");
      const got = [];
      for await (const m of inbox) got.push(m);
      assert.equal(got.length, 3);
    }),

  "a service is found, asked and measured": (connect) =>
    within([connect, connect], async (a, b) => {
      const service = await new Svcm(b).add({ name: "interop", version: "1.0.0" });
      service.addEndpoint("double", (error, m) => {
        if (!error) m?.respond(String(2 * Number(m.string())));
      });
      await b.flush();
      assert.equal((await a.request("double", "21")).string(), "42");
      const client = new Svcm(a).client();
      const [stats] = await take(await client.stats("interop"), 1);
      assert.equal(stats.endpoints[0].num_requests, 1);
      await service.stop();
    }),

  "round trip and reconnect": (connect) =>
    within([connect], async (a) => {
      assert.ok((await a.rtt()) >= 0);
      const inbox = a.subscribe("interop.again");
      const again = (async () => {
        for await (const status of a.status()) if (status.type === "reconnect") return;
      })();
      await a.reconnect();
      await again;
      a.publish("interop.again", "still here");
      const [message] = await take(inbox, 1);
      assert.equal(message.string(), "still here");
    }),
};
