/**
 * What keeps the number of series bounded where labels are names that clients choose: so many names within an hour have
 * series of their own, and what comes on top is summed. A time series database keeps what it has seen for hours after it
 * is gone, so a bound of what is there at once would not do.
 */
import type { NsClock } from "../clock.js";

/** Label of what has no series of its own. */
export const OTHERS = "(others)";

/** A name that is gone keeps its place for so long: whoever comes back finds its series. */
const KEPT_NS = 3_600_000_000_000;

/** Which names have series of their own: those seen first, up to `max` within an hour. */
export class NameBudget {
  readonly #max: number;
  readonly #now: NsClock;
  /** When it was last seen. */
  readonly #seenNs = new Map<string, number>();

  constructor(max: number, now: NsClock) {
    this.#max = max;
    this.#now = now;
  }

  /** These names are there now. */
  look(names: Iterable<string>): void {
    const nowNs = this.#now();
    for (const [name, seenNs] of this.#seenNs) if (nowNs - seenNs > KEPT_NS) this.#seenNs.delete(name);
    for (const name of names) {
      if (this.#seenNs.has(name) || this.#seenNs.size < this.#max) this.#seenNs.set(name, nowNs);
    }
  }

  has(name: string): boolean {
    return this.#seenNs.has(name);
  }
}

export interface RestOptions<Row> {
  /** Whether the second counts on from the first; false where the counters have begun anew. */
  readonly isContinued: (before: Row, now: Row) => boolean;
  readonly none: Row;
  /** The labels are those of `none`. */
  readonly merge: (a: Row, b: Row) => Row;
  /** What remains of a row that is gone: its gauges are nothing any more. */
  readonly countersOf: (row: Row) => Row;
}

/** The sum of those without series of their own. Its counters never fall, although those it sums up come and go. */
export class Rest<Row> {
  readonly #options: RestOptions<Row>;
  #last: ReadonlyMap<string | number, Row> = new Map();
  #gone: Row | null = null;

  constructor(options: RestOptions<Row>) {
    this.#options = options;
  }

  /** `rows` by what tells one from the next; null as long as there has never been any. */
  row(rows: ReadonlyMap<string | number, Row>): Row | null {
    const { none, isContinued, merge, countersOf } = this.#options;
    for (const [key, before] of this.#last) {
      const now = rows.get(key);
      if (now !== undefined && isContinued(before, now)) continue;
      this.#gone = merge(this.#gone ?? none, countersOf(before));
    }
    this.#last = new Map(rows);
    let sum = this.#gone;
    for (const row of rows.values()) sum = merge(sum ?? none, row);
    return sum;
  }
}
