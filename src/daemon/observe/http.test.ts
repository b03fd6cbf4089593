import assert from "node:assert/strict";
import { once } from "node:events";
import { Agent, request } from "node:http";
import { connect, type Socket } from "node:net";
import { test } from "node:test";
import type { Probes } from "./health.js";
import { type MetricsEndpoint, MetricsListenError, type MetricsServer, startMetricsServer } from "./http.js";
import { createLogger } from "./log.js";

const silent = createLogger("silent");
const metrics: MetricsEndpoint = { contentType: "text/plain; version=0.0.4", render: async () => "nmid_é 1\n" };
const probes: Probes = {
  live: async () => ({ ok: true, text: "alive\n" }),
  ready: async () => ({ ok: false, text: "not ready\nstopping\n" }),
};
const LOOPBACK = { host: "127.0.0.1", port: 0 };

/** Resolves however the connection ended: a server that drops it may reset it. */
function closed(socket: Socket): Promise<void> {
  socket.on("error", () => {});
  return new Promise((resolve) => socket.once("close", () => resolve()));
}

async function withServer(
  endpoint: MetricsEndpoint,
  use: (server: MetricsServer, origin: string) => Promise<void>,
): Promise<void> {
  const server = await startMetricsServer(LOOPBACK, endpoint, probes, silent);
  try {
    await use(server, `http://${server.address}`);
  } finally {
    await server.close();
  }
}

test("GET and HEAD of /metrics, with or without a query", async () => {
  await withServer(metrics, async (_, origin) => {
    for (const path of ["/metrics", "/metrics?name[]=x"]) {
      const got = await fetch(origin + path);
      assert.equal(got.status, 200);
      assert.equal(got.headers.get("content-type"), "text/plain; version=0.0.4");
      assert.equal(await got.text(), "nmid_é 1\n");
    }
    const head = await fetch(`${origin}/metrics`, { method: "HEAD" });
    assert.equal(head.status, 200);
    assert.equal(head.headers.get("content-length"), String(Buffer.byteLength("nmid_é 1\n")));
    assert.equal(await head.text(), "");
  });
});

test("an index, 404 for what is not there, 405 for what may not be done", async () => {
  await withServer(metrics, async (_, origin) => {
    const index = await fetch(origin);
    assert.equal(index.status, 200);
    assert.match(await index.text(), /\/metrics/);
    const missing = await fetch(`${origin}/metrics/x`);
    assert.equal(missing.status, 404);
    await missing.text();
    for (const method of ["POST", "PUT", "DELETE", "OPTIONS"]) {
      const refused = await fetch(`${origin}/metrics`, { method });
      assert.equal(refused.status, 405, method);
      assert.equal(refused.headers.get("allow"), "GET, HEAD");
      await refused.text();
    }
  });
});

test("probes: 200 and 503, with the reason as text, and only GET and HEAD", async () => {
  await withServer(metrics, async (_, origin) => {
    const live = await fetch(`${origin}/healthz`);
    assert.deepEqual([live.status, await live.text()], [200, "alive\n"]);
    const ready = await fetch(`${origin}/readyz?verbose`);
    assert.deepEqual([ready.status, await ready.text()], [503, "not ready\nstopping\n"]);
    assert.equal((await fetch(`${origin}/readyz`, { method: "HEAD" })).status, 503);
    assert.equal((await fetch(`${origin}/healthz`, { method: "POST" })).status, 405);
  });
});

test("a failing render is a 500 and a log line, and the next scrape works", async () => {
  const lines: string[] = [];
  let fail = true;
  const endpoint: MetricsEndpoint = {
    contentType: "text/plain",
    async render() {
      if (fail) throw new Error("table unmapped");
      return "ok\n";
    },
  };
  const logger = createLogger("error", { write: (line) => lines.push(line) });
  const server = await startMetricsServer(LOOPBACK, endpoint, probes, logger);
  try {
    const failed = await fetch(`http://${server.address}/metrics`);
    assert.equal(failed.status, 500);
    assert.doesNotMatch(await failed.text(), /unmapped/);
    assert.equal(JSON.parse(lines.join("")).err.message, "table unmapped");
    fail = false;
    assert.equal(await (await fetch(`http://${server.address}/metrics`)).text(), "ok\n");
  } finally {
    await server.close();
  }
});

test("a taken port is a typed error that names address and remedy", async () => {
  await withServer(metrics, async (server) => {
    const port = Number(server.address.split(":")[1]);
    await assert.rejects(startMetricsServer({ host: "127.0.0.1", port }, metrics, probes, silent), (error: unknown) => {
      assert.ok(error instanceof MetricsListenError);
      assert.equal(error.code, "METRICS_ADDRESS_IN_USE");
      assert.equal(error.address, server.address);
      assert.ok(error.message.includes(server.address));
      assert.match(error.message, /--metrics HOST:PORT, or --metrics off/);
      return true;
    });
  });
});

test("an address that is not this machine's is a typed error as well", async () => {
  // 192.0.2.0/24 is reserved for documentation (RFC 5737).
  await assert.rejects(
    startMetricsServer({ host: "192.0.2.1", port: 9810 }, metrics, probes, silent),
    (error: unknown) => {
      assert.ok(error instanceof MetricsListenError);
      assert.equal(error.code, "METRICS_ADDRESS_UNUSABLE");
      assert.match(error.message, /192\.0\.2\.1:9810.*--metrics off/);
      return true;
    },
  );
});

test("close() ends an idle keep-alive connection and one within a request, and may be repeated", async () => {
  const server = await startMetricsServer(LOOPBACK, metrics, probes, silent);
  const port = Number(server.address.split(":")[1]);

  const agent = new Agent({ keepAlive: true });
  const get = request({ host: "127.0.0.1", port, path: "/metrics", agent }).end();
  const [response] = await once(get, "response");
  const idle = response.socket;
  response.resume();
  await once(response, "end");
  const idleClosed = closed(idle);

  const half = connect(port, "127.0.0.1");
  const halfClosed = closed(half);
  await once(half, "connect");
  half.write("GET /metrics HTTP/1.1\r\nHost:");

  await Promise.all([server.close(), server.close(), idleClosed, halfClosed]);
  agent.destroy();
  await assert.rejects(fetch(`http://${server.address}/metrics`));
});

test("connections beyond the bound are refused, and those within go on", async () => {
  await withServer(metrics, async (server) => {
    const port = Number(server.address.split(":")[1]);
    const held = Array.from({ length: 32 }, () => connect(port, "127.0.0.1"));
    try {
      await Promise.all(held.map((socket) => once(socket, "connect")));
      await closed(connect(port, "127.0.0.1"));
      held[0]?.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
      const [answer] = await once(held[0] as (typeof held)[number], "data");
      assert.match(String(answer), /^HTTP\/1\.1 200 /);
    } finally {
      for (const socket of held) socket.destroy();
    }
  });
});

test("headers that are too large are refused", async () => {
  await withServer(metrics, async (_, origin) => {
    const answer = await fetch(origin, { headers: { "x-large": "x".repeat(10_000) } });
    assert.equal(answer.status, 431);
    await answer.text();
  });
});
