import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { MMAP_PAGE } from "./abi.js";
import { RingReader } from "./ring.js";
import { plainRing } from "./software/test-consumer.js";

describe("RingReader", () => {
  it("begins where its last reader left off, and gives space back in the control page", () => {
    const memory = plainRing(4096);
    const control = new BigUint64Array(memory, 0, 512);
    control[MMAP_PAGE.DATA_HEAD / 8] = 2n ** 40n + 64n;
    control[MMAP_PAGE.DATA_TAIL / 8] = 2n ** 40n;
    const reader = new RingReader(memory, 4096);
    assert.equal(reader.tail, 2 ** 40);
    assert.equal(reader.loadHead(), 2 ** 40 + 64);
    reader.storeTail(2 ** 40 + 64);
    assert.equal(reader.tail, 2 ** 40 + 64);
    assert.equal(control[MMAP_PAGE.DATA_TAIL / 8], 2n ** 40n + 64n);
  });

  it("views the data behind the control page", () => {
    const memory = plainRing(8192);
    new Uint32Array(memory, 4096)[3] = 77;
    const reader = new RingReader(memory, 8192);
    assert.equal(reader.words[3], 77);
    assert.equal(reader.words.length, reader.wordMask + 1);
    assert.equal(reader.dataBytes, 8192);
  });

  it("refuses a size that the offset cannot wrap in", () => {
    for (const bytes of [0, -4096, 12_288]) assert.throws(() => new RingReader(plainRing(16_384), bytes), RangeError);
  });
});
