import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { SAMPLE } from "../../pmu/abi.js";
import { COLUMN } from "./columns.js";
import { format, LIVE, openDispatcher, write } from "./dispatcher.test-support.js";
import { isKernelHalf, redactAddresses, userFrames } from "./redact.js";

const KERNEL = 0xffff_ffff_8100_0123n;
const USER = 0x7fff_1234_5678n;
const CONTEXT_KERNEL = 2n ** 64n - 128n;
const CONTEXT_USER = 2n ** 64n - 512n;

/** Two words each. */
function words(addresses: readonly bigint[]): Uint32Array {
  return new Uint32Array(BigUint64Array.from(addresses).buffer);
}

describe("samples for those who may not see kernel addresses", () => {
  it("share a lane with each other, never with those who may", () => {
    const fixture = openDispatcher();
    const type = LIVE | SAMPLE.CALLCHAIN;
    fixture.dispatcher.addFormats(0, [format([1], type)]);
    const open = [fixture.add({ callchain: true }), fixture.add({ callchain: true })];
    const redacted = [0, 1].map(() => fixture.add({ callchain: true, columns: COLUMN.REDACTED }));
    const chain = [CONTEXT_KERNEL, KERNEL, CONTEXT_USER, USER];
    write(fixture, [{ ip: KERNEL, cpumode: 1, callchain: chain }], type);
    write(fixture, [{ ip: USER, cpumode: 2, callchain: chain.slice(2) }], type);
    write(fixture, [{ ip: KERNEL, cpumode: 2 }], type);
    write(fixture, [{ ip: USER, cpumode: 1 }], type);
    fixture.dispatcher.drain();
    assert.equal(fixture.dispatcher.lanes, 2);
    for (const handler of open) {
      const [{ ip, callchain }] = handler.take();
      assert.deepEqual(ip, [KERNEL, USER, KERNEL, USER].map(Number));
      assert.deepEqual(callchain, [...chain, ...chain.slice(2)].map(Number));
    }
    for (const handler of redacted) {
      const [{ ip, callchain, callchain_length, period }] = handler.take();
      assert.deepEqual(ip, [0, Number(USER), 0, 0], "0 for what was taken in the kernel, or points there");
      assert.deepEqual(callchain_length, [2, 2, 0, 0]);
      assert.deepEqual(callchain, [CONTEXT_USER, USER, CONTEXT_USER, USER].map(Number));
      assert.equal(period.length, 4, "the sample itself is told");
    }
  });
});

describe("redaction", () => {
  const address = fc.oneof(fc.bigInt(0n, 2n ** 64n - 1n), fc.constantFrom(CONTEXT_KERNEL, CONTEXT_USER, KERNEL, USER));

  it("keeps of a callchain only user space's addresses and markers, in their order", () => {
    fc.assert(
      fc.property(fc.array(address, { maxLength: 40 }), fc.nat(63), (chain, start) => {
        const ring = new Uint32Array(128);
        const chainWords = words(chain);
        chainWords.forEach((word, i) => {
          ring[(start + i) & 127] = word;
        });
        const out = new Uint32Array(100).fill(0xdead);
        const kept = userFrames(ring, 127, start, chain.length, out, 3);
        assert.equal(userFrames(ring, 127, start, chain.length, null, 0), kept);
        assert.equal(out[3 + 2 * kept], 0xdead, "nothing is written behind them");
        const found = [...new BigUint64Array(out.slice(3, 3 + 2 * kept).buffer)];
        let next = 0;
        for (const frame of found) {
          assert.ok(frame < 2n ** 63n || frame === CONTEXT_USER || [640n, 2560n].includes(2n ** 64n - frame));
          next = chain.indexOf(frame, next) + 1;
          assert.ok(next > 0, "in the order of the chain");
        }
      }),
    );
  });

  it("leaves no kernel address where there was one", () => {
    fc.assert(
      fc.property(fc.array(address, { minLength: 1, maxLength: 40 }), (addresses) => {
        const out = words(addresses);
        redactAddresses(out, 0, addresses.length, 2);
        const expected = addresses.map((value) => (value >= 2n ** 63n ? 0n : value));
        assert.deepEqual([...new BigUint64Array(out.buffer)], expected);
      }),
    );
    assert.equal(isKernelHalf(0x7fff_ffff), false);
    assert.equal(isKernelHalf(0x8000_0000), true);
  });
});
