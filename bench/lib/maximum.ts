/** The search for the highest rate that something sustains, by trials that each take seconds. */

export interface Trial {
  /** What was offered a second, and what came of it. */
  readonly offered: number;
  readonly achieved: number;
}

/** What is achieved above this share of what is offered counts as sustained: the rest is what windows leave over. */
const SUSTAINED = 0.95;
/** By which the rate is raised as long as nothing was refused. */
const RAISE = 1.5;

/** To which it falls at most: a trial that overload has made a mess of says little of what will do. */
const FALL_MAX = 1 / 8;

/**
 * Tries `trials` rates, the first of them `start`; returns all trials. The highest rate lies between the highest that was
 * sustained and the lowest that was not, which may be far apart: half-way is their geometric mean. Until something has
 * been sustained, what a saturated trial achieved is the best guess.
 */
export async function searchMaximum<T extends Trial>(
  start: number,
  trials: number,
  attempt: (rate: number) => Promise<T>,
): Promise<T[]> {
  const done: T[] = [];
  let sustained = 0;
  let refused = Number.POSITIVE_INFINITY;
  let rate = start;
  for (let i = 0; i < trials; i++) {
    const trial = await attempt(Math.max(1, Math.round(rate)));
    done.push(trial);
    if (trial.achieved >= trial.offered * SUSTAINED) sustained = Math.max(sustained, trial.offered);
    else refused = Math.min(refused, trial.offered);
    if (refused === Number.POSITIVE_INFINITY) rate = sustained * RAISE;
    else if (sustained === 0) rate = Math.max(trial.achieved, trial.offered * FALL_MAX);
    else rate = Math.sqrt(sustained * refused);
  }
  return done;
}

/** The trial that achieved most. */
export function bestTrial<T extends Trial>(trials: readonly T[]): T {
  return trials.reduce((best, trial) => (trial.achieved > best.achieved ? trial : best));
}
