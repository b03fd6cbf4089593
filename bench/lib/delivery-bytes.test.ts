import assert from "node:assert/strict";
import { test } from "node:test";
import { loadBroker } from "../../clients/typescript/broker.test-support.js";
import { decodeDelivery } from "../../clients/typescript/decode.js";
import { countSamples } from "./delivery-bytes.js";
import { prepareMessage } from "./prepared-message.js";

const { responseSerialize: serialize } = loadBroker().Subscribe;
const noControl = () => assert.fail("samples are no control message");

test("samples are counted as the client library counts them, in one run of columns or in many", () => {
  for (const bytes of [1, 36, 5000, 36 * 1024, 36 * 1024 + 1, 512 * 1024]) {
    const message = prepareMessage(bytes);
    const delivery = decodeDelivery(message, noControl);
    assert.ok(delivery?.kind === "samples");
    assert.equal(delivery.length, Math.ceil(bytes / 36));
    assert.equal(countSamples(message), delivery.length);
    for (const column of [delivery.time, delivery.ip, delivery.tid, delivery.cpu, delivery.period]) {
      assert.equal(column.length, delivery.length);
    }
  }
});

test("what protobuf's own encoder writes is counted, too", () => {
  const samples = { time: ["1", "2", "3"], pid: [1, 2, 3], tid: [4, 5, 6], eventIndex: 3, sequence: "7" };
  assert.equal(countSamples(serialize({ samples })), 3);
  assert.equal(countSamples(serialize({ samples: {} })), 0);
});

test("other deliveries hold no samples", () => {
  for (const other of [{ started: { handlerId: 5 } }, { loss: { count: 3 } }, { end: { matched: "1" } }]) {
    assert.equal(countSamples(serialize(other)), -1);
  }
});
