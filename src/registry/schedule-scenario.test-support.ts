/** For tests: who takes part in a schedule, and what it may choose from. */
import type { Access, Steps } from "./schedule-source.test-support.js";

/** Who takes part, and how much they do. */
export interface Scenario {
  readonly slots: number;
  readonly dispatchers: number;
  /** Walks by each dispatcher. */
  readonly passes: number;
  /** Threads that register a handler and remove it, `lives` times each. */
  readonly owners: number;
  readonly lives: number;
  /** So many owners never remove their last handler. */
  readonly keepers?: number;
  /** So many owners give up their first registration in CLAIMED. */
  readonly quitters?: number;
  /** Dispatchers that may die anywhere. */
  readonly deaths?: number;
  /** Removals whose deadline may pass while they wait; they are tried again. */
  readonly deadlines?: number;
  /** Stores go through store buffers, as on x86. */
  readonly tso?: boolean;
  /**
   * Steps at which nobody else gets a turn. Only without store buffers, and for accesses that the removal protocol does
   * not depend on (masks, links, counters): smaller scenarios look behind those as well.
   */
  readonly merged?: readonly string[];
  /** The supervisor takes a dispatcher for dead that still runs: what must not be. */
  readonly buriesTheLiving?: boolean;
  /** To see what else breaks: a slot that is reused while a dispatcher is inside it is let pass. */
  readonly toleratesReuse?: boolean;
}

/** What the schedule may choose: an action of a participant, as one number. */
export const ACTION = { STEP: 0, FLUSH: 1, TIMEOUT: 2, KILL: 3 } as const;
export const PARTICIPANTS_MAX = 32;

export function participantOf(choice: number): number {
  return choice % PARTICIPANTS_MAX;
}

/** Whether the choice is a mishap: something that need not happen. */
export function isMishap(choice: number): boolean {
  return choice >= ACTION.TIMEOUT * PARTICIPANTS_MAX;
}

/** A participant's past, interned: two with the same past are in the same state, since the code is deterministic. */
export class Past {
  readonly id: number;
  readonly #futures = new Map<number | string, Past>();
  readonly #count: { pasts: number };

  constructor(count: { pasts: number }) {
    this.#count = count;
    this.id = count.pasts++;
  }

  followedBy(result: number | string): Past {
    let future = this.#futures.get(result);
    if (future === undefined) {
      future = new Past(this.#count);
      this.#futures.set(result, future);
    }
    return future;
  }
}

export interface Participant {
  readonly name: string;
  readonly start: () => Steps<void>;
  steps: Steps<void>;
  pending: Access | null;
  past: Past;
  /** Stores on their way to memory, oldest first: index, value, index, value… */
  readonly buffer: number[];
  /** The store is in the buffer; what is left of it is to wait until the buffer is empty. */
  fencing: boolean;
  /** For a clock of its own: 0, or 1 once the deadline has passed. */
  nowMs: number;
  /** Lives of dispatchers: a dead one starts again. */
  born: number;
}
