/**
 * For tests: the model's refuted variants as edits of the compiled code. Each is a mistake that somebody could make, and
 * the properties that it breaks are the ones that the model says.
 */
import type { Property } from "./schedule-oracle.test-support.js";
import type { Scenario } from "./schedule-scenario.test-support.js";
import type { Edit } from "./schedule-source.test-support.js";

export interface Mutation {
  /** As in scripts/model.mjs, where the model has the same. */
  readonly name: string;
  readonly why: string;
  readonly edits: readonly Edit[];
  readonly scenario: Scenario;
  /** null: holds all the same. */
  readonly breaks: Property | null;
}

const SMALLEST: Scenario = { slots: 1, dispatchers: 1, passes: 1, owners: 1, lives: 1 };
const TWO_LIVES: Scenario = { ...SMALLEST, lives: 2 };
const TWO_OWNERS: Scenario = { ...SMALLEST, owners: 2 };
/** Owners among themselves. */
const REGISTRARS: Scenario = { ...TWO_OWNERS, slots: 2, passes: 0 };
/** What the removal protocol does not depend on, for scenarios that are too large with it. */
export const ASIDE: readonly string[] = ["mask", "follow", "clear_counters"];

const dispatchUnlookedAt: Edit = {
  file: "walk.js",
  find: /if \(words\.load\(base \+ SLOT\.STATE \/ 4\) === state\)\s+target/,
  replace: "target",
};
const resetInClaimed: Edit = {
  file: "table.js",
  find: /at \+ DISPATCHER\.DISPATCHES,/,
  replace: "at + DISPATCHER.RUNNING,",
};
const freeBeforeDrained: readonly Edit[] = [
  {
    file: "table.js",
    find: /const draining = packState\(handle\.generation, STATE\.DRAINING\);/,
    replace: "const draining = packState(handle.generation, STATE.FREE);",
  },
  {
    file: "table.js",
    find: /this\.#move\(handle, STATE\.DRAINING, STATE\.FREE\);/,
    replace: "// release: too late.\n        this.#words.load(this.#base(handle.slot));",
  },
  // The seed's remover polls; here somebody must ring.
  { file: "walk.js", find: /& STATE_MASK\) === STATE\.DRAINING\)/, replace: "& STATE_MASK) !== STATE.ACTIVE)" },
];
const anyGeneration: Edit = {
  file: "walk.js",
  find: /\(words\.load\(base \+ SLOT\.STATE \/ 4\) === state\)/,
  replace: "((words.load(base + SLOT.STATE / 4) & STATE_MASK) === STATE.ACTIVE)",
};

export const MUTATIONS: readonly Mutation[] = [
  {
    name: "seed-order",
    why: "the handler is looked up, then announced, and not looked at again",
    edits: [dispatchUnlookedAt],
    scenario: SMALLEST,
    breaks: "dispatch_after_removal",
  },
  {
    name: "reset-running-on-reuse",
    why: "a new owner clears `running` once its handler is live, as the seed does",
    edits: [
      {
        file: "table.js",
        find: /this\.#move\(handle, STATE\.CLAIMED, STATE\.ACTIVE\);/,
        replace: `this.#move(handle, STATE.CLAIMED, STATE.ACTIVE);
        for (let d = 0; d < this.layout.dispatchers; d++) {
            // reset: not in the protocol.
            this.#words.store((dispatcherAt(this.layout, handle.slot, d) + DISPATCHER.RUNNING) / 4, 0);
        }`,
      },
    ],
    scenario: TWO_LIVES,
    breaks: "dispatch_after_removal",
  },
  {
    name: "reset-in-claimed",
    why:
      "`running` is cleared before the slot is live again: the one that may be announced then looked at an earlier " +
      "generation, and its second look turns it away",
    edits: [resetInClaimed],
    scenario: { ...TWO_LIVES, lives: 3, passes: 2 },
    breaks: null,
  },
  {
    name: "reset-in-claimed-any-generation",
    why: "nothing turns the late announcer away any more, and its announcement was cleared",
    edits: [
      resetInClaimed,
      anyGeneration,
      // As the handler that is live now, so that only its lost announcement can be held against it.
      {
        file: "walk.js",
        find: /target\.dispatch\(slot, generationOf\(state\)\)/,
        replace: "target.dispatch(slot, generationOf(words.load(base + SLOT.STATE / 4)))",
      },
    ],
    scenario: TWO_LIVES,
    breaks: "dispatch_after_removal",
  },
  {
    name: "free-before-drained",
    why: "a removal gives the slot away, then waits",
    edits: freeBeforeDrained,
    scenario: TWO_OWNERS,
    breaks: "slot_reused_while_inside",
  },
  {
    name: "seed-reuse",
    why: "the slot is given away before it drained, and `running` cleared for the next owner",
    edits: [...freeBeforeDrained, resetInClaimed],
    scenario: { ...TWO_OWNERS, toleratesReuse: true },
    breaks: "dispatch_after_removal",
  },
  {
    name: "notify-before-clear",
    why: "the bell rings while the dispatcher is still announced",
    edits: [
      { file: "walk.js", find: /words\.store\(running, 0\);/, replace: "" },
      {
        file: "walk.js",
        find: /this\.#doorbell\.ring\(\);/,
        replace: "this.#doorbell.ring();\n        words.store(running, 0);",
      },
    ],
    scenario: SMALLEST,
    breaks: "lost_wakeup",
  },
  {
    name: "plain-announce",
    why: "the announcement may still be in the store buffer when the second look is over",
    edits: [{ file: "walk.js", find: /words\.store\(running, 1\)/, replace: "words.storePlain(running, 1)" }],
    scenario: { ...SMALLEST, tso: true },
    breaks: "dispatch_after_removal",
  },
  {
    name: "plain-retract",
    why: "the retraction may still be in the store buffer when the dispatcher looks for somebody to wake",
    edits: [{ file: "walk.js", find: /words\.store\(running, 0\)/, replace: "words.storePlain(running, 0)" }],
    scenario: { ...SMALLEST, tso: true },
    breaks: "lost_wakeup",
  },
  {
    name: "value-after-look",
    why: "a bell that rings between the inspection and the reading of its value is missed",
    edits: [
      { file: "table.js", find: /const value = this\.#doorbell\.value\(\);/, replace: "" },
      {
        file: "table.js",
        find: /const left = deadlineMs - now\(\);/,
        replace: "const value = this.#doorbell.value();\n            const left = deadlineMs - now();",
      },
    ],
    scenario: SMALLEST,
    breaks: "lost_wakeup",
  },
  {
    name: "no-generation",
    why: "the second look asks for any ACTIVE handler in the slot",
    edits: [anyGeneration],
    scenario: TWO_LIVES,
    breaks: "dispatch_after_removal",
  },
  {
    name: "retract-while-alive",
    why: "a dispatcher's announcements are retracted while its thread still runs",
    edits: [],
    scenario: { ...SMALLEST, deaths: 1, buriesTheLiving: true },
    breaks: "dispatch_after_removal",
  },
  {
    name: "silent-supervisor",
    why: "nobody tells the removals that waited for the dispatcher that died",
    edits: [{ file: "table.js", find: /this\.#doorbell\.ring\(\);/, replace: "" }],
    scenario: { ...SMALLEST, deaths: 1 },
    breaks: "lost_wakeup",
  },
  {
    name: "take-by-store",
    why: "two registrars see the same slot FREE and both take it",
    edits: [
      {
        file: "table.js",
        find: /words\.compareExchange\((base \+ SLOT\.STATE \/ 4), state, (packState\(generation, STATE\.CLAIMED\))\) === state/,
        replace: "(words.store(base + SLOT.STATE / 4, packState(generation, STATE.CLAIMED)), true)",
      },
    ],
    scenario: { ...REGISTRARS, slots: 1, lives: 2 },
    breaks: "slot_owned_twice",
  },
  {
    name: "reserve-by-store",
    why: "two registrars see the same high-water mark and both push that slot",
    edits: [
      {
        file: "table.js",
        find: /const seen = words\.compareExchange\(highWater, slot, slot \+ 1\);/,
        replace: "const seen = slot; words.store(highWater, slot + 1);",
      },
    ],
    scenario: REGISTRARS,
    breaks: "slot_owned_twice",
  },
  {
    name: "link-by-store",
    why: "of two slots that are linked at once, one is forgotten",
    edits: [
      {
        file: "table.js",
        find: /const seen = words\.compareExchange\(head, first, slot \+ 1\);/,
        replace: "const seen = first; words.store(head, slot + 1);",
      },
    ],
    scenario: REGISTRARS,
    breaks: "list_broken",
  },
  {
    name: "head-before-next",
    why: "for a moment the list ends at the new slot",
    edits: [
      { file: "table.js", find: /words\.store\(base \+ SLOT\.NEXT \/ 4, first\);/, replace: "" },
      {
        file: "table.js",
        find: /if \(seen === first\)\s+return \{ slot, generation \};/,
        replace: "if (seen === first) { words.store(base + SLOT.NEXT / 4, first); return { slot, generation }; }",
      },
    ],
    scenario: REGISTRARS,
    breaks: "list_broken",
  },
  {
    name: "first-claimer",
    why: "the walk ends at the first handler that took the batch",
    edits: [
      {
        file: "walk.js",
        find: /this\.#offer\(slot, base, state, target\);/,
        replace: "{ this.#offer(slot, base, state, target); return; }",
      },
    ],
    scenario: { ...TWO_OWNERS, slots: 2, merged: ASIDE },
    breaks: "registration_lost",
  },
  {
    name: "counters-not-cleared",
    why: "a handler starts with the counts of the one before it",
    edits: [{ file: "table.js", find: /this\.#clearCounters\(slot\);/, replace: "" }],
    scenario: TWO_LIVES,
    breaks: "count_wrong",
  },
];
