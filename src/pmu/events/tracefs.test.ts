import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { matchesGlob } from "./tracefs.js";

describe("matchesGlob", () => {
  it("takes * for any text and ? for any character", () => {
    for (const [pattern, name, expected] of [
      ["sched_switch", "sched_switch", true],
      ["sched_switch", "sched_switches", false],
      ["*", "", true],
      ["?", "", false],
      ["sched_*", "sched_", true],
      ["*switch", "sched_switch", true],
      ["s*_?witch", "sched_switch", true],
      ["*ab*ab", "abxab", true],
      ["*ab*ab", "abxa", false],
      ["a.c", "abc", false],
    ] as const) {
      assert.equal(matchesGlob(pattern, name), expected, `${pattern} and ${name}`);
    }
  });

  it("is done at once with any number of stars", () => {
    assert.equal(matchesGlob(`${"*".repeat(64)}!`, "sched_process_exit"), false);
    assert.equal(matchesGlob(`${"*?".repeat(64)}!`, "x".repeat(200)), false);
  });
});
