/**
 * A worker thread that writes into rings, seen from the main thread. It sleeps on a control word instead of its event
 * loop: posting a command bumps the word, and a producer with nothing to do sleeps without a time limit.
 */
import { MessageChannel, type MessagePort, Worker } from "node:worker_threads";
import { CONTROL_BYTES, CONTROL_WORD, type ProducerSetup, STOP } from "./producer-loop.js";

/** A producer obeys between two batches; one that takes this long is stuck. */
const SETTLE_MS_MAX = 10_000;

export class ProducerThread<Command, Report> {
  readonly #control = new Int32Array(new SharedArrayBuffer(CONTROL_BYTES));
  readonly #worker: Worker;
  readonly #port: MessagePort;
  readonly #exited: Promise<void>;
  #stopped = false;

  /** `data` is handed to the entry as `setup.data`. A producer that throws takes the process with it. */
  constructor(entry: URL, name: string, data: unknown, onReport: (report: Report) => void) {
    const { port1, port2 } = new MessageChannel();
    this.#port = port1;
    const setup: ProducerSetup = { port: port2, control: this.#control, data };
    this.#worker = new Worker(entry, { name, workerData: setup, transferList: [port2] });
    this.#worker.on("message", onReport);
    this.#exited = new Promise((resolve) => this.#worker.once("exit", () => resolve()));
  }

  /** No effect once the thread has been told to stop. */
  post(command: Command | typeof STOP): void {
    if (this.#stopped) return;
    this.#port.postMessage(command);
    // Only this thread writes the word; pairs with the producer's load before it receives: the command is there.
    Atomics.add(this.#control, CONTROL_WORD.POSTED, 1);
    Atomics.notify(this.#control, CONTROL_WORD.POSTED);
  }

  /** Returns when the producer has obeyed everything posted before. Blocks, for as long as one batch takes at most. */
  settle(): void {
    if (this.#stopped) return;
    const posted = Atomics.load(this.#control, CONTROL_WORD.POSTED);
    const giveUpAt = performance.now() + SETTLE_MS_MAX;
    for (;;) {
      // Only the producer writes the word, after it has obeyed.
      const obeyed = Atomics.load(this.#control, CONTROL_WORD.OBEYED);
      if (((obeyed - posted) | 0) >= 0) return;
      const left = giveUpAt - performance.now();
      if (left <= 0) throw new Error("the producer thread does not answer");
      Atomics.wait(this.#control, CONTROL_WORD.OBEYED, obeyed, left);
    }
  }

  /** Resolves when the thread has ended: nobody writes into the rings any more. */
  async stop(): Promise<void> {
    this.post(STOP);
    this.#stopped = true;
    await this.#exited;
    this.#port.close();
  }
}
