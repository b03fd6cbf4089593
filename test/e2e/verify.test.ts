/** `nmictl verify` finds what does not balance, and nothing where all does; minutes of load are in balance.test.ts. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Report, reconcile } from "../../clients/nmictl/verify/reconcile.js";
import { run } from "../../clients/nmictl/verify/run.js";
import { BOUNDED } from "../support/bound.js";
import { startDaemon } from "../support/daemon.js";
import { connectTo } from "../support/live.js";
import { startNmictl } from "../support/process.js";
import { type Message, startTamperingProxy, type Tampering } from "../support/tampering-proxy.js";
import { lossesOf, SMALL_RINGS, verify } from "../support/verify.js";

test(
  "with others on the daemon each handler's books are checked, and no sum that is theirs as well",
  BOUNDED,
  async (t) => {
    const daemon = await startDaemon(t, { args: ["--source", "synthetic:20000"] });
    const client = connectTo(t, daemon);
    await client.register({ name: "somebody else", events: [], leaseMs: 600_000 });
    const report = await verify(t, daemon, "--seconds", "1", "--handlers", "3");
    assert.deepEqual(report.unchecked, ["the daemon's totals: other handlers were registered before"]);
    assert.equal(report.checks.length, 1);
    assert.ok(report.handlers > 3);
  },
);

test("the report is for people, too, and the command fails when something does not balance", BOUNDED, async (t) => {
  const daemon = await startDaemon(t, { args: ["--source", "synthetic:20000"] });
  const honest = startNmictl(t, daemon, "verify", "--seconds", "0.3", "--handlers", "1", "--seed", "9");
  const good = await honest.exited;
  assert.equal(good.code, 0, good.stderr);
  assert.match(good.stdout, /^yes +(\d+) +\1 +samples made, and drained or lost in the rings$/m);
  assert.match(good.stdout, /\nbalanced$/);

  const proxy = await startTamperingProxy(t, daemon, {
    GetStatus: onceRegistered((totals) => bump(totals, "samples")),
  });
  const args = ["verify", "--seconds", "0.3", "--handlers", "1", "--seed", "9"];
  const bad = await startNmictl(t, { ...daemon, address: proxy.address }, ...args).exited;
  assert.equal(bad.code, 1, bad.stderr);
  assert.match(bad.stdout, /^NO +\d+ +\d+ +samples drained, and/m);
  assert.match(bad.stdout, /^IMBALANCE: .*\n(.*\n)*NOT BALANCED: seed 9$/m);
});

function bump(message: Message, field: string, by = 1): void {
  message[field] = (message[field] as number) + by;
}

/** What `verify` asks first is how things stood before; what it asks after that is changed. */
function onceRegistered(tamper: (totals: Message, answer: Message) => void): (answer: Message) => void {
  let asked = 0;
  return (answer) => {
    if (asked++ > 0) tamper(answer.totals as Message, answer);
  };
}

/** The `nth` that `is`. */
function nth(nth: number, is: (delivery: Message) => boolean): (delivery: Message) => boolean {
  let seen = 0;
  return (delivery) => is(delivery) && ++seen === nth;
}

function withheldSample(): Tampering {
  let batches = 0;
  return { samples: () => ++batches !== 3 };
}

/** The last column of the last chunk is the period; its last element is the end of the message. */
function changedWeight(): Tampering {
  let batches = 0;
  return {
    samples: (bytes) => {
      if (++batches === 2) bytes.writeBigUInt64LE(bytes.readBigUInt64LE(bytes.length - 8) + 1n, bytes.length - 8);
      return true;
    },
  };
}

function withheldLoss(): Tampering {
  const isIt = nth(1, ({ loss }) => loss !== undefined && !(loss as Message).eventWide);
  return { control: (delivery) => !isIt(delivery) };
}

/** From all: only who is there all along can know how much there is to be told, and the first to be told may be another. */
function withheldRingLoss(): Tampering {
  return { control: ({ loss }) => (loss as Message | undefined)?.eventWide !== true };
}

function otherReason(): Tampering {
  const isIt = nth(1, ({ loss }) => (loss as Message | undefined)?.reason === "QUEUE_FULL");
  return {
    control: (delivery) => {
      if (isIt(delivery)) (delivery.loss as Message).reason = "DISCARDED";
      return true;
    },
  };
}

function wrongEnd(): Tampering {
  return {
    control: ({ end }) => {
      if (end !== undefined) bump(end as Message, "delivered");
      return true;
    },
  };
}

function withheldEnd(): Tampering {
  const isIt = nth(1, ({ end }) => end !== undefined);
  return { control: (delivery) => !isIt(delivery) };
}

const PLANTED: readonly [what: string, tampering: () => Tampering, finds: RegExp][] = [
  ["a batch of samples that does not arrive", withheldSample, /a gap that no loss tells of/],
  ["a sample with another weight", changedWeight, /period_delivered, and the sum of periods: \d+ and \d+/],
  ["a loss that is not told", withheldLoss, /a gap that no loss tells of|lost, and told as lost/],
  ["a loss in the rings that is not told", withheldRingLoss, /lost in the rings, and told to who was there all along/],
  ["a loss for another reason", otherReason, /lost for QUEUE_FULL, and told as lost/],
  ["an end that does not come", withheldEnd, /without end|brought no end/],
  ["an end that says more", wrongEnd, /end: matched, and delivered \+ lost/],
  ["an answer that says less", () => ({ Deregister: (a) => bump(a, "matched", -1) }), /by end and by Deregister/],
  [
    "a table that says more",
    () => ({ WatchHandlers: ({ handler }) => handler !== null && bump(handler as Message, "lost") }),
    /the table: matched, and delivered \+ lost/,
  ],
  [
    "a sample that was made and vanished",
    () => ({ GetStatus: onceRegistered((totals) => bump(totals, "produced")) }),
    /samples made, and drained or lost/,
  ],
  [
    "a sample drained twice",
    () => ({ GetStatus: onceRegistered((totals) => bump(totals, "samples")) }),
    /samples drained, and matched by who/,
  ],
  [
    "a total that lacks a sample",
    () => ({ GetStatus: onceRegistered((totals) => bump(totals, "matched", -1)) }),
    /matched by all handlers, and in the daemon's total/,
  ],
  [
    "delivered without a receiver",
    () => ({ GetStatus: onceRegistered((totals) => bump(totals, "delivered")) }),
    /the daemon's delivered/,
  ],
  [
    "books that the daemon itself found wrong",
    () => ({ GetStatus: onceRegistered((_, answer) => bump(answer, "unbalanced")) }),
    /that the daemon found unbalanced/,
  ],
];

test("each link of the chain, broken on purpose, is found; and nothing is found where nothing is", {
  timeout: 240_000,
}, async (t) => {
  const daemon = await startDaemon(t, { args: ["--source", "synthetic:100000"], env: SMALL_RINGS });
  const runThrough = async (tampering: Tampering): Promise<Report> => {
    const { address } = await startTamperingProxy(t, daemon, tampering);
    const options = { address, seconds: 0.5, handlers: 4, seed: 13, events: [""], frequencyHz: 0 };
    return reconcile(await run({ ...options, signal: new AbortController().signal }));
  };
  const honest = await runThrough({});
  assert.deepEqual([honest.imbalances, honest.unchecked], [[], []]);
  assert.ok((lossesOf(honest).get("QUEUE_FULL") ?? 0) > 0 && honest.eventWide.KERNEL > 0, "losses to be tampered with");
  for (const [what, tampering, finds] of PLANTED) {
    await t.test(what, async () => {
      const { balanced, imbalances } = await runThrough(tampering());
      assert.equal(balanced, false);
      assert.ok(
        imbalances.some((text) => finds.test(text)),
        imbalances.join("\n") || "nothing was found",
      );
    });
  }
});
