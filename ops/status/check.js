#!/usr/bin/env node
// The status page of a running node in a real browser.
//
//     npm install --prefix ops/status          (and a Chromium: Debian's package `chromium`)
//     ops/status/check.js http://127.0.0.1:8222 [FOLDER_FOR_PICTURES]
//
// Looks at what the node shows, then puts words of its own in the node's mouth: names that are markup,
// a node that is ill, and one that stops answering. Exits with 1 at the first difference.

import assert from "node:assert/strict";
import process from "node:process";
import { chromium } from "playwright-core";

const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const MARKUP = "<img src=x onerror=\"window.hacked=1\">&amp;";

async function withPage(browser, options, body) {
  const context = await browser.newContext({ viewport: { width: 1200, height: 900 }, ...options });
  const page = await context.newPage();
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("console", (said) => said.type() === "error" && complaints.push(said.text()));
  await body(page, complaints);
  await context.close();
}

const text = (page, id) => page.locator(`#${id}`).innerText();

async function real(browser, url, pictures) {
  for (const colorScheme of ["light", "dark"]) {
    await withPage(browser, { colorScheme }, async (page, complaints) => {
      const answer = await page.goto(url);
      const policy = answer.headers()["content-security-policy"];
      assert.ok(policy.startsWith("default-src 'none'") && !policy.includes("unsafe"), policy);
      await page.waitForFunction(() => document.querySelectorAll("#cards .card").length >= 6);
      await page.waitForFunction(() => /\/s$/.test(document.querySelector("#cards .value").innerText));
      assert.match(await text(page, "health"), /^(healthy|unavailable)$/);
      assert.match(await page.title(), / – unibus$/);
      assert.deepEqual(complaints, []);
      const asked = await page.evaluate(() => performance.getEntriesByType("resource").map((r) => r.name));
      assert.ok(asked.every((name) => new URL(name).origin === new URL(url).origin), `${asked}`);
      if (pictures) await page.screenshot({ path: `${pictures}/status-${colorScheme}.png`, fullPage: true });
    });
  }
}

async function changed(browser, url, change, body) {
  await withPage(browser, {}, async (page, complaints) => {
    await page.route("**/status.json", async (route) => {
      const answer = await route.fetch();
      const json = await answer.json();
      if (change(json) === "nothing") return route.abort();
      await route.fulfill({ response: answer, json });
    });
    await page.goto(url);
    await page.waitForFunction(() => document.querySelectorAll("#cards .card").length >= 6);
    await body(page, complaints);
  });
}

async function markup(browser, url) {
  const change = (json) => {
    json.node.name = MARKUP;
    json.store = { streams: 1, consumers: 1, messages: 3, bytes: 4096 };
    json.streams = [{ name: MARKUP, messages: 3, bytes: 4096, last_seq: 9, consumers: 1, retention: MARKUP }];
    json.lagging = [{ stream: MARKUP, name: MARKUP, pending: 7, ack_pending: 1, redelivered: 0, waiting: 0, paused: true }];
    json.health.refused_routes = [{ peer: MARKUP, reason: MARKUP, at: "2026-01-01T00:00:00Z" }];
    json.health.peers = [{ node: "1", server_name: MARKUP, connected: false, voter: true }];
  };
  await changed(browser, url, change, async (page, complaints) => {
    for (const id of ["streams", "lagging", "refused", "peers"]) {
      assert.ok((await text(page, id)).includes(MARKUP), id);
    }
    assert.equal(await page.locator("img").count(), 0);
    assert.equal(await page.evaluate(() => window.hacked), undefined);
    assert.ok((await text(page, "peers")).includes("away"));
    assert.deepEqual(complaints, []);
  });
}

async function ill(browser, url) {
  const change = (json) => {
    json.health.status = "unavailable";
    json.health.error = "no quorum: a majority of the nodes is not reachable";
  };
  await changed(browser, url, change, async (page) => {
    assert.equal(await text(page, "health"), "unavailable");
    assert.ok((await text(page, "notice")).includes("no quorum"));
  });
}

async function gone(browser, url) {
  let answers = true;
  const change = () => answers ? undefined : "nothing";
  await changed(browser, url, change, async (page) => {
    answers = false;
    await page.waitForFunction(() => document.querySelector("#health").innerText === "no answer");
    assert.ok((await text(page, "notice")).includes("No answer from the node since"));
    answers = true;
    await page.waitForFunction(() => document.querySelector("#health").innerText !== "no answer");
    await page.getByRole("button", { name: "Pause" }).click();
    await page.getByRole("button", { name: "Go on" }).waitFor();
  });
}

async function main(base, pictures) {
  if (!base) {
    console.error("usage: check.js http://HOST:MONITOR_PORT [FOLDER_FOR_PICTURES]");
    return 2;
  }
  const url = new URL("/status", base).toString();
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: QUIET });
  try {
    for (const part of [real, markup, ill, gone]) {
      await part(browser, url, pictures);
      console.log(`ok    ${part.name}`);
    }
  } finally {
    await browser.close();
  }
  console.log("4 passed, 0 failed");
  return 0;
}

process.exit(await main(...process.argv.slice(2)));
