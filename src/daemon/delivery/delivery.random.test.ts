/** Random operations against a model of the client: whatever happens, the numbers add up. Re-run one: NMID_TEST_SEED=n. */
import assert from "node:assert/strict";
import { it } from "node:test";
import { seededRandom } from "../../pmu/software/random.js";
import { LOSS_REASONS } from "../../registry/layout.js";
import { type DeliveryFixture, type HeldStream, openDelivery, PERIOD } from "./delivery.test-support.js";
import type { Overflow } from "./delivery-options.js";

const SEEDS = process.env.NMID_TEST_SEED
  ? [Number(process.env.NMID_TEST_SEED)]
  : Array.from({ length: 60 }, (_, i) => i);
const STEPS = 400;
const EVENTS = 3;

/** What a client makes of the messages that the transport has taken. */
class Client {
  received = 0;
  /** Samples that nobody looked at, as told: more than once where the stream broke meanwhile. */
  gapped = 0;
  readonly periods = new Array<number>(EVENTS).fill(0);
  /** The number that the next sample must have. */
  cursor = 0;
  ended = false;
  readonly #seen = new Set<number>();
  #stream: HeldStream | null = null;
  #read = 0;

  connect(stream: HeldStream): void {
    this.#stream = stream;
    this.#read = 0;
  }

  /** A write that does not end is given up by a discard. */
  disconnectIfHeld(): void {
    if (this.#stream?.holds) this.#stream = null;
  }

  disconnect(): void {
    this.#stream = null;
  }

  /** Lets the transport take one message, and reads it. */
  release(): boolean {
    const stream = this.#stream;
    if (stream === null || !stream.holds) return false;
    // The one that is held is the last one written, but releasing it writes the next.
    const message = stream.messages[this.#read++];
    this.#readMessage(message);
    return stream.release();
  }

  #readMessage({ started, samples, loss, end }: HeldStream["messages"][number]): void {
    assert.equal(this.ended, false, "nothing after the end");
    // `started` names the next sample; what lies between it and the last one read must still be told as lost.
    if (started) assert.equal(started.next_sequence, this.cursor);
    if (loss && !loss.event_wide) this.cursor += loss.count;
    if (loss?.event_wide && loss.reason === "DISPATCHER_DIED") this.gapped += loss.count;
    if (samples) {
      assert.equal(samples.sequence, this.cursor);
      this.cursor += samples.time.length;
      this.received += samples.time.length;
      this.periods[samples.event_index] += samples.time.length * PERIOD;
      for (const time of samples.time) {
        assert.equal(this.#seen.has(time), false, `sample ${time} came twice`);
        this.#seen.add(time);
      }
    }
    if (end) {
      this.ended = true;
      assert.equal(end.matched, end.delivered + end.lost);
      assert.equal(end.delivered, this.received);
      assert.equal(end.matched, this.cursor, "every sample was received or told as lost");
    }
  }
}

async function story(seed: number): Promise<void> {
  const random = seededRandom(seed);
  const below = (n: number): number => Math.floor(random() * n);
  const overflow = (["DROP_NEWEST", "DROP_OLDEST", "DISCONNECT"] satisfies Overflow[])[below(3)];
  const fixture: DeliveryFixture = openDelivery({
    overflow,
    events: EVENTS,
    dispatchers: 1 + below(3),
    writesMax: 1 + below(4),
  });
  const { delivery, dispatchers, clock } = fixture;
  const client = new Client();
  let matched = 0;
  let gapped = 0;
  const put = (): void => {
    const samples = 1 + below(1800);
    matched += samples;
    dispatchers[below(dispatchers.length)].put(samples, below(EVENTS));
  };
  const die = (): void => {
    if (below(10) !== 0) return;
    const d = below(dispatchers.length);
    const samples = below(300);
    matched += samples;
    dispatchers[d].die(samples, below(EVENTS));
    delivery.abandoned(d);
  };
  const steps: (() => void)[] = [
    die,
    () => {
      const samples = 1 + below(9);
      gapped += samples;
      dispatchers[below(dispatchers.length)].gap(samples, below(EVENTS));
    },
    () => {
      dispatchers[below(dispatchers.length)].isShort = below(3) === 0;
    },
    put,
    put,
    put,
    () => delivery.wake(),
    () => delivery.wake(),
    () => client.release(),
    () => client.release(),
    () => client.release(),
    () => {
      clock.nowNs += below(1e9);
      delivery.pump();
    },
    () => {
      if (below(4) === 0) delivery.eventWideLoss(below(EVENTS), "KERNEL", 1 + below(5));
    },
    () => {
      if (below(6) !== 0) return;
      client.disconnect();
      delivery.broken();
    },
    () => {
      if (!delivery.subscribed && below(2) === 0) client.connect(fixture.attach());
    },
  ];
  for (let i = 0; i < STEPS; i++) {
    steps[below(steps.length)]();
    const { delivered, lost } = delivery.books();
    assert.equal(delivered, client.received);
    assert.ok(delivered + lost <= matched);
  }
  const subscribed = delivery.subscribed;
  const finished = delivery.finish("DEREGISTERED", random() < 0.3 ? "DISCARDED" : null);
  const ending = below(3);
  if (ending === 0) {
    for (let i = below(4); i > 0; i--) client.release();
    client.disconnectIfHeld();
    delivery.discard("SHUTDOWN");
  } else if (ending === 1) {
    for (let i = below(4); i > 0; i--) client.release();
    client.disconnect();
    delivery.broken();
  }
  while (client.release());
  const books = await finished;
  assert.equal(books.matched, matched);
  assert.equal(books.matched, books.delivered + books.lost);
  assert.equal(books.sequence, matched);
  assert.equal(books.delivered, client.received);
  assert.equal(
    books.losses.reduce((sum, { count }) => sum + count, 0),
    books.lost,
  );
  for (const [event, { matched: inEvent, periodDelivered, periodLost }] of books.events.entries()) {
    assert.equal(periodDelivered, client.periods[event]);
    assert.equal(periodDelivered + periodLost, inEvent * PERIOD);
  }
  // The table's counters tell outside readers the same.
  assert.equal(fixture.counters.delivered(0), books.delivered);
  const inTable = fixture.counters.losses(0);
  for (const [reason, name] of LOSS_REASONS.entries()) {
    assert.equal(inTable[reason], books.losses.find((loss) => loss.reason === name)?.count ?? 0, name);
  }
  if (ending === 2 && subscribed) {
    assert.equal(client.ended, true);
    assert.ok(client.gapped >= gapped, `${gapped} samples that nobody looked at, ${client.gapped} told`);
  }
}

it(`books balance over ${STEPS} random operations`, async () => {
  for (const seed of SEEDS) {
    try {
      await story(seed);
    } catch (error) {
      throw new Error(`seed ${seed}: ${(error as Error).message} (re-run with NMID_TEST_SEED=${seed})`, {
        cause: error,
      });
    }
  }
});
