#!/usr/bin/env node
// The official JavaScript clients, which nobody here wrote, against running nodes.
//
//     npm install --prefix ops/interop/js
//     ops/interop/js/main.js nats://127.0.0.1:4222 [ws://127.0.0.1:8080 | wss://… [CA.pem]]
//
// Runs every part, over TCP and (where an address is given) over WebSocket as browsers do. Prints a line
// for each part, and exits with 1 if one failed. It makes and deletes what begins with `interop`. Where
// the node runs with --ws-same-origin, say so: SAME_ORIGIN=1.

import process from "node:process";
import { connectTcp, connectWs } from "./transport.js";
import { core } from "./core.js";
import { streams } from "./streams.js";
import { buckets } from "./buckets.js";
import { origins } from "./origins.js";

const PART_MS_MAX = 60_000;

async function run(name, part) {
  const started = Date.now();
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`over ${PART_MS_MAX} ms`)), PART_MS_MAX);
  });
  try {
    await Promise.race([part(), late]);
    console.log(`ok    ${name} (${Date.now() - started} ms)`);
    return true;
  } catch (error) {
    console.log(`FAIL  ${name}: ${error.stack ?? error}`);
    return false;
  } finally {
    clearTimeout(timer);
  }
}

async function main(tcp, ws, ca) {
  if (!tcp) {
    console.error("usage: main.js nats://HOST:PORT [ws://HOST:PORT | wss://HOST:PORT [CA.pem]]");
    return 2;
  }
  const transports = [["tcp", () => connectTcp(tcp, ca)]];
  if (ws) {
    transports.push([new URL(ws).protocol.replace(":", ""), () => connectWs(ws, ca)]);
  }
  const outcomes = [];
  for (const [transport, connect] of transports) {
    for (const parts of [core, streams, buckets]) {
      for (const [name, part] of Object.entries(parts)) {
        outcomes.push(await run(`${transport} ${name}`, () => part(connect)));
      }
    }
  }
  if (ws) {
    for (const [name, part] of Object.entries(origins)) {
      outcomes.push(await run(`origin ${name}`, () => part(ws, ca)));
    }
  }
  const failed = outcomes.filter((ok) => !ok).length;
  console.log(`${outcomes.length - failed} passed, ${failed} failed`);
  return failed === 0 ? 0 : 1;
}

process.exit(await main(...process.argv.slice(2)));
