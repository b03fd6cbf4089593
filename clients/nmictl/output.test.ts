import assert from "node:assert/strict";
import { test } from "node:test";
import { printable } from "./output.js";

test("what processes are called leaves a terminal alone, and stays one line", () => {
  const name = "red\u001b[31m\u0007bell\nnext\u009b2J\u0000";
  const shown = printable(name);
  assert.doesNotMatch(shown, /\p{Cc}/u);
  assert.match(shown, /red.*bell.*next/);
});

test("what is harmless is shown as it is", () => {
  assert.equal(printable("kworker/0:1 übung 例"), "kworker/0:1 übung 例");
});
