/** systemd/nmid.yaml: every option, with its default, and what it says of reloads. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { RELOADABLE } from "./live.js";
import { run } from "./load.test-support.js";
import { KEYS } from "./schema.js";

const text = readFileSync(new URL("../../../../systemd/nmid.yaml", import.meta.url), "utf8");
const OPTION = /^#((?: {2})?([a-z_]+):.*)$/;
/** As nmid.service starts it. */
const service = { uid: 997, env: { RUNTIME_DIRECTORY: "/run/nmid" } };

/** Each option's key, and whether the comment above it, or above the options right before it, says [reload]. */
function options(): Map<string, boolean> {
  const found = new Map<string, boolean>();
  let comment = "";
  let section = "";
  for (const line of text.split("\n")) {
    const [, body = "", name = ""] = OPTION.exec(line) ?? [];
    if (line === "") comment = "";
    if (name === "") comment += line;
    else if (body.endsWith(":")) section = `${name}.`;
    else found.set(body.startsWith(" ") ? section + name : name, comment.includes("[reload]"));
  }
  return found;
}

test("as it is shipped it changes nothing", () => {
  assert.deepEqual(run({ ...service, file: text }), run(service));
});

test("with every option uncommented it is the default configuration", () => {
  const uncommented = text.replace(new RegExp(OPTION, "gm"), "$1");
  assert.notEqual(uncommented, text);
  // Who writes the default address down has said where to listen.
  assert.deepEqual(run({ ...service, file: uncommented }), { ...run(service), listenIsDefault: false });
});

test("it has every option there is, and marks those that a reload changes", () => {
  const found = options();
  assert.deepEqual([...found.keys()].toSorted(), [...KEYS].toSorted());
  const marked = [...found].filter(([, reload]) => reload).map(([key]) => key);
  assert.deepEqual(marked.toSorted(), [...RELOADABLE].toSorted());
});
