import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { seededRandom } from "../../pmu/software/random.js";
import { FramePool } from "../grpc/frame-pool.js";
import { FRAME_HEADER_BYTES, frameBytes, messageBytesIn } from "./frame-size.js";
import { CONTROL, InFlightQueue } from "./in-flight.js";
import { MEMORY_BYTES_PER_HANDLER, MESSAGE_BYTES, MESSAGE_BYTES_MIN, planMemory, StreamMemory } from "./memory.js";

describe("frameBytes", () => {
  it("holds the message and its header, and wastes an eighth at most", () => {
    for (let message = 0; message < 600_000; message += message < 5000 ? 1 : 97) {
      const bytes = frameBytes(message);
      assert.ok(bytes >= message + FRAME_HEADER_BYTES, `${message}`);
      assert.ok(bytes <= (message + FRAME_HEADER_BYTES) * 1.125, `${message}`);
      const largest = messageBytesIn(bytes);
      assert.ok(largest >= message);
      assert.equal(frameBytes(largest), bytes);
      assert.ok(frameBytes(messageBytesIn(message)) <= message || message < FRAME_HEADER_BYTES);
    }
  });
});

describe("FramePool", () => {
  it("gives frames as long as they are charged, uses them again, and says what it keeps", () => {
    const pool = new FramePool({ streamBytes: 2 ** 24 });
    const frame = pool.take(100_000);
    assert.equal(frame.length, frameBytes(100_000));
    assert.equal(pool.keptBytes, 0);
    pool.give(frame);
    assert.equal(pool.keptBytes, frame.length);
    assert.equal(pool.take(100_001), frame);
    assert.equal(pool.keptBytes, 0);
  });

  it("keeps as much as streams may use at most, and less when it is told to", () => {
    const pool = new FramePool({ streamBytes: 2 ** 24 });
    for (const frame of Array.from({ length: 40 }, () => pool.take(500_000))) pool.give(frame);
    assert.ok(pool.keptBytes > 2 ** 23 && pool.keptBytes <= 2 ** 24);
    for (const frame of Array.from({ length: 4 }, () => pool.take(5_000))) pool.give(frame);
    pool.trim(1_000_000);
    assert.ok(pool.keptBytes <= 1_000_000 && pool.keptBytes > 0);
    pool.trim(0);
    assert.equal(pool.keptBytes, 0);
  });

  it("lets go of what nobody has needed for a while, and of no more", (t) => {
    t.mock.timers.enable({ apis: ["setTimeout"] });
    const idleBytes = frameBytes(10_000) * 2;
    const pool = new FramePool({ streamBytes: 2 ** 24, idleBytes, idleMs: 1000 });
    const send = (messages: number): void => {
      for (const frame of Array.from({ length: messages }, () => pool.take(10_000))) pool.give(frame);
    };
    const frames = (): number => pool.keptBytes / frameBytes(10_000);
    send(10);
    t.mock.timers.tick(999);
    assert.equal(frames(), 10);
    send(6);
    t.mock.timers.tick(1);
    // Three were there when the looking began: more had never lain idle since.
    assert.equal(frames(), 7);
    send(5);
    t.mock.timers.tick(1000);
    assert.equal(frames(), 5);
    t.mock.timers.tick(1000);
    assert.equal(frames(), 2, "what an idle daemon keeps");
    t.mock.timers.tick(10_000);
    assert.equal(frames(), 2);
  });
});

describe("StreamMemory", () => {
  it("keeps all frames below its limit, those that are kept included, and always has room for each stream", () => {
    for (let seed = 0; seed < 20; seed++) {
      const random = seededRandom(seed);
      const below = (n: number): number => Math.floor(random() * n);
      const streams = 1 + below(60);
      const limit = planMemory(Math.max(2 ** 24, streams * MEMORY_BYTES_PER_HANDLER)).streamBytes;
      const pool = new FramePool({ streamBytes: limit });
      const memory = new StreamMemory(limit, streams, pool);
      const queues = Array.from({ length: streams }, () => ({
        queue: new InFlightQueue(memory),
        frames: [] as Buffer[],
      }));
      for (let step = 0; step < 3000; step++) {
        const { queue, frames } = queues[below(streams)];
        if (queue.length === 0) assert.ok(queue.messageBytesMax >= MESSAGE_BYTES_MIN, "a stream's own part");
        if (below(3) > 0 && queue.length < 4 && queue.messageBytesMax >= MESSAGE_BYTES_MIN) {
          // What is around a message's columns comes on top.
          const message = 37 + (below(4) === 0 ? below(queue.messageBytesMax) : queue.messageBytesMax);
          queue.push(CONTROL, message);
          frames.push(pool.take(message));
        } else if (queue.shift() !== undefined) pool.give(frames.shift() as Buffer);
        const held = queues.reduce((sum, other) => sum + other.frames.reduce((n, { length }) => n + length, 0), 0);
        assert.equal(memory.usedBytes, held + pool.keptBytes, "nothing but what there is");
        assert.ok(memory.peakBytes <= limit, `seed ${seed}: ${memory.peakBytes} of ${limit}`);
      }
    }
  });

  it("lets go of frames that no stream is left for", () => {
    const pool = new FramePool({ streamBytes: 2 ** 24 });
    const memory = new StreamMemory(2 ** 24, 1, pool);
    pool.give(pool.take(10_000));
    assert.ok(memory.usedBytes > 0);
    memory.letGoOfIdle();
    assert.equal(memory.usedBytes, 0);
  });

  it("lets an idle daemon's stream write the largest message", () => {
    const memory = new StreamMemory(2 ** 27, 256);
    assert.equal(memory.messageBytesMax(0), MESSAGE_BYTES);
  });
});
