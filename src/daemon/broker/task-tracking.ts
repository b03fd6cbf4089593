/**
 * The source's task records, open while a handler wants them: one opening for all, with context switches as long as one
 * handler asked for those.
 */
import type { OpenTasks, Source, TaskShape } from "../../pmu/source.js";
import type { Control } from "../dispatch/messages.js";
import type { Handler } from "./handler.js";

export interface TaskTrackingOptions {
  readonly source: Pick<Source, "openTasks">;
  readonly tellAll: (control: Control) => Promise<void>;
  /** Records of any type that did not fit into the rings, as the dispatchers read of; for kernels that say no more. */
  readonly lostRecords: () => number;
  /** The records could not be had with fewer of them for those who stay. */
  readonly onProblem: (error: Error) => void;
}

export class TaskTracking {
  readonly #options: TaskTrackingOptions;
  /** As often as it was acquired. */
  readonly #users: TaskShape[] = [];
  #open: { readonly tasks: OpenTasks; readonly contextSwitches: boolean } | null = null;
  /** Of the opening, as of the last poll. */
  #lostSeen = 0;
  #recordsSeen = 0;
  #last: Promise<unknown> = Promise.resolve();
  /** Task records that were lost, by the kernel or for want of room in a handler's queue. */
  lost = 0;

  constructor(options: TaskTrackingOptions) {
    this.#options = options;
  }

  /** The records flow when it resolves. Rejects with PmuError, and nothing is changed. */
  acquire(shape: TaskShape): Promise<void> {
    return this.#inTurn(async () => {
      this.#users.push(shape);
      try {
        await this.#adapt();
      } catch (error) {
        this.#remove(shape);
        throw error;
      }
    });
  }

  release(shape: TaskShape): Promise<void> {
    return this.#inTurn(async () => {
      this.#remove(shape);
      await this.#adapt().catch((error: Error) => this.#options.onProblem(error));
    });
  }

  #remove(shape: TaskShape): void {
    const at = this.#users.findIndex(({ contextSwitches }) => contextSwitches === shape.contextSwitches);
    if (at >= 0) this.#users.splice(at, 1);
  }

  /** The new opening begins before the old one ends: a record may come twice, none is missed. */
  async #adapt(): Promise<void> {
    const contextSwitches = this.#users.some((user) => user.contextSwitches);
    const isWanted = this.#users.length > 0;
    const before = this.#open;
    if (isWanted ? before?.contextSwitches === contextSwitches : before === null) return;
    if (isWanted) {
      const tasks = this.#options.source.openTasks({ contextSwitches });
      await this.#options.tellAll({ kind: "add tasks", formats: tasks.formats });
      tasks.enable();
      this.#open = { tasks, contextSwitches };
      this.#lostSeen = 0;
      if (before === null) this.#recordsSeen = this.#options.lostRecords();
    } else this.#open = null;
    if (before === null) return;
    before.tasks.disable();
    await this.#options.tellAll({ kind: "remove tasks", formats: before.tasks.formats });
    before.tasks.close();
  }

  /** Tells the handlers of what the kernel has lost since the last look. */
  poll(handlers: readonly Handler[]): void {
    if (this.#open === null) return;
    const fresh = this.#freshLosses(this.#open.tasks);
    if (fresh <= 0) return;
    this.lost += fresh;
    for (const { delivery } of handlers) delivery.tasksLost(fresh);
  }

  #freshLosses(tasks: OpenTasks): number {
    const lost = tasks.readLost();
    if (lost !== null) {
      const fresh = lost - this.#lostSeen;
      this.#lostSeen = lost;
      return fresh;
    }
    // Nobody says of which type they were: as many as that at most.
    const records = this.#options.lostRecords();
    const fresh = records - this.#recordsSeen;
    this.#recordsSeen = records;
    return fresh;
  }

  /** A step of others', between two of its own: the opening stays as it is meanwhile. */
  inTurn<T>(step: (open: OpenTasks | null) => Promise<T>): Promise<T> {
    return this.#inTurn(() => step(this.#open?.tasks ?? null));
  }

  #inTurn<T>(step: () => Promise<T>): Promise<T> {
    const result = this.#last.then(step);
    this.#last = result.catch(() => undefined);
    return result;
  }
}
