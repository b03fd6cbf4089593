import assert from "node:assert/strict";
import { test } from "node:test";
import { type AskedThread, DISPATCHER_STALLED_SECONDS, LivenessWatch } from "./liveness.js";

const NS_PER_SECOND = 1e9;

class Clock {
  ns = 0;
  readonly now = () => this.ns;
}

/** Answers when it is told to, or at once. */
class Thread implements AskedThread {
  hangs = false;
  asked = 0;
  #sinceNs: number | null = null;
  #asking: PromiseWithResolvers | null = null;
  readonly #clock: Clock;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  ask(): Promise<void> {
    if (this.#asking !== null) return this.#asking.promise;
    this.asked++;
    if (!this.hangs) return Promise.resolve();
    this.#sinceNs = this.#clock.ns;
    this.#asking = withResolvers();
    return this.#asking.promise;
  }

  answer(): void {
    this.hangs = false;
    this.#asking?.resolve();
    this.#asking = null;
    this.#sinceNs = null;
  }

  get unansweredNs(): number {
    return this.#sinceNs === null ? 0 : this.#clock.ns - this.#sinceNs;
  }
}

interface PromiseWithResolvers {
  readonly promise: Promise<void>;
  readonly resolve: () => void;
}

function withResolvers(): PromiseWithResolvers {
  let resolve = (): void => {};
  const promise = new Promise<void>((done) => {
    resolve = done;
  });
  return { promise, resolve };
}

function watched() {
  const clock = new Clock();
  const threads = [new Thread(clock), new Thread(clock)];
  const lines: unknown[] = [];
  const watch = new LivenessWatch(threads, clock.now, (level, fields, message) =>
    lines.push({ level, ...fields, message }),
  );
  return { clock, threads, lines, watch };
}

test("dispatchers that answer are alive, and nothing is logged", async () => {
  const { threads, lines, watch } = watched();
  assert.deepEqual(await watch.check(60_000), { unansweredSeconds: [0, 0], stalled: [] });
  assert.deepEqual(watch.look(), { unansweredSeconds: [0, 0], stalled: [] });
  assert.deepEqual(
    threads.map(({ asked }) => asked),
    [2, 2],
  );
  assert.deepEqual(lines, []);
});

test("one that does not answer is late, then stalled, and one line says so; another when it answers again", async () => {
  const { clock, threads, lines, watch } = watched();
  threads[1].hangs = true;
  watch.look();
  clock.ns = (DISPATCHER_STALLED_SECONDS - 1) * NS_PER_SECOND;
  assert.deepEqual(watch.look(), { unansweredSeconds: [0, DISPATCHER_STALLED_SECONDS - 1], stalled: [] });
  clock.ns = DISPATCHER_STALLED_SECONDS * NS_PER_SECOND;
  assert.deepEqual(watch.look().stalled, [1]);
  assert.deepEqual((await watch.check(1)).stalled, [1], "a check does not wait for it");
  assert.equal(threads[1].asked, 1, "what has not been answered is not asked again");
  const stalled = { level: "error", dispatcher: 1, seconds: 10, message: "dispatcher stalled: it does not answer" };
  assert.deepEqual(lines, [stalled]);

  clock.ns = 15 * NS_PER_SECOND;
  threads[1].answer();
  assert.deepEqual((await watch.check(60_000)).stalled, []);
  assert.deepEqual(lines.slice(1), [
    { level: "info", dispatcher: 1, seconds: 15, message: "dispatcher answers again" },
  ]);
});
