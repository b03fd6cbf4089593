/** For tests: which schedules a world is led down. */
import { Violation } from "./schedule-oracle.test-support.js";
import { isMishap, participantOf, type Scenario } from "./schedule-scenario.test-support.js";
import type { SteppedCode } from "./schedule-source.test-support.js";
import { World } from "./schedule-world.test-support.js";

export interface Explored {
  readonly states: number;
  readonly schedules: number;
  /** null when every property held. */
  readonly violation: Violation | null;
  /** What led to the violation, one access a line. */
  readonly story: readonly string[];
}

/** A schedule: a choice behind another schedule. */
interface Schedule {
  readonly before: Schedule | null;
  readonly choice: number;
}

function choicesOf(schedule: Schedule | null): number[] {
  const choices: number[] = [];
  for (let at = schedule; at !== null; at = at.before) choices.push(at.choice);
  return choices.reverse();
}

/** What led to a violation, told by going there again. */
function retell(world: World, schedule: readonly number[]): readonly string[] {
  world.reset(true);
  try {
    for (const choice of schedule) world.step(choice);
  } catch (error) {
    if (!(error instanceof Violation)) throw error;
  }
  return world.story;
}

/**
 * Goes down every schedule there is, but for those that come to a state where another has been. With `shortest` the
 * violation that is found is one of the shortest, which takes longer when there is none.
 *
 * A generator cannot be copied: where schedules part, all but one are replayed from the start.
 */
export function exploreAll(code: SteppedCode, scenario: Scenario, statesMax: number, shortest = false): Explored {
  const world = new World(code, scenario);
  const seen = new Set<string>();
  const open: (Schedule | null)[] = [null];
  let schedules = 0;
  for (let head = 0; shortest ? head < open.length : open.length > 0; ) {
    let schedule = (shortest ? open[head++] : open.pop()) ?? null;
    world.reset();
    try {
      for (const choice of choicesOf(schedule)) world.step(choice);
      for (;;) {
        const state = world.fingerprint();
        if (seen.has(state)) break;
        seen.add(state);
        if (seen.size > statesMax) throw new Error(`more than ${statesMax} states: choose a smaller scenario`);
        const choices = world.choices();
        // Mishaps need not happen: what ends without one must end well.
        if (choices.every(isMishap)) {
          world.checkEnd();
          schedules++;
        }
        const behind = choices.map((choice): Schedule => ({ before: schedule, choice }));
        const next = shortest ? undefined : behind.shift();
        open.push(...behind);
        if (next === undefined) break;
        schedule = next;
        world.step(next.choice);
      }
    } catch (error) {
      if (!(error instanceof Violation)) throw error;
      return { states: seen.size, schedules, violation: error, story: retell(world, choicesOf(schedule)) };
    }
  }
  return { states: seen.size, schedules, violation: null, story: [] };
}

/** mulberry32: uniform in [0, 1), the same for the same seed. */
export function randomFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** How likely a participant that has just moved moves on: an even mix now, long stretches then. */
const STICKINESS = [0, 0.5, 0.9, 0.97];
const MISHAP_CHANCE = 0.02;

/** One schedule that `seed` makes up. */
export function exploreRandomly(world: World, seed: number): Explored {
  const random = randomFrom(seed);
  const pick = (from: readonly number[]): number => from[Math.floor(random() * from.length)];
  const stickiness = pick(STICKINESS);
  const schedule: number[] = [];
  world.reset();
  try {
    for (let last = -1; ; ) {
      const choices = world.choices();
      const moves = choices.filter((choice) => !isMishap(choice));
      if (moves.length === 0) break;
      const mishaps = choices.length > moves.length && random() < MISHAP_CHANCE;
      const mine = moves.filter((choice) => participantOf(choice) === last);
      const choice = pick(mishaps ? choices.filter(isMishap) : mine.length > 0 && random() < stickiness ? mine : moves);
      last = participantOf(choice);
      schedule.push(choice);
      world.step(choice);
    }
    world.checkEnd();
  } catch (error) {
    if (!(error instanceof Violation)) throw error;
    return { states: schedule.length, schedules: 1, violation: error, story: retell(world, schedule) };
  }
  return { states: schedule.length, schedules: 1, violation: null, story: [] };
}
