/**
 * The daemon checks its own books, always: an event's when it is retired, a handler's when it ends. Both sides of each
 * sum are counted by different hands, so a sample that is dropped or counted twice on the way shows.
 */
import type { Books } from "../delivery/books.js";

/** Both kinds of books; docs/books.md says how they hang together. */
export type BooksKind = "event" | "handler";
export const BOOKS_KINDS: readonly BooksKind[] = ["event", "handler"];

export interface EventAccount {
  readonly name: string;
  /** By the producer; null where it does not count. */
  readonly produced: number | null;
  /** By the dispatchers, samples nobody claimed included. */
  readonly drained: number;
  /** By the producer, of those that fitted no ring; null where it does not count. */
  readonly lost: number | null;
}

export class BooksAudit {
  readonly unbalanced: Record<BooksKind, number> = { event: 0, handler: 0 };
  readonly #report: (message: string, fields: Record<string, unknown>) => void;

  /** `report` is told of each mismatch, with both sides. */
  constructor(report: (message: string, fields: Record<string, unknown>) => void) {
    this.#report = report;
  }

  get total(): number {
    return this.unbalanced.event + this.unbalanced.handler;
  }

  /** Of an event that is disabled and whose rings are drained. */
  checkEvent({ name, produced, drained, lost }: EventAccount): void {
    if (produced === null || produced === drained + (lost ?? 0)) return;
    this.unbalanced.event++;
    this.#report("books of an event do not balance", { event: name, produced, drained, lost });
  }

  /** Of a handler that has ended. */
  checkHandler(handler: number, name: string, books: Books): void {
    const problems = handlerProblems(books);
    if (problems.length === 0) return;
    this.unbalanced.handler++;
    this.#report("books of a handler do not balance", { handler, name, problems, books });
  }
}

/** What is wrong with final books, both sides of each sum; empty when they balance. */
function handlerProblems(books: Books): string[] {
  const problems: string[] = [];
  const expect = (what: string, left: number, right: number): void => {
    if (left !== right) problems.push(`${what}: ${left} != ${right}`);
  };
  expect("matched = delivered + lost", books.matched, books.delivered + books.lost);
  expect("last sequence number = matched", books.sequence, books.matched);
  const byReason = books.losses.reduce((sum, { count }) => sum + count, 0);
  expect("losses by reason = lost", byReason, books.lost);
  for (const [i, event] of books.events.entries()) {
    expect(`event ${i}: matched = delivered + lost`, event.matched, event.delivered + event.lost);
    const period = event.periodDelivered + event.periodLost;
    // Doubles that were added up in different orders agree for as long as they are exact.
    if (event.periodMatched > Number.MAX_SAFE_INTEGER) continue;
    expect(`event ${i}: period matched = delivered + lost`, event.periodMatched, period);
  }
  return problems;
}
