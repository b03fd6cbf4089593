/** docs/metrics.md against what is exported: every family with its type, labels and help, and no other. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { COUNTERS, type Family, GAUGES, HISTOGRAMS } from "./families.js";

const DOC = new URL("../../../../docs/metrics.md", import.meta.url);

function rows(families: readonly Family<unknown>[], type: string): string[] {
  return families.map(({ name, help, labelNames }) => {
    const labels = labelNames.map((label) => `\`${label}\``).join(", ");
    return `- \`${name}\` (${type}${labels === "" ? "" : `, by ${labels}`}): ${help}`;
  });
}

test("docs/metrics.md lists every family as it is exported, in order", () => {
  const documented = readFileSync(DOC, "utf8")
    .split("\n")
    .filter((line) => line.startsWith("- `nmid_"));
  assert.deepEqual(documented, [
    ...rows(COUNTERS, "counter"),
    ...rows(GAUGES, "gauge"),
    ...rows(HISTOGRAMS, "histogram"),
  ]);
});
