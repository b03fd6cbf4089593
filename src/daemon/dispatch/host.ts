/** The main thread's end of the dispatcher threads: starts them, tells them, waits for their answers, stops them. */
import { Worker } from "node:worker_threads";
import { closeFd, eventfd, signalEventfd } from "../../pmu/ffi.js";
import type { RingDescriptor } from "../../pmu/source.js";
import type { Answer, Control, DispatcherSetup, Request } from "./messages.js";
import { DispatcherStats } from "./stats.js";

export interface HostOptions {
  readonly tableAddress: bigint;
  readonly tableBytes: number;
  readonly capacity: number;
  readonly dispatchers: number;
  readonly rings: readonly RingDescriptor[];
  readonly clockIsMonotonic: boolean;
  readonly removalBell: SharedArrayBuffer;
  readonly deliveryBell: SharedArrayBuffer;
  /** A dispatcher died: nothing it owed will come. */
  readonly onFailure: (index: number, error: Error) => void;
}

class DispatcherThread {
  readonly cpus: readonly number[];
  readonly stats = new DispatcherStats();
  readonly dirty: Int32Array;
  readonly #worker: Worker;
  readonly #controlFd = eventfd();
  readonly #waiting = new Map<number, () => void>();
  readonly #exited: Promise<void>;
  #sequence = 0;
  #stopping = false;

  constructor(index: number, rings: readonly RingDescriptor[], options: HostOptions) {
    this.cpus = rings.map((ring) => ring.cpu);
    const dirty = new SharedArrayBuffer(Math.ceil(options.capacity / 32) * 4);
    this.dirty = new Int32Array(dirty);
    const setup: DispatcherSetup = {
      index,
      tableAddress: options.tableAddress,
      tableBytes: options.tableBytes,
      capacity: options.capacity,
      dispatchers: options.dispatchers,
      rings,
      clockIsMonotonic: options.clockIsMonotonic,
      stats: this.stats.buffer,
      removalBell: options.removalBell,
      deliveryBell: options.deliveryBell,
      dirty,
      controlFd: this.#controlFd,
    };
    this.#worker = new Worker(new URL("./worker.js", import.meta.url), {
      workerData: setup,
      name: `dispatcher ${index}`,
    });
    this.#worker.on("message", ({ sequence }: Answer) => {
      this.#waiting.get(sequence)?.();
      this.#waiting.delete(sequence);
    });
    let failure: Error | null = null;
    this.#worker.on("error", (error: Error) => {
      failure = error;
    });
    this.#exited = new Promise((resolve) => {
      this.#worker.on("exit", (code) => {
        if (!this.#stopping) options.onFailure(index, failure ?? new Error(`dispatcher ${index} exited with ${code}`));
        resolve();
      });
    });
  }

  /** Resolves when the dispatcher has done it. */
  tell(control: Control): Promise<void> {
    const sequence = this.#sequence++;
    return new Promise((resolve) => {
      this.#waiting.set(sequence, resolve);
      this.#worker.postMessage({ sequence, control } satisfies Request);
      signalEventfd(this.#controlFd);
    });
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await Promise.race([this.tell({ kind: "stop" }), this.#exited]);
    await this.#exited;
    closeFd(this.#controlFd);
  }
}

export class DispatcherHost {
  readonly threads: readonly DispatcherThread[];

  /** Rings are dealt out in turn, so that neighbouring CPUs land on different dispatchers. */
  constructor(options: HostOptions) {
    this.threads = Array.from(
      { length: options.dispatchers },
      (_, index) =>
        new DispatcherThread(
          index,
          options.rings.filter((_ring, r) => r % options.dispatchers === index),
          options,
        ),
    );
  }

  /** Tells every dispatcher; resolves when all have done it. */
  async tellAll(control: Control): Promise<void> {
    await Promise.all(this.threads.map((thread) => thread.tell(control)));
  }

  /** Calls `visit` once for each slot that has something to deliver, and forgets it. */
  takeDirty(visit: (slot: number) => void): void {
    for (const { dirty } of this.threads) {
      for (let word = 0; word < dirty.length; word++) {
        // Written by the dispatcher (or) and here (exchange): a bit set after the exchange is seen next time.
        let bits = dirty[word] === 0 ? 0 : Atomics.exchange(dirty, word, 0);
        while (bits !== 0) {
          const bit = 31 - Math.clz32(bits & -bits);
          bits &= bits - 1;
          visit(word * 32 + bit);
        }
      }
    }
  }

  async stop(): Promise<void> {
    await Promise.all(this.threads.map((thread) => thread.stop()));
  }
}
