/** Mistakes that the scheduler must catch, each for the reason that the model gives; model/README.md tells the stories. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, it } from "node:test";
import { exploreAll, exploreRandomly } from "./schedule-explore.test-support.js";
import { MUTATIONS } from "./schedule-mutations.test-support.js";
import type { Scenario } from "./schedule-scenario.test-support.js";
import { edited, loadStepped, readCompiled } from "./schedule-source.test-support.js";
import { World } from "./schedule-world.test-support.js";

const STATES_MAX = 100_000;
const asItIs = await loadStepped();

describe("a schedule is found that breaks what the mistake must break", () => {
  for (const { name, why, edits, scenario, breaks } of MUTATIONS.filter((mutation) => mutation.breaks !== null)) {
    it(`${name}: ${why}`, async () => {
      const { violation, story } = exploreAll(await loadStepped(edits), scenario, STATES_MAX, true);
      assert.equal(violation?.property, breaks, `${violation?.message}\n${story.join("\n")}`);
      // The same schedules find nothing in the code as it is: the mistake is what they found.
      const { buriesTheLiving, toleratesReuse, ...legal } = scenario;
      assert.equal(exploreAll(asItIs, legal, STATES_MAX).violation, null);
    });
  }
});

describe("a mistake that is none by itself", () => {
  for (const { name, why, edits, scenario } of MUTATIONS.filter((mutation) => mutation.breaks === null)) {
    it(`${name}: ${why}`, async () => {
      const { violation, story } = exploreAll(await loadStepped(edits), scenario, STATES_MAX);
      assert.equal(violation, null, `${violation?.message}\n${story.join("\n")}`);
    });
  }
});

it("random schedules find mistakes in scenarios that are too large for all", async () => {
  const large: Scenario = { slots: 3, dispatchers: 3, passes: 5, owners: 3, lives: 4, tso: true };
  for (const name of ["seed-order", "plain-announce", "plain-retract", "notify-before-clear", "link-by-store"]) {
    const mutation = MUTATIONS.find((candidate) => candidate.name === name);
    assert.ok(mutation);
    const world = new World(await loadStepped(mutation.edits), large);
    const found = Array.from({ length: 4000 }).some((_, seed) => {
      return exploreRandomly(world, seed).violation?.property === mutation.breaks;
    });
    assert.ok(found, `${name} was not found`);
  }
});

it("every refutation of the model is a mutation of the code, and breaks the same", () => {
  const script = readFileSync(new URL("../../../scripts/model.mjs", import.meta.url), "utf8");
  const refutations = [...script.matchAll(/name: "([a-z-]+)",\s+defines: \[[^\]]*\],\s+breaks: "([a-z_]+)"/g)];
  assert.ok(refutations.length >= 7, `${refutations.length} refutations`);
  for (const [, name, breaks] of refutations) {
    assert.equal(MUTATIONS.find((mutation) => mutation.name === name)?.breaks, breaks, name);
  }
});

it("a mutation that no longer fits the code says so", () => {
  assert.throws(() => edited("walk.js", [{ file: "walk.js", find: /no such code/, replace: "" }]), /matches 0 times/);
  assert.throws(() => edited("walk.js", [{ file: "walk.js", find: /words\./, replace: "" }]), /no longer fits/);
  assert.equal(edited("walk.js", []), readCompiled("walk.js"));
});
