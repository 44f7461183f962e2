// Ways to connect. Over WebSocket the browsers' client is used, on a socket of the `ws` package.

import { readFileSync } from "node:fs";
import { connect } from "@nats-io/transport-node";
import { wsconnect } from "@nats-io/nats-core";
import WebSocket from "ws";

export function connectTcp(servers, ca) {
  return connect({ servers, timeout: 10_000, tls: ca ? { caFile: ca } : undefined });
}

export function options(ca) {
  return ca ? { ca: readFileSync(ca) } : {};
}

export function connectWs(servers, ca) {
  const wsFactory = (url) => {
    const socket = new WebSocket(url.toString ? url.toString() : url, options(ca));
    socket.binaryType = "arraybuffer";
    return Promise.resolve({ socket, encrypted: String(url).startsWith("wss:") });
  };
  return wsconnect({ servers, wsFactory, timeout: 10_000 });
}
