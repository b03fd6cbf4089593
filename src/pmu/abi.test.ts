import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { type AttrFields, CLOCK_MONOTONIC, encodeAttr, SAMPLE } from "./abi.js";

const PLAIN: AttrFields = {
  type: 1,
  config: 0n,
  sampleType: SAMPLE.IP,
  readFormat: 0,
  samplePeriod: 0n,
  freq: false,
  excludeUser: false,
  excludeKernel: false,
  excludeHv: false,
  preciseIp: 0,
  wakeup: 0,
  watermark: false,
};

function view(fields: Partial<AttrFields>): DataView {
  const bytes = encodeAttr({ ...PLAIN, ...fields });
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** linux/perf_event.h, struct perf_event_attr: bits of the word at 40, counted along the bit fields. */
const BIT = { disabled: 0, excludeUser: 4, excludeKernel: 5, excludeHv: 6, freq: 10, watermark: 14 } as const;

describe("encodeAttr", () => {
  it("puts every field where struct perf_event_attr has it", () => {
    const attr = view({
      type: 4,
      config: 0x1234_5678_9abcn,
      samplePeriod: 2n ** 40n,
      sampleType: SAMPLE.CGROUP | SAMPLE.IP,
      readFormat: 19,
      wakeup: 77,
    });
    assert.equal(attr.getUint32(0, true), 4);
    assert.equal(attr.getUint32(4, true), attr.byteLength, "size");
    assert.equal(attr.byteLength, 128);
    assert.equal(attr.getBigUint64(8, true), 0x1234_5678_9abcn);
    assert.equal(attr.getBigUint64(16, true), 2n ** 40n);
    assert.equal(attr.getBigUint64(24, true), 0x200001n);
    assert.equal(attr.getBigUint64(32, true), 19n);
    assert.equal(attr.getUint32(48, true), 77);
    assert.equal(attr.getInt32(92, true), CLOCK_MONOTONIC);
  });

  it("sets each flag alone, beside those that are always set", () => {
    const always = view({}).getBigUint64(40, true);
    // disabled, sample_id_all, use_clockid
    assert.equal(always, (1n << 0n) | (1n << 18n) | (1n << 25n));
    for (const name of ["excludeUser", "excludeKernel", "excludeHv", "freq", "watermark"] as const) {
      assert.equal(view({ [name]: true }).getBigUint64(40, true), always | (1n << BigInt(BIT[name])), name);
    }
    assert.equal(view({ preciseIp: 3 }).getBigUint64(40, true), always | (3n << 15n));
  });
});

describe("encodeAttr: what specifications can say", () => {
  it("puts a breakpoint's and a PMU's words where the kernel shares them", () => {
    const attr = view({ bpType: 3, config1: 0xffff_8000_0000_0000n, config2: 8n });
    assert.equal(attr.getUint32(52, true), 3);
    assert.equal(attr.getBigUint64(56, true), 0xffff_8000_0000_0000n);
    assert.equal(attr.getBigUint64(64, true), 8n);
  });

  it("grows for config3 alone, which older kernels refuse", () => {
    const attr = view({ config3: 5n });
    assert.deepEqual([attr.byteLength, attr.getUint32(4, true)], [136, 136]);
    assert.equal(attr.getBigUint64(128, true), 5n);
  });

  it("sets each flag alone", () => {
    const always = view({}).getBigUint64(40, true);
    const bits = { pinned: 2n, excludeIdle: 7n, excludeHost: 19n, excludeGuest: 20n } as const;
    for (const [name, bit] of Object.entries(bits)) {
      assert.equal(view({ [name]: true }).getBigUint64(40, true), always | (1n << bit), name);
    }
    assert.equal(view({ enabled: true }).getBigUint64(40, true), always & ~1n, "no longer disabled");
  });
});
