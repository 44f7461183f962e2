// What a browser does beside a program: it says which page it comes from. Which pages are let in is the
// node's configuration (--ws-same-origin, --ws-allowed-origins); here, that the answer is HTTP's.

import assert from "node:assert/strict";
import process from "node:process";
import WebSocket from "ws";
import { options } from "./transport.js";

function open(url, ca, origin, more = {}) {
  return new Promise((resolve) => {
    const socket = new WebSocket(url, { ...options(ca), origin, ...more });
    const done = (outcome) => {
      socket.removeAllListeners("error");
      socket.on("error", () => {});
      socket.terminate();
      resolve(outcome);
    };
    socket.on("message", (data) => done(data.toString().startsWith("INFO ") ? "info" : "?"));
    socket.on("unexpected-response", (_, response) => done(response.statusCode));
    socket.on("error", (error) => done(error.message));
  });
}

export const origins = {
  "the page of the same host is let in": async (url, ca) => {
    const { protocol, host } = new URL(url);
    const own = `${protocol === "wss:" ? "https" : "http"}://${host}`;
    assert.equal(await open(url, ca, own), "info");
  },

  "a page of elsewhere is let in only where that is not refused": async (url, ca) => {
    const outcome = await open(url, ca, "https://elsewhere.example");
    assert.equal(outcome, process.env.SAME_ORIGIN ? 403 : "info");
  },

  "no page at all is a program, and let in": async (url, ca) => {
    assert.equal(await open(url, ca, undefined), "info");
  },

  "compression that is offered is not taken": async (url, ca) => {
    assert.equal(await open(url, ca, undefined, { perMessageDeflate: true }), "info");
  },
};
