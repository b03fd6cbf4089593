import assert from "node:assert/strict";
import { test } from "node:test";
import { formatDispatcherCpus, parseDispatcherCpus } from "./dispatcher-cpus.js";

test("lists of CPUs, as the kernel writes them, one a dispatcher", () => {
  for (const [text, lists, canonical] of [
    ["3", [[3]], "3"],
    [
      "0-3;4-7",
      [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
      ],
      "0-3;4-7",
    ],
    [" 4,1-2,2 ; 8191 ", [[1, 2, 4], [8191]], "1-2,4;8191"],
    ["0;0", [[0], [0]], "0;0"],
  ] as const) {
    const parsed = parseDispatcherCpus(text);
    assert.ok(parsed.ok, text);
    assert.deepEqual(parsed.value, { kind: "lists", lists });
    assert.equal(formatDispatcherCpus(parsed.value), canonical);
  }
  for (const kind of ["off", "auto"] as const) {
    assert.deepEqual(parseDispatcherCpus(kind), { ok: true, value: { kind } });
    assert.equal(formatDispatcherCpus({ kind }), kind);
  }
});

test("what is no list is named, with the dispatcher that it is for", () => {
  for (const [text, part, dispatcher] of [
    ["", "", 0],
    ["0-3;", "", 1],
    [";0", "", 0],
    ["0;1;x", "x", 2],
    ["3-1", "3-1", 0],
    ["0;1-", "1-", 1],
    ["0,,1", "0,,1", 0],
    ["0-8:2", "0-8:2", 0],
    ["-1", "-1", 0],
    ["0x1", "0x1", 0],
    ["0,8192", "0,8192", 0],
    ["0-99999", "0-99999", 0],
    ["Auto", "Auto", 0],
  ] as const) {
    const parsed = parseDispatcherCpus(text);
    assert.ok(!parsed.ok, text);
    assert.equal(parsed.what, `${JSON.stringify(text)} has ${JSON.stringify(part)} for dispatcher ${dispatcher}`);
    assert.match(parsed.remedy, /^give off, auto, or a list of CPUs for each dispatcher such as 0-3;4-7$/);
  }
});
