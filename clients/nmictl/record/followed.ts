/** Which samples of a daemon that sends everybody's belong to the processes that are recorded, and to whom they fork. */
import type { SampleBatch, TaskRecord, Tasks } from "../../typescript/index.js";
import { HeldSamples } from "./held-samples.js";
import { parentOf } from "./host.js";
import { ProcessTree } from "./process-tree.js";
import { RecordBuffer } from "./record-buffer.js";
import type { PerfDataWriter } from "./writer.js";

/** A FORK in another CPU's ring comes at most a flush interval and a drain later. */
const HOLD_MS = 2000;
/** How much later than others samples may be written that were held: settled at the latest with the next tick. */
export const LATE_MS = HOLD_MS + 1000;
const ANCESTORS_MAX = 64;

export class Followed {
  readonly #tree: ProcessTree;
  readonly #held = new HeldSamples();
  readonly #scratch = new RecordBuffer();
  readonly #targets: ReadonlySet<number>;

  constructor(pids: readonly number[]) {
    this.#tree = new ProcessTree(pids);
    this.#targets = new Set(pids);
  }

  /** Learns from the records. Returns those that belong in the recording: all. */
  tasks(tasks: Tasks, writer: PerfDataWriter): number {
    for (const task of tasks.records) this.#learn(task, tasks.snapshot);
    return this.#release(writer, (pid) => this.#tree.of(pid) !== "unknown");
  }

  #learn(task: TaskRecord, snapshot: boolean): void {
    if (task.record === "fork") this.#tree.fork(task.fork.pid, task.fork.ppid);
    else if (snapshot && task.record === "comm" && !this.#targets.has(task.comm.pid))
      this.#tree.stranger(task.comm.pid);
  }

  /** Writes what is ours, holds what nothing is known of. Returns how many samples were written. */
  samples(batch: SampleBatch, writer: PerfDataWriter, nowMs: number): number {
    const rows = new Uint8Array(batch.length);
    const unknown = new Set<number>();
    let ours = 0;
    for (let i = 0; i < batch.length; i++) {
      const verdict = this.#tree.of(batch.pid[i]);
      if (verdict === "unknown") unknown.add(batch.pid[i]);
      else if (verdict === "ours") {
        rows[i] = 1;
        ours++;
      }
    }
    if (ours > 0) writer.samples(batch, rows);
    for (const pid of unknown) {
      let count = 0;
      for (let i = 0; i < batch.length; i++) {
        rows[i] = batch.pid[i] === pid ? 1 : 0;
        count += rows[i];
      }
      this.#scratch.clear();
      writer.samples(batch, rows, this.#scratch);
      this.#held.add(pid, this.#scratch.written, count, nowMs);
    }
    return ours;
  }

  /** Settles by /proc those that have been held for long, or all. Returns how many samples were written. */
  settle(writer: PerfDataWriter, nowMs: number, all = false): number {
    const due = new Set(all ? this.#held.pids : this.#held.since(nowMs - HOLD_MS));
    for (const pid of due) this.#askProc(pid);
    return this.#release(writer, (pid) => due.has(pid));
  }

  #askProc(pid: number): void {
    let at: number | undefined = pid;
    for (let i = 0; i < ANCESTORS_MAX && at !== undefined; i++) {
      if (this.#tree.of(at) !== "unknown") {
        if (at !== pid) this.#tree.fork(pid, at);
        return;
      }
      at = parentOf(at);
    }
    this.#tree.stranger(pid);
  }

  #release(writer: PerfDataWriter, when: (pid: number) => boolean): number {
    let written = 0;
    for (const pid of [...this.#held.pids].filter(when)) {
      const ours = this.#tree.of(pid) === "ours";
      const count = this.#held.take(pid, ours ? writer.out : undefined);
      if (ours) written += count;
    }
    return written;
  }
}
