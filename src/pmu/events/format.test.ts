import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { seededRandom } from "../software/random.js";
import { applyFormat, type ConfigWords, formatMax, parseFormat } from "./format.js";
import { filesOf, MACHINES } from "./machines.test-support.js";
import { openPmuDirectory } from "./pmu-directory.js";

function place(format: string, value: bigint, before: ConfigWords = [0n, 0n, 0n, 0n]): ConfigWords {
  const field = parseFormat(format);
  assert.ok(field !== null, format);
  const config: ConfigWords = [...before];
  applyFormat(field, value, config);
  return config;
}

describe("a format", () => {
  it("says which bits of which word", () => {
    assert.deepEqual(place("config:0-7", 0x3cn), [0x3cn, 0n, 0n, 0n]);
    assert.deepEqual(place("config:23", 1n), [0x80_0000n, 0n, 0n, 0n]);
    assert.deepEqual(place("config1:0-63", 2n ** 64n - 1n), [0n, 2n ** 64n - 1n, 0n, 0n]);
    assert.deepEqual(place("config2:0", 1n), [0n, 0n, 1n, 0n]);
    assert.deepEqual(place("config3:4-7", 0xfn), [0n, 0n, 0n, 0xf0n]);
  });

  it("may lie in several places, the value's lowest bits first", () => {
    assert.deepEqual(place("config:0-7,32-35", 0xabcn), [0xa_0000_00bcn, 0n, 0n, 0n]);
    assert.deepEqual(place("config:4,0-1,63", 0b1101n), [0x8000_0000_0000_0012n, 0n, 0n, 0n]);
    assert.equal(formatMax(parseFormat("config:0-7,32-35") ?? assert.fail()), 0xfffn);
  });

  it("replaces what was there and nothing else", () => {
    assert.deepEqual(place("config:8-15", 0x12n, [0xffff_ffffn, 1n, 2n, 3n]), [0xffff_12ffn, 1n, 2n, 3n]);
  });

  it("is refused where no kernel writes it so", () => {
    for (const text of [
      "",
      "config",
      "config4:0",
      "config:",
      "config:64",
      "config:7-0",
      "config:0-",
      "config:a",
      "cfg:0",
    ]) {
      assert.equal(parseFormat(text), null, text);
    }
  });

  it("gives back every value it was given, wherever it is", () => {
    const random = seededRandom(20_260_101);
    for (const machine of MACHINES) {
      const directory = openPmuDirectory(filesOf(machine));
      for (const name of directory.names) {
        for (const [term, field] of directory.find(name)?.format ?? []) {
          const value = BigInt(Math.floor(random() * 2 ** 32)) & formatMax(field);
          const config: ConfigWords = [0n, 0n, 0n, 0n];
          applyFormat(field, value, config);
          let found = 0n;
          let at = 0n;
          for (const [first, last] of field.ranges) {
            const width = BigInt(last - first + 1);
            found |= ((config[field.word] >> BigInt(first)) & ((1n << width) - 1n)) << at;
            at += width;
          }
          assert.equal(found, value, `${machine} ${name}/${term}/`);
        }
      }
    }
  });
});
