/**
 * The real walk.js and table.js, one access to shared memory at a time, in every order there is (small scenarios) and in
 * random ones (large). A seed that fails is re-run with NMID_TEST_SEED=n.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, it } from "node:test";
import { DISPATCHER, dispatcherAt } from "./layout.js";
import { exploreAll, exploreRandomly } from "./schedule-explore.test-support.js";
import { ASIDE } from "./schedule-mutations.test-support.js";
import type { Scenario } from "./schedule-scenario.test-support.js";
import {
  type Access,
  accesses,
  loadStepped,
  type SteppedTable,
  type SteppedWalker,
  type Steps,
  stepNames,
} from "./schedule-source.test-support.js";
import { World } from "./schedule-world.test-support.js";
import { HandlerTable, type SlotHandle } from "./table.js";
import { openTable, type TableFixture } from "./table.test-support.js";
import { TableWalker } from "./walk.js";
import type { Doorbell, SharedWords } from "./words.js";

const code = await loadStepped();

describe("the code's steps", () => {
  const model = readFileSync(new URL("../../../model/handler-table.pml", import.meta.url), "utf8");
  const labels = new Set([...model.matchAll(/^([a-z_]+):/gm)].map(([, label]) => label));

  it("have the names that they have in the model", () => {
    // What the removal protocol does not depend on is not in the model.
    const outside = ["mask", "clear_counters", "describe", "show"];
    const unknown = [...stepNames()].filter((name) => !labels.has(name) && !outside.includes(name));
    assert.deepEqual(unknown, []);
  });

  it("are all there", () => {
    const dispatcher = ["pass", "look", "announce", "look_again", "retract", "look_after", "ring", "follow"];
    const claim = ["claim", "reuse", "take", "reserve", "reserve_exchange", "push"];
    const link = ["link_load_head", "link_store_next", "link_exchange_head"];
    const removal = ["begin_removal", "value", "inspect", "wait", "release"];
    const rest = ["activate", "abandon", "supervisor_retract", "supervisor_ring"];
    for (const name of [...dispatcher, ...claim, ...link, ...removal, ...rest]) {
      assert.ok(stepNames().has(name), `no step ${name} in the code`);
      assert.ok(labels.has(name), `no step ${name} in the model`);
    }
  });
});

/** A life of a table on the code as it is: what it answers, and all accesses. */
async function liveAsCompiled(fixture: TableFixture): Promise<unknown[]> {
  const { memory, layout, words } = fixture;
  const done: unknown[] = [];
  const recording: SharedWords = {
    load: (...args) => {
      done.push("load", ...args);
      return words.load(...args);
    },
    // The same to the protocol: a step that reads.
    peek: (...args) => {
      done.push("load", ...args);
      return words.peek(...args);
    },
    store: (...args) => {
      done.push("store", ...args);
      words.store(...args);
    },
    compareExchange: (...args) => {
      done.push("compareExchange", ...args);
      return words.compareExchange(...args);
    },
  };
  let rings = 0;
  const doorbell: Doorbell = {
    ring: () => {
      done.push("ring");
      rings++;
    },
    value: () => {
      done.push("value");
      return rings;
    },
    waitPast: async (value) => {
      done.push("waitPast", value);
      leave(fixture);
    },
  };
  const table = new HandlerTable(memory, layout, doorbell, recording);
  const walker = new TableWalker(recording, layout, 1, doorbell);
  for (const step of LIFE) done.push(await step(table, walker));
  return done;
}

/** The same on the transformed code. */
async function liveStepped(fixture: TableFixture): Promise<unknown[]> {
  const { memory, layout, words } = fixture;
  const done: unknown[] = [];
  let rings = 0;
  const perform = (access: Access): number => {
    switch (access.kind) {
      case "load":
        done.push("load", access.index);
        return words.load(access.index);
      case "store":
        done.push("store", access.index, access.value);
        words.store(access.index, access.value);
        return 0;
      case "compareExchange":
        done.push("compareExchange", access.index, access.expected, access.replacement);
        return words.compareExchange(access.index, access.expected, access.replacement);
      case "ring":
        done.push("ring");
        rings++;
        return 0;
      case "value":
        done.push("value");
        return rings;
      case "waitPast":
        done.push("waitPast", access.value);
        leave(fixture);
        return 0;
      case "local":
      case "death":
      case "checkpoint":
        return 0;
    }
  };
  const run = <T>(steps: Steps<T>): T => {
    let next = steps.next();
    while (!next.done) next = steps.next(perform(next.value));
    return next.value;
  };
  const table = new code.HandlerTable(memory, layout, accesses, accesses);
  const walker = new code.TableWalker(accesses, layout, 1, accesses);
  for (const step of LIFE) done.push(await step(runAll(table, run), runWalker(walker, run)));
  return done;
}

type Table = Pick<HandlerTable, keyof SteppedTable>;
type Run = <T>(steps: Steps<T>) => T;

function runAll(table: SteppedTable, run: Run): Table {
  return {
    claim: () => run(table.claim()),
    setEventMask: (...args) => run(table.setEventMask(...args)),
    activate: (handle) => run(table.activate(handle)),
    abandon: (handle) => run(table.abandon(handle)),
    beginRemoval: (handle) => run(table.beginRemoval(handle)),
    awaitDrained: async (...args) => run(table.awaitDrained(...args)),
    release: (handle) => run(table.release(handle)),
    bury: (d) => run(table.bury(d)),
  };
}

function runWalker(walker: SteppedWalker, run: Run): Pick<TableWalker, "walk"> {
  return {
    walk: (low, high, target) =>
      run(
        walker.walk(low, high, {
          *dispatch(slot, generation) {
            yield { kind: "local", step: "dispatch" };
            target.dispatch(slot, generation);
          },
        }),
      ),
  };
}

/** A dispatcher that somebody waits for leaves. */
function leave({ words, layout }: TableFixture): void {
  words.store((dispatcherAt(layout, 0, 0) + DISPATCHER.RUNNING) / 4, 0);
}

const first: SlotHandle = { slot: 0, generation: 1 };
const second: SlotHandle = { slot: 1, generation: 1 };
const LIFE: ((table: Table, walker: Pick<TableWalker, "walk">) => unknown)[] = [
  (table) => table.claim(),
  (table) => table.setEventMask(first, 1, 2),
  (table) => table.activate(first),
  (table) => table.claim(),
  (table) => table.abandon(second),
  (table) => table.claim(),
  (table) => table.claim(),
  (_table, walker) => walker.walk(1, 0, { dispatch: () => {} }),
  (_table, walker) => walker.walk(2, 1, { dispatch: () => {} }),
  (table, walker) => walker.walk(1, 0, { dispatch: (slot) => table.beginRemoval({ slot, generation: 1 }) }),
  (table) => table.beginRemoval(first),
  (table) => table.awaitDrained(first, 0, () => 1),
  (table) => table.awaitDrained(first, 2, () => 1),
  (table) => table.release(first),
  (table) => table.bury(0),
  (table) => table.claim(),
];

it("the transformed code does what the code does, access by access", async () => {
  const [compiled, stepped] = [openTable(2, 2), openTable(2, 2)];
  for (const fixture of [compiled, stepped]) {
    fixture.words.store((dispatcherAt(fixture.layout, 0, 0) + DISPATCHER.RUNNING) / 4, 1);
  }
  const done = await liveStepped(stepped);
  assert.deepEqual(done, await liveAsCompiled(compiled));
  assert.deepEqual(Buffer.from(stepped.memory), Buffer.from(compiled.memory));
  for (const kind of ["load", "store", "compareExchange", "ring", "value", "waitPast"]) assert.ok(done.includes(kind));
});

const STATES_MAX = 400_000;
const ONE: Scenario = { slots: 1, dispatchers: 1, passes: 2, owners: 1, lives: 2 };

const SMALL: readonly (Scenario & { readonly name: string })[] = [
  { ...ONE, name: "one dispatcher, one owner, three lives", passes: 3, lives: 3 },
  { ...ONE, name: "two dispatchers, one owner", dispatchers: 2, passes: 1, lives: 1 },
  { ...ONE, name: "two dispatchers, one owner, two lives", dispatchers: 2, passes: 1, merged: ASIDE },
  { ...ONE, name: "one dispatcher, two owners, two slots", slots: 2, passes: 1, owners: 2, lives: 1 },
  { ...ONE, name: "one dispatcher, two owners, one slot", owners: 2, lives: 1 },
  { ...ONE, name: "one dispatcher, two owners, one slot, two lives", passes: 1, owners: 2, merged: ASIDE },
  {
    ...ONE,
    name: "a handler that stays, a registration that is given up",
    slots: 2,
    passes: 1,
    owners: 2,
    lives: 1,
    keepers: 1,
    quitters: 1,
  },
  { ...ONE, name: "a dispatcher that dies anywhere", deaths: 1 },
  { ...ONE, name: "deadlines that pass", deadlines: 2 },
  { ...ONE, name: "a dispatcher that dies, a deadline that passes", deaths: 1, deadlines: 1, merged: ASIDE },
  { ...ONE, name: "store buffers: one dispatcher, one owner", tso: true },
  { ...ONE, name: "store buffers: two dispatchers, one owner", tso: true, dispatchers: 2, passes: 1, lives: 1 },
];

describe("every schedule holds", () => {
  for (const { name, ...scenario } of SMALL) {
    it(name, (t) => {
      const { states, schedules, violation, story } = exploreAll(code, scenario, STATES_MAX);
      assert.equal(violation, null, `${violation?.message}\n${story.join("\n")}`);
      assert.ok(schedules > 50, `${schedules} schedules came to an end`);
      t.diagnostic(`${states} states`);
    });
  }
});

const SEEDS = process.env.NMID_TEST_SEED
  ? [Number(process.env.NMID_TEST_SEED)]
  : Array.from({ length: 4000 }, (_, seed) => seed);

const LARGE: readonly (Scenario & { readonly name: string })[] = [
  { name: "more owners than slots", slots: 2, dispatchers: 2, passes: 6, owners: 4, lives: 4 },
  {
    name: "dispatchers that die, deadlines that pass, handlers that stay",
    slots: 4,
    dispatchers: 3,
    passes: 6,
    owners: 4,
    lives: 4,
    deaths: 2,
    deadlines: 3,
    keepers: 1,
    quitters: 2,
  },
  { name: "store buffers", slots: 3, dispatchers: 3, passes: 5, owners: 3, lives: 4, tso: true },
];

describe("random schedules hold", () => {
  for (const { name, ...scenario } of LARGE) {
    it(name, (t) => {
      const world = new World(code, scenario);
      let steps = 0;
      for (const seed of SEEDS) {
        const { states, violation, story } = exploreRandomly(world, seed);
        assert.equal(violation, null, `NMID_TEST_SEED=${seed}: ${violation?.message}\n${story.join("\n")}`);
        steps += states;
      }
      t.diagnostic(`${SEEDS.length} schedules, ${steps} steps`);
    });
  }
});
