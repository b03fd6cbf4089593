/** A short torture of the table as it is, and of tables with faults planted, which it must find. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { describe, it } from "node:test";
import { MUTATIONS } from "../../src/registry/schedule-mutations.test-support.js";
import { writeEdited } from "../../src/registry/schedule-source.test-support.js";
import { type TortureOptions, torture } from "./torture.js";

const SEED = Number(process.env.NMID_TEST_SEED ?? 1);
const TEST_MAX_MS = 120_000;
const OPTIONS: TortureOptions = { seconds: 2, seed: SEED, capacity: 8, dispatchers: 2, registrars: 2 };

it("threads and an outside reader find nothing wrong", { timeout: TEST_MAX_MS }, async (t) => {
  const report = await torture(OPTIONS);
  assert.deepEqual(report.violations, [], `NMID_TEST_SEED=${SEED}`);
  const dispatches = report.dispatchers.reduce((sum, part) => sum + part.dispatches, 0);
  const removals = report.registrars.reduce((sum, part) => sum + part.removals, 0);
  assert.ok(report.dispatchers.every((part) => part.dispatches > 0));
  assert.ok(report.registrars.every((part) => part.removals > 0));
  assert.ok(report.reader.reads > 0);
  t.diagnostic(`${dispatches} dispatches, ${removals} removals, ${report.reader.reads} handlers read outside`);
});

describe("a planted fault is found", { timeout: TEST_MAX_MS }, () => {
  /** Far beyond what it takes: the first violation ends the run. */
  const seconds = 60;
  const onePlace: TortureOptions = { ...OPTIONS, seconds, capacity: 1, registrars: 1 };

  const planted = async (name: string, options: TortureOptions): Promise<string> => {
    const edits = MUTATIONS.find((mutation) => mutation.name === name)?.edits;
    assert.ok(edits);
    const dir = mkdtempSync(path.join(tmpdir(), "nmid-planted-"));
    try {
      const modules = writeEdited(dir, edits);
      const report = await torture({ ...options, walkModule: modules["walk.js"], tableModule: modules["table.js"] });
      return report.violations.join("\n");
    } finally {
      rmSync(dir, { recursive: true });
    }
  };

  it("a dispatcher that does not look again", async () => {
    // The next owner may come between any two checks, so that it depends which of them notices.
    const found = await planted("seed-order", onePlace);
    assert.match(found, /is inside slot 0 generation \d+, which (was removed|gave way|did not want|is in state)/);
  });

  it("a slot that is free before it drained", async () => {
    assert.match(
      await planted("free-before-drained", onePlace),
      /is inside slot 0 generation|owned twice|counts \d+ dispatches/,
    );
  });

  it("counters that are not cleared for the next handler", async () => {
    assert.match(await planted("counters-not-cleared", onePlace), /counts \d+ dispatches/);
  });

  it("fields that are written while somebody reads them", async () => {
    const { violations } = await torture({ ...OPTIONS, seconds, describesLate: true });
    assert.match(violations.join("\n"), /outside reader: slot \d+ generation \d+: \w+ reads/);
  });
});
