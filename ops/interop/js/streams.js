// JetStream: publish, pull, push and ordered consumers, limits of streams, direct reads.

import assert from "node:assert/strict";
import {
  AckPolicy,
  DeliverPolicy,
  jetstream,
  JetStreamApiError,
  jetstreamManager,
} from "@nats-io/jetstream";
import { within } from "./core.js";

const NAME = "interop";

async function stream(connect, config, body) {
  await within([connect], async (nc) => {
    const jsm = await jetstreamManager(nc);
    await jsm.streams.delete(NAME).catch(() => {});
    await jsm.streams.add({ name: NAME, subjects: ["interop.s.>"], ...config });
    try {
      await body(nc, jetstream(nc), jsm);
    } finally {
      await jsm.streams.delete(NAME);
    }
  });
}

async function fill(js, count) {
  for (let n = 1; n <= count; n++) await js.publish(`interop.s.${n % 3}`, `${n}`);
}

export const streams = {
  "streams are made, listed, changed and purged": (connect) =>
    stream(connect, {}, async (_, js, jsm) => {
      await fill(js, 3);
      const info = await jsm.streams.info(NAME, { subjects_filter: ">" });
      assert.equal(info.state.messages, 3);
      assert.deepEqual(Object.keys(info.state.subjects).length, 3);
      const names = [];
      for await (const name of jsm.streams.names()) names.push(name);
      assert.ok(names.includes(NAME));
      const changed = await jsm.streams.update(NAME, { max_msgs: 2 });
      assert.equal(changed.config.max_msgs, 2);
      assert.equal((await jsm.streams.info(NAME)).state.messages, 2);
      assert.equal((await jsm.streams.purge(NAME)).purged, 2);
      await assert.rejects(jsm.streams.info("interop-none"), (error) =>
        error instanceof JetStreamApiError && error.code === 10059
      );
    }),

  "publishing is acknowledged once, and expectations hold": (connect) =>
    stream(connect, {}, async (_, js) => {
      const first = await js.publish("interop.s.a", "x", { msgID: "1" });
      const again = await js.publish("interop.s.a", "x", { msgID: "1" });
      assert.deepEqual([first.seq, again.seq, again.duplicate], [1, 1, true]);
      await js.publish("interop.s.a", "y", { expect: { lastSequence: 1 } });
      await assert.rejects(
        js.publish("interop.s.a", "z", { expect: { lastSequence: 1 } }),
        (error) => error.code === 10071,
      );
      await assert.rejects(js.publish("interop.other", "x"));
    }),

  "a pull consumer gets all, and what is not acknowledged again": (connect) =>
    stream(connect, {}, async (_, js, jsm) => {
      await fill(js, 50);
      await jsm.consumers.add(NAME, {
        durable_name: "pull",
        ack_policy: AckPolicy.Explicit,
        ack_wait: 1_000_000_000,
      });
      const consumer = await js.consumers.get(NAME, "pull");
      const got = [];
      for await (const m of await consumer.fetch({ max_messages: 20, expires: 5000 })) {
        got.push(m.seq);
        if (m.seq !== 7) await m.ackAck();
      }
      assert.equal(got.length, 20);
      const messages = await consumer.consume();
      for await (const m of messages) {
        got.push(m.seq);
        m.ack();
        if (new Set(got).size === 50 && got.filter((seq) => seq === 7).length === 2) break;
      }
      assert.equal((await consumer.info()).num_pending, 0);
    }),

  "acknowledgements of every kind": (connect) =>
    stream(connect, {}, async (_, js, jsm) => {
      await fill(js, 3);
      await jsm.consumers.add(NAME, { durable_name: "acks", ack_policy: AckPolicy.Explicit });
      const consumer = await js.consumers.get(NAME, "acks");
      const first = await consumer.next();
      first.nak();
      const second = await consumer.next();
      second.working();
      second.term("no use");
      const third = await consumer.next();
      third.nak(100);
      await third.ackAck().catch(() => {});
      const left = [];
      for await (const m of await consumer.fetch({ max_messages: 3, expires: 1500 })) {
        left.push(m.seq);
        m.ack();
      }
      assert.ok(left.length >= 1, `${left}`);
    }),

  "an ordered consumer reads in order and from where it is told": (connect) =>
    stream(connect, {}, async (_, js) => {
      await fill(js, 30);
      const ordered = await js.consumers.get(NAME, { filter_subjects: ["interop.s.1"] });
      const got = [];
      for await (const m of await ordered.consume()) {
        got.push(m.seq);
        if (m.info.pending === 0) break;
      }
      assert.deepEqual(got, [1, 4, 7, 10, 13, 16, 19, 22, 25, 28]);
      const late = await js.consumers.get(NAME, {
        deliver_policy: DeliverPolicy.StartSequence,
        opt_start_seq: 29,
      });
      assert.equal((await late.next()).seq, 29);
    }),

  "a push consumer delivers": (connect) =>
    stream(connect, {}, async (_, js, jsm) => {
      await fill(js, 10);
      await jsm.consumers.add(NAME, {
        durable_name: "push",
        deliver_subject: "interop-push",
        ack_policy: AckPolicy.Explicit,
        idle_heartbeat: 1_000_000_000,
        flow_control: true,
      });
      const consumer = await js.consumers.getPushConsumer(NAME, "push");
      let count = 0;
      for await (const m of await consumer.consume()) {
        m.ack();
        if (++count === 10) break;
      }
    }),

  "messages are read by number, by subject and in batches": (connect) =>
    stream(connect, { allow_direct: true }, async (_, js, jsm) => {
      await fill(js, 9);
      assert.equal((await jsm.streams.getMessage(NAME, { seq: 4 })).string(), "4");
      const last = await jsm.direct.getMessage(NAME, { last_by_subj: "interop.s.2" });
      assert.equal(last.string(), "8");
      const batch = await jsm.direct.getBatch(NAME, { seq: 1, batch: 5 });
      const got = [];
      for await (const m of batch) got.push(m.seq);
      assert.deepEqual(got, [1, 2, 3, 4, 5]);
    }),

  "consumers are listed, paused and deleted": (connect) =>
    stream(connect, {}, async (_, js, jsm) => {
      await jsm.consumers.add(NAME, { durable_name: "c", ack_policy: AckPolicy.Explicit });
      const until = new Date(Date.now() + 60_000);
      assert.ok((await jsm.consumers.pause(NAME, "c", until)).paused);
      assert.ok(!(await jsm.consumers.resume(NAME, "c")).paused);
      const listed = [];
      for await (const info of jsm.consumers.list(NAME)) listed.push(info.name);
      assert.deepEqual(listed, ["c"]);
      const consumer = await js.consumers.get(NAME, "c");
      assert.ok(await consumer.delete());
      await assert.rejects(jsm.consumers.info(NAME, "c"), (error) => error.code === 10014);
    }),
};
