/**
 * docs/metrics.md against what is exported: every family with its type, labels and help, and no other. With
 * NMID_UPDATE_DOCS=1 it writes them.
 */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { LOSS_REASONS } from "../../registry/layout.js";
import { REFUSAL_REASONS } from "../grpc/refusals.js";
import { COUNTERS } from "./counters.js";
import type { Family } from "./family.js";
import { GAUGES, HISTOGRAMS } from "./gauges.js";

const DOC = new URL("../../../../docs/metrics.md", import.meta.url);

function rows(families: readonly Family<unknown>[], type: string): string[] {
  return families.map(({ name, help, labelNames }) => {
    const labels = labelNames.map((label) => `\`${label}\``).join(", ");
    return `- \`${name}\` (${type}${labels === "" ? "" : `, by ${labels}`}): ${help}`;
  });
}

const isRow = (line: string): boolean => line.startsWith("- `nmid_");

test("docs/metrics.md lists every family as it is exported", () => {
  const exported = [...rows(COUNTERS, "counter"), ...rows(GAUGES, "gauge"), ...rows(HISTOGRAMS, "histogram")];
  let lines = readFileSync(DOC, "utf8").split("\n");
  if (process.env.NMID_UPDATE_DOCS === "1") {
    const first = lines.findIndex(isRow);
    lines = [...lines.slice(0, first), ...exported, ...lines.slice(lines.findLastIndex(isRow) + 1)];
    writeFileSync(DOC, lines.join("\n"));
  }
  const documented = lines.filter(isRow);
  const remedy = "NMID_UPDATE_DOCS=1 npm test -- metrics-doc writes them";
  assert.deepEqual(
    exported.filter((row) => !documented.includes(row)),
    [],
    `not in docs/metrics.md; ${remedy}`,
  );
  assert.deepEqual(
    documented.filter((row) => !exported.includes(row)),
    [],
    `exported no more; ${remedy}`,
  );
});

test("a reason that a label may have is explained in the help", () => {
  const help = (of: string): string => COUNTERS.find(({ name }) => name === of)?.help ?? "";
  const isBooked = (reason: string): boolean => reason !== "LOSS_REASON_UNSPECIFIED" && reason !== "KERNEL";
  for (const [family, reasons] of [
    ["nmid_lost_samples_total", LOSS_REASONS.filter(isBooked)],
    ["nmid_handler_lost_samples_total", LOSS_REASONS.filter(isBooked)],
    ["nmid_refused_total", REFUSAL_REASONS],
  ] as const) {
    const words = help(family).split(/[^A-Za-z_]+/);
    assert.deepEqual(
      reasons.filter((reason) => !words.includes(reason)),
      [],
      family,
    );
  }
});
