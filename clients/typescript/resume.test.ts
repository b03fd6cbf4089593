import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { RpcError } from "./errors.js";
import type { Delivery } from "./messages.js";
import { lossMessage, startedMessage } from "./messages.test-support.js";
import { resuming } from "./resume.js";

const LEASE_MS = 60_000;
const END = { kind: "end", reason: "DEREGISTERED" } as Delivery;

const broken = (code = "UNAVAILABLE", details = "the daemon is stopping") => new RpcError("Subscribe", code, details);

/** Streams one after the other: each what it brings, an Error at its end where it breaks. */
function streams(...each: readonly (readonly (Delivery | Error)[])[]) {
  const left = [...each];
  const open = async function* (): AsyncGenerator<Delivery, void, undefined> {
    for (const item of left.shift() ?? []) {
      if (item instanceof Error) throw item;
      yield item;
    }
  };
  return { open, left };
}

async function collect(deliveries: AsyncIterable<Delivery>): Promise<{ kinds: string[]; error: unknown }> {
  const kinds: string[] = [];
  try {
    for await (const { kind } of deliveries) kinds.push(kind);
  } catch (error) {
    return { kinds, error };
  }
  return { kinds, error: null };
}

describe("resuming", () => {
  it("goes on in the next stream, whose start is told, until the end", async () => {
    const { open } = streams(
      [startedMessage(), lossMessage(), broken()],
      [broken("UNAVAILABLE", "ECONNREFUSED")],
      [broken("FAILED_PRECONDITION", "handler_id: 1 has a live stream: end that one first")],
      [startedMessage({ resumed: true }), END],
    );
    const { kinds, error } = await collect(resuming(open, undefined));
    assert.equal(error, null);
    assert.deepEqual(kinds, ["started", "loss", "started", "end"]);
  });

  it("does not try what never began, nor what failed for another reason", async () => {
    for (const [first, second] of [
      [[broken()], [startedMessage()]],
      [[startedMessage({ leaseMs: 0 }), broken()], [startedMessage()]],
      [[startedMessage(), broken("PERMISSION_DENIED")], [startedMessage()]],
      [[startedMessage(), new TypeError("ours")], [startedMessage()]],
    ]) {
      const { open, left } = streams(first, second);
      const { error } = await collect(resuming(open, undefined));
      assert.equal(error, first.at(-1));
      assert.equal(left.length, 1);
    }
  });

  it("says what has become of the handler: removed by the restart, or while its stream was cut", async () => {
    const gone = broken("NOT_FOUND", "handler_id: 1 is not registered");
    const restarted = await collect(resuming(streams([startedMessage(), broken()], [gone]).open, undefined));
    assert.equal(restarted.error, gone);
    const cut = broken("ABORTED", "the stream's reader was stuck");
    const stuck = await collect(resuming(streams([startedMessage(), cut], [gone]).open, undefined));
    assert.equal(stuck.error, cut);
  });

  it("gives up when the lease has run out", async () => {
    const { open, left } = streams([startedMessage({ leaseMs: 1 }), broken()], [startedMessage()]);
    const { error } = await collect(resuming(open, undefined));
    assert.ok(error instanceof RpcError && error.code === "UNAVAILABLE");
    assert.match(error.details, /lease of 1 ms ran out.*the daemon is stopping/);
    assert.equal(left.length, 1);
  });

  it("ends with the signal, while it waits, too", async () => {
    const aborting = new AbortController();
    const reason = new Error("enough");
    const open = async function* (): AsyncGenerator<Delivery, void, undefined> {
      yield startedMessage({ leaseMs: LEASE_MS });
      setImmediate(() => aborting.abort(reason));
      throw broken();
    };
    const { error } = await collect(resuming(open, aborting.signal));
    assert.equal(error, reason);
  });
});
