/**
 * What a handler's stream must know of tasks: a snapshot before its first sample, and another one to make up for task
 * records that were lost.
 */
import type { LossReason } from "./books.js";
import type { DeliveryOptions } from "./delivery-options.js";
import type { Losses } from "./losses.js";
import type { WireMessage } from "./message.js";
import { REFUSAL, REFUSAL_REASONS } from "./outbox.js";
import { SnapshotFeed } from "./snapshot-feed.js";

/** Snapshots that make up for lost task records: who loses them all the time is not helped by more. */
const RESYNC_INTERVAL_NS = 5_000_000_000;

export class TaskStream {
  readonly #options: Pick<DeliveryOptions, "snapshot" | "readers" | "now" | "onTasksLost">;
  readonly #losses: Losses;
  readonly #onReady: () => void;
  #snapshot: SnapshotFeed | null = null;
  #snapshotAtNs = 0;
  /** Task records were lost: the stream needs another snapshot. */
  #isOutOfSync = false;
  /** Of those that dispatchers could not queue, by refusal. */
  readonly #lostSeen = Object.values(REFUSAL).map(() => 0);

  /** `onReady` is called when there is something for `takeSnapshot` that there was not. */
  constructor(
    options: Pick<DeliveryOptions, "snapshot" | "readers" | "now" | "onTasksLost">,
    losses: Losses,
    onReady: () => void,
  ) {
    this.#options = options;
    this.#losses = losses;
    this.#onReady = onReady;
  }

  /** Of a handler that wants task records. */
  beginSnapshot(): void {
    const { snapshot, now } = this.#options;
    if (snapshot === null) return;
    this.cancelSnapshot();
    this.#isOutOfSync = false;
    this.#snapshotAtNs = now();
    this.#snapshot = new SnapshotFeed(snapshot(), this.#onReady);
  }

  cancelSnapshot(): void {
    this.#snapshot?.cancel();
    this.#snapshot = null;
  }

  /** Begins another snapshot where records were lost, and the last one is old enough. */
  resync(): void {
    if (this.#isOutOfSync && this.#options.now() >= this.#snapshotAtNs + RESYNC_INTERVAL_NS) this.beginSnapshot();
  }

  /** Everything else waits while it lasts. */
  get isInSnapshot(): boolean {
    return this.#snapshot !== null;
  }

  /** The next message of the snapshot; null while it is being made, and when there are no more, which ends it. */
  takeSnapshot(): WireMessage | null {
    const next = this.#snapshot?.take() ?? null;
    if (next === null && this.#snapshot?.isDone) this.#snapshot = null;
    return next;
  }

  /** The kernel had no room for so many task records; false when the handler wants none. */
  loseInKernel(count: number): boolean {
    if (this.#options.snapshot === null) return false;
    this.#noteLost("KERNEL", count);
    return true;
  }

  /** Looks for task records that dispatchers could not queue. */
  noticeLost(): void {
    for (const refusal of Object.values(REFUSAL)) {
      const lost = this.#options.readers.reduce((sum, reader) => sum + reader.tasksLost(refusal), 0);
      this.lose(REFUSAL_REASONS[refusal], lost - this.#lostSeen[refusal]);
      this.#lostSeen[refusal] = lost;
    }
  }

  lose(reason: LossReason, count: number): void {
    if (count === 0) return;
    this.#options.onTasksLost(count);
    this.#noteLost(reason, count);
  }

  #noteLost(reason: LossReason, count: number): void {
    this.#isOutOfSync = true;
    this.#losses.noteGap(0, reason, count, "tasks");
  }
}
