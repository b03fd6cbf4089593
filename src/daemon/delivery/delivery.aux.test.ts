import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { openDelivery } from "./delivery.test-support.js";

describe("HandlerDelivery: AUX data", () => {
  it("is counted when the transport has taken it, and told as lost when the stream breaks", () => {
    const { delivery, dispatchers, attach, aux } = openDelivery({ writesMax: 1 });
    const [dispatcher] = dispatchers;
    dispatcher.postAux(Uint8Array.of(1, 2, 3));
    const stream = attach();
    stream.releaseAll();
    dispatcher.postAux(Uint8Array.of(4, 5));
    delivery.wake();
    assert.deepEqual(aux, { delivered: 3, lost: 0 });
    delivery.broken();
    assert.deepEqual(aux, { delivered: 3, lost: 2 });
    const next = attach();
    next.releaseAll();
    const loss = next.messages.find((message) => message.delivery === "loss")?.loss;
    assert.deepEqual([loss?.reason, Number(loss?.aux_bytes), Number(loss?.count)], ["STREAM_BROKEN", 2, 0]);
  });

  it("that found no room is told in bytes, beside the books", async () => {
    const { delivery, dispatchers, attach, aux } = openDelivery();
    dispatchers[0].loseAux(5000);
    dispatchers[0].put(2);
    const stream = attach();
    delivery.wake();
    stream.releaseAll();
    const loss = stream.messages.find((message) => message.delivery === "loss")?.loss;
    assert.deepEqual([loss?.reason, Number(loss?.aux_bytes), loss?.event_wide], ["QUEUE_FULL", 5000, true]);
    assert.equal(aux.lost, 5000);
    assert.equal(delivery.books().lost, 0);
  });

  it("that found no room is an overflow, once, where the handler asked to be disconnected then", () => {
    const { delivery, dispatchers, overflows } = openDelivery({ overflow: "DISCONNECT" });
    delivery.wake();
    assert.equal(overflows(), 0);
    dispatchers[0].loseAux(5000);
    delivery.wake();
    delivery.wake();
    assert.equal(overflows(), 1);
  });

  it("makes room for younger ones, in the order of the queue, where the oldest are to be dropped", () => {
    const { delivery, dispatchers, attach, aux } = openDelivery({ overflow: "DROP_OLDEST", dataBytes: 65_536 });
    // More than three quarters of the 512 units that such a queue has at least.
    const posted = 400;
    for (let i = 0; i < posted; i++) dispatchers[0].postAux(new Uint8Array(100));
    delivery.wake();
    assert.ok(aux.lost > 0 && aux.lost % 100 === 0);
    const stream = attach();
    stream.releaseAll();
    assert.equal(aux.delivered + aux.lost, posted * 100);
  });
});
