/** What is written to a stream arrives as it was, past grpc-js and through it; and what the way past it relies on. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Duplex } from "node:stream";
import { describe, it, type TestContext } from "node:test";
import { Client, credentials, type StatusObject } from "@grpc/grpc-js";
import { TestArena } from "../delivery/delivery.test-support.js";
import { SampleMessage, type WireMessage } from "../delivery/message.js";
import {
  type CallStream,
  CallStreams,
  type CallStreamsOptions,
  type EncodedCall,
  problemBelow,
  streamBelow,
} from "./call-stream.js";
import { FramePool } from "./frame-pool.js";
import { startTestServer } from "./server.test-support.js";

const METHOD = "/nmi.v1.Broker/Subscribe";
const { version: GRPC_JS } = JSON.parse(
  readFileSync(join(createRequire(import.meta.url).resolve("@grpc/grpc-js"), "../../../package.json"), "utf8"),
) as { version: string };
const REMEDY = `grpc-js ${GRPC_JS}: see docs/decisions/frames-past-grpc-js.md and streamBelow in src/daemon/grpc/call-stream.ts`;

interface Received {
  readonly messages: readonly Buffer[];
  readonly status: StatusObject;
}

/** A server whose Subscribe is `serve`, and a function that calls it and collects what comes. */
async function open(t: TestContext, serve: (call: EncodedCall) => void): Promise<() => Promise<Received>> {
  const dir = mkdtempSync(join(tmpdir(), "nmid-call-stream-"));
  t.after(() => rmSync(dir, { recursive: true }));
  const path = join(dir, "s");
  const server = await startTestServer([{ kind: "unix", path }], { Subscribe: serve });
  t.after(() => server.close(0));
  const client = new Client(`unix:${path}`, credentials.createInsecure());
  t.after(() => client.close());
  const bytes = (buffer: Buffer): Buffer => buffer;
  return () =>
    new Promise((resolve) => {
      const messages: Buffer[] = [];
      const call = client.makeServerStreamRequest(METHOD, bytes, bytes, Buffer.alloc(0));
      call.on("data", (message: Buffer) => messages.push(message));
      call.on("error", () => {});
      call.on("status", (status: StatusObject) => resolve({ messages, status }));
    });
}

/** Sizes around what matters to frames: Node's own pool, sizes of the pool, several HTTP/2 frames, no pool at all. */
const SIZES = [1, 60, 4090, 4096, 16_384, 16_385, 70_000, 100_000];
const ROUNDS = 6;

/** Writes `started`, then messages from one memory that is used again at once, as delivery does, and ends. */
function feed(stream: CallStream): void {
  const arena = new TestArena();
  const message = new SampleMessage();
  let onItsWay = 0;
  let next = 0;
  const write = (wire: WireMessage): void => {
    onItsWay++;
    stream.write(wire, () => {
      onItsWay--;
      pump();
    });
  };
  const pump = (): void => {
    while (onItsWay < stream.writesMax && next < ROUNDS * SIZES.length) {
      message.begin();
      message.add(arena.reader, arena.put(new Uint8Array(SIZES[next % SIZES.length]).fill(next)));
      message.finish(0, next++);
      write(message);
      message.release();
      arena.writer.reclaim();
    }
    if (next === ROUNDS * SIZES.length && onItsWay === 0) {
      next++;
      stream.end();
    }
  };
  write(Buffer.from([1, 2, 3]));
}

async function receive(t: TestContext, options: Partial<CallStreamsOptions>): Promise<Received[]> {
  const streams = new CallStreams({
    frames: new FramePool({ streamBytes: 2 ** 24 }),
    onFallback: () => {},
    ...options,
  });
  const subscribe = await open(t, (call) => feed(streams.open(call)));
  return Promise.all([subscribe(), subscribe(), subscribe()]);
}

describe("CallStream", () => {
  it("gives the same bytes past grpc-js and through it, and says once that it goes through", async (t) => {
    const problems: string[] = [];
    const onFallback = (problem: string): number => problems.push(problem);
    const past = await receive(t, { onFallback });
    assert.deepEqual(problems, [], REMEDY);
    const through = await receive(t, { onFallback, below: () => undefined });
    assert.deepEqual(problems, ["the HTTP/2 stream of a call is not where it was"]);
    for (const { messages, status } of [...past, ...through]) {
      assert.equal(status.code, 0);
      assert.equal(messages.length, 1 + ROUNDS * SIZES.length);
      assert.deepEqual(messages[0], Buffer.from([1, 2, 3]));
      assert.deepEqual(
        messages.slice(1).map((message) => message.at(-1)),
        messages.slice(1).map((_, i) => i),
        "every message in its place, with its own bytes",
      );
      assert.deepEqual(messages, past[0].messages);
    }
  });

  it("writes one message at a time through grpc-js, and several past it", async (t) => {
    for (const [below, expected] of [
      [streamBelow, 4],
      [() => undefined, 1],
    ] as const) {
      const seen = new Set<number>();
      const streams = new CallStreams({ frames: new FramePool({ streamBytes: 2 ** 24 }), onFallback: () => {}, below });
      const subscribe = await open(t, (call) => {
        const stream = streams.open(call);
        seen.add(stream.writesMax);
        stream.write(Buffer.from([1]), () => {
          seen.add(stream.writesMax);
          stream.end();
        });
      });
      await subscribe();
      assert.deepEqual([...seen], expected === 1 ? [1] : [1, expected], REMEDY);
    }
  });

  it("can be cut off either way", async (t) => {
    for (const below of [streamBelow, () => undefined]) {
      const streams = new CallStreams({ frames: new FramePool({ streamBytes: 2 ** 24 }), onFallback: () => {}, below });
      const subscribe = await open(t, (call) => {
        const stream = streams.open(call);
        stream.onBroken(() => assert.fail("it was not the client who broke it"));
        stream.write(Buffer.from([1]), () => stream.abort());
      });
      assert.notEqual((await subscribe()).status.code, 0);
    }
  });
});

describe("what frames past grpc-js rely on", () => {
  it("holds in the installed version", async (t) => {
    let before: unknown;
    let after: unknown;
    const subscribe = await open(t, (call) => {
      before = streamBelow(call);
      const { headersSent } = before as { headersSent?: boolean };
      assert.equal(headersSent, false, `headers are sent before the first message; ${REMEDY}`);
      call.write(Buffer.from([1]), () => {
        after = streamBelow(call);
        // Directly, in the order of writing, and before the status that grpc-js sends at the end.
        (after as Duplex).write(Buffer.from([0, 0, 0, 0, 1, 2]), () => call.end());
      });
    });
    const { messages, status } = await subscribe();
    assert.equal(problemBelow(after), null, REMEDY);
    assert.equal(before, after, `a call has another stream after its first message; ${REMEDY}`);
    assert.deepEqual(messages, [Buffer.from([1]), Buffer.from([2])], `frames are lost or out of order; ${REMEDY}`);
    assert.equal(status.code, 0, `the status does not follow what was written directly; ${REMEDY}`);
  });

  it("is checked before anything is written so", () => {
    assert.match(String(problemBelow(undefined)), /not where it was/);
    assert.match(String(problemBelow({ write() {}, close() {}, headersSent: true })), /not where it was/);
    assert.match(String(problemBelow(new Duplex())), /cannot be reset/);
    assert.match(String(problemBelow(Object.assign(new Duplex(), { close() {} }))), /headers/);
    assert.equal(problemBelow(Object.assign(new Duplex(), { close() {}, headersSent: true })), null);
  });
});
