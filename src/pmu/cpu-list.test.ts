import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { formatCpuList, parseCpuList } from "./cpu-list.js";

describe("parseCpuList", () => {
  it("reads the kernel's list format", () => {
    for (const [text, cpus] of [
      ["0", [0]],
      ["0-3,8\n", [0, 1, 2, 3, 8]],
      ["2,4-5,127", [2, 4, 5, 127]],
      ["", []],
      ["\n", []],
    ] as const) {
      assert.deepEqual(parseCpuList(text), [...cpus], JSON.stringify(text));
    }
  });
});

describe("formatCpuList", () => {
  it("joins neighbours, in order, each once", () => {
    for (const [cpus, text] of [
      [[], ""],
      [[3], "3"],
      [[8, 1, 0, 2, 1], "0-2,8"],
      [[5, 3, 1], "1,3,5"],
    ] as const) {
      assert.equal(formatCpuList(cpus), text);
      assert.deepEqual(
        parseCpuList(text),
        [...new Set(cpus)].sort((a, b) => a - b),
      );
    }
  });
});
