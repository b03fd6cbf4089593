/** Keeps what the next daemon needs of each handler, from its registration to its removal. */
import type { Handler } from "../broker/handler.js";
import { wireCount } from "../broker/messages.js";
import type { CarriedBooks } from "../delivery/carried-books.js";
import { SettledBooks } from "../delivery/settled-books.js";
import type { BooksFile } from "./books-file.js";
import { type SavedHandler, STATE_VERSION } from "./saved-handler.js";
import type { Report, StateFiles } from "./state-files.js";

export interface LeftHandler {
  readonly everSubscribed: boolean;
  /** CLOCK_MONOTONIC */
  readonly leaseEndsNs: number;
  /** Since when nobody counts its events. */
  readonly stoppedNs: number;
  readonly carried: CarriedBooks;
}

/** As the broker calls it, on the main thread. Nothing here throws: a handler that cannot be kept is served all the same. */
export interface Records {
  /** Where the slot's handler keeps what its streams have taken. */
  books(slot: number): SettledBooks;
  /** It is about to be answered, or has come back. */
  registered(handler: Handler): void;
  /** It has a stream (0), or is without one until then. */
  lease(handler: Handler, endsNs: number): void;
  /** It is to go on in the next daemon. */
  suspended(handler: Handler, left: LeftHandler): void;
  removed(slot: number): void;
}

/** No daemon comes after this one. */
export const NO_RECORDS: Records = {
  books: () => new SettledBooks(),
  registered() {},
  lease() {},
  suspended() {},
  removed() {},
};

export interface RecordsContext {
  readonly bootId: string;
  readonly source: { readonly kind: string; readonly clock: string };
  readonly now: () => number;
  readonly report: Report;
}

export class HandlerRecords implements Records {
  readonly #files: StateFiles;
  readonly #books: BooksFile;
  readonly #context: RecordsContext;
  readonly #saved = new Map<number, SavedHandler>();

  constructor(files: StateFiles, books: BooksFile, context: RecordsContext) {
    this.#files = files;
    this.#books = books;
    this.#context = context;
  }

  books(slot: number): SettledBooks {
    return this.#books.row(slot);
  }

  registered(handler: Handler): void {
    const { bootId, source, now } = this.#context;
    const { handle, peer, registeredAt, spec, principal, registrant, visibility } = handler;
    const saved: SavedHandler = {
      version: STATE_VERSION,
      bootId,
      ...handle,
      peer,
      terms: { principal, registrant, visibility } as SavedHandler["terms"],
      registeredAt,
      activeNs: now(),
      source: { kind: source.kind, clock: source.clock },
      events: wireCount(spec.events),
      leaseMs: spec.leaseMs,
      // Readonly here, and as zod has it there.
      request: spec.request as SavedHandler["request"],
      left: null,
    };
    this.#saved.set(handle.slot, saved);
    this.#attempt("a handler could not be kept for a restart of the daemon", handler.id, () =>
      this.#files.writeHandler(saved),
    );
  }

  lease({ handle, everSubscribed }: Handler, endsNs: number): void {
    const row = this.#books.row(handle.slot);
    row.everSubscribed = everSubscribed;
    row.leaseEndsNs = endsNs;
  }

  suspended(handler: Handler, left: LeftHandler): void {
    const saved = this.#saved.get(handler.handle.slot);
    if (saved === undefined) return;
    this.#attempt("a handler could not be left for the next daemon", handler.id, () =>
      this.#files.writeHandler({ ...saved, left: savedLeft(left) }),
    );
  }

  removed(slot: number): void {
    this.#saved.delete(slot);
    this.#attempt("what was kept of a handler could not be removed", slot, () => this.#files.removeHandler(slot));
    this.#books.row(slot).clear();
  }

  #attempt(what: string, handler: number, step: () => void): void {
    try {
      step();
    } catch (error) {
      this.#context.report(what, { handler, error: (error as Error).message });
    }
  }
}

/** zod's arrays are not readonly. */
export function savedLeft({
  everSubscribed,
  leaseEndsNs,
  stoppedNs,
  carried,
}: LeftHandler): NonNullable<SavedHandler["left"]> {
  return {
    everSubscribed,
    leaseEndsNs,
    stoppedNs,
    carried: {
      settled: carried.settled.map(({ lost, ...event }) => ({ ...event, lost: [...lost] })),
      untold: [...carried.untold],
      gaps: [...carried.gaps],
    },
  };
}
