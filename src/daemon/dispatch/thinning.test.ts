import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { BATCH_SAMPLES_MAX, BatchIndex } from "../../pmu/record.js";
import { seededRandom } from "../../pmu/software/random.js";
import { NS_PER_SECOND, type Pace, paceFor, Ticker } from "./thinning.js";

/** A ticker of event 0, asked for one sample at a time. */
class Thinner {
  readonly #ticker: Ticker;
  readonly #batch = new BatchIndex();

  constructor(pace: Pace, rings: number) {
    this.#ticker = new Ticker(0, pace, rings);
    this.#batch.count = 1;
  }

  ticks(ring: number, timeNs: number, period: number): boolean {
    this.#batch.time[0] = timeNs;
    this.#batch.period[0] = period;
    this.#ticker.mark(this.#batch, ring);
    return this.#ticker.ticks[0] === 1;
  }
}

/** How many of `seconds` at `hz` tick, each off its time by up to `jitter` of an interval. */
function ticksAt(thinner: Thinner, hz: number, seconds: number, jitter = 0): number {
  const random = seededRandom(hz);
  const interval = NS_PER_SECOND / hz;
  let ticks = 0;
  for (let i = 0; i < hz * seconds; i++) {
    if (thinner.ticks(0, 1e12 + (i + jitter * (random() - 0.5)) * interval, interval)) ticks++;
  }
  return ticks;
}

describe("paceFor", () => {
  const unknown = { frequencyHz: null, period: null };
  const every: Pace = { kind: "every" };

  it("lets the one with the kernel's own rate have every sample", () => {
    assert.deepEqual(paceFor({ frequencyHz: 997, period: 0 }, { frequencyHz: 997, period: null }), every);
    assert.deepEqual(paceFor({ frequencyHz: 0, period: 100 }, { frequencyHz: null, period: 100 }), every);
    // Between two steps of a change the kernel may be slower than somebody asked.
    assert.deepEqual(paceFor({ frequencyHz: 998, period: 0 }, { frequencyHz: 997, period: null }), every);
    assert.deepEqual(paceFor({ frequencyHz: 0, period: 99 }, { frequencyHz: null, period: 100 }), every);
  });

  it("thins the others by what they asked for", () => {
    assert.deepEqual(paceFor({ frequencyHz: 100, period: 0 }, { frequencyHz: 101, period: null }), {
      kind: "time",
      intervalNs: 1e7,
    });
    assert.deepEqual(paceFor({ frequencyHz: 0, period: 101 }, { frequencyHz: null, period: 100 }), {
      kind: "weight",
      period: 101,
    });
  });

  it("thins by what was asked when the event's own rate is unknown, and not at all when nothing was", () => {
    assert.equal(paceFor({ frequencyHz: 100, period: 0 }, unknown).kind, "time");
    assert.equal(paceFor({ frequencyHz: 0, period: 100 }, unknown).kind, "weight");
    assert.deepEqual(paceFor({ frequencyHz: 0, period: 0 }, unknown), every);
  });
});

describe("Ticker", () => {
  it("takes everything at every", () => {
    assert.equal(ticksAt(new Thinner({ kind: "every" }, 1), 1000, 1), 1000);
  });

  for (const [event, wanted] of [
    [997, 99],
    [1000, 999],
    [1000, 501],
    [10_000, 7],
    [4000, 3999],
  ]) {
    for (const jitter of [0, 0.9]) {
      it(`keeps a mean rate of ${wanted} Hz out of ${event}${jitter > 0 ? ", with jitter" : ""}`, () => {
        const seconds = 20;
        const thinner = new Thinner({ kind: "time", intervalNs: NS_PER_SECOND / wanted }, 1);
        const ticks = ticksAt(thinner, event, seconds, jitter);
        // A rate close below the event's own loses some to jitter: never more than wanted, and little less.
        assert.ok(ticks <= wanted * seconds + 1, `${ticks} ticks`);
        assert.ok(ticks >= wanted * seconds * (jitter > 0 ? 0.9 : 1) - 1, `${ticks} ticks of ${wanted * seconds}`);
      });
    }
  }

  it("does not make up for a pause with a burst", () => {
    const thinner = new Thinner({ kind: "time", intervalNs: 100 }, 1);
    assert.equal(thinner.ticks(0, 1000, 1), true);
    assert.equal(thinner.ticks(0, 1050, 1), false);
    const after = [5000, 5001, 5002, 5050, 5099, 5100, 5101].map((time) => thinner.ticks(0, time, 1));
    assert.deepEqual(after, [true, false, false, false, false, true, false]);
  });

  it("ticks once each period counted, and keeps what is over", () => {
    const thinner = new Thinner({ kind: "weight", period: 10 }, 1);
    const ticks = [4, 4, 4, 4, 4, 25, 3, 1, 1].map((period) => thinner.ticks(0, 0, period));
    // 4, 8, 12 → 2, 6, 10 → 0, 25 → 5, 8, 9, 10 → 0
    assert.deepEqual(ticks, [false, false, true, false, true, true, false, false, true]);
  });

  it("keeps a mean period whatever the samples' own", () => {
    const random = seededRandom(4);
    const thinner = new Thinner({ kind: "weight", period: 1000 }, 1);
    let [sum, ticks] = [0, 0];
    for (let i = 0; i < 10_000; i++) {
      const period = Math.floor(random() * 700);
      sum += period;
      if (thinner.ticks(0, 0, period)) ticks++;
    }
    assert.equal(ticks, Math.floor(sum / 1000));
  });

  it("keeps the rings apart", () => {
    const thinner = new Thinner({ kind: "time", intervalNs: 100 }, 2);
    assert.equal(thinner.ticks(0, 1000, 1), true);
    assert.equal(thinner.ticks(1, 1000, 1), true);
    assert.equal(thinner.ticks(1, 1001, 1), false);
    const weight = new Thinner({ kind: "weight", period: 2 }, 2);
    assert.deepEqual([weight.ticks(0, 0, 1), weight.ticks(1, 0, 1), weight.ticks(0, 0, 1)], [false, false, true]);
  });

  it("marks a whole batch as it would its samples one by one, and passes over other events", () => {
    const random = seededRandom(5);
    for (const pace of [
      { kind: "time", intervalNs: 1000 },
      { kind: "weight", period: 50 },
    ] satisfies Pace[]) {
      const samples = Array.from({ length: BATCH_SAMPLES_MAX }, (_, i) => ({
        event: random() < 0.7 ? 0 : 1,
        timeNs: i * 300,
        period: Math.floor(random() * 30),
      }));
      const single = new Thinner(pace, 1);
      const expected = samples.map(({ event, timeNs, period }) =>
        event === 0 ? single.ticks(0, timeNs, period) : null,
      );
      // Only now: all batches of a thread share their columns.
      const batch = new BatchIndex();
      batch.count = BATCH_SAMPLES_MAX;
      samples.forEach(({ event, timeNs, period }, i) => {
        batch.event[i] = event;
        batch.time[i] = timeNs;
        batch.period[i] = period;
      });
      const ticker = new Ticker(0, pace, 1);
      ticker.mark(batch, 0);
      assert.ok(expected.includes(true) && expected.includes(false));
      expected.forEach((tick, i) => {
        if (tick !== null) assert.equal(ticker.ticks[i] === 1, tick, `sample ${i}`);
      });
    }
  });
});
