import type { Writable } from "node:stream";

/** Standard output: writes wait for the reader, and a reader that has gone (`| head`) is an event, not a failure. */
export class Output {
  readonly #stream: Writable;
  readonly #gone = new AbortController();
  #failure: Error | undefined;

  constructor(stream: Writable) {
    this.#stream = stream;
    stream.on("error", (error: NodeJS.ErrnoException) => {
      if (error.code !== "EPIPE") this.#failure ??= error;
      this.#gone.abort();
    });
  }

  /** Aborts when nobody reads any more. */
  get gone(): AbortSignal {
    return this.#gone.signal;
  }

  /**
   * Resolves when it has left the process, so that memory may be used again; at once when the reader has gone. Throws when
   * writing failed.
   */
  async write(text: string | Uint8Array): Promise<void> {
    if (text.length > 0 && !this.gone.aborted) {
      await new Promise<void>((resolve) => {
        this.#stream.write(text, () => resolve());
      });
    }
    if (this.#failure) throw this.#failure;
  }

  async writeJson(value: unknown): Promise<void> {
    await this.write(`${toJson(value)}\n`);
  }
}

/** One line of JSON. 64-bit integers that may be above 2^53 become decimal strings, bytes the text that they are. */
export function toJson(value: unknown): string {
  return JSON.stringify(value, function (this: Readonly<Record<string, unknown>>, name: string, field: unknown) {
    // A Buffer has turned itself into an object by the time that it comes as `field`.
    const own = this[name];
    if (own instanceof Uint8Array) return Buffer.from(own).toString("utf8");
    return typeof field === "bigint" ? field.toString() : field;
  });
}

/** Names come from other users of the machine: nothing in them may drive the terminal. */
export function printable(text: string): string {
  return text.replace(/\p{Cc}/gu, "?");
}

/** Columns as wide as their widest cell, the last one ragged. */
export function formatTable(head: readonly string[], cells: readonly (readonly string[])[]): string {
  const rows = cells.map((row) => row.map(printable));
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column].length)));
  const line = (row: readonly string[]) =>
    `${row
      .map((cell, column) => cell.padEnd(widths[column]))
      .join("  ")
      .trimEnd()}\n`;
  return line(head) + rows.map(line).join("");
}

/** Nanoseconds in the unit that keeps the number short. */
export function formatNs(ns: number): string {
  if (ns < 1e3) return `${ns} ns`;
  if (ns < 1e6) return `${(ns / 1e3).toFixed(1)} us`;
  if (ns < 1e9) return `${(ns / 1e6).toFixed(1)} ms`;
  return `${(ns / 1e9).toFixed(1)} s`;
}

/** Bytes with a binary unit. */
export function formatBytes(bytes: number): string {
  if (bytes < 1024) return `${bytes} B`;
  if (bytes < 1024 ** 2) return `${(bytes / 1024).toFixed(1)} KiB`;
  return `${(bytes / 1024 ** 2).toFixed(1)} MiB`;
}

/** In the kernel's list format, "0-3,8". */
export function formatCpus(cpus: readonly number[]): string {
  const ranges: [first: number, last: number][] = [];
  for (const cpu of cpus.toSorted((a, b) => a - b)) {
    const range = ranges.at(-1);
    if (range !== undefined && range[1] === cpu - 1) range[1] = cpu;
    else ranges.push([cpu, cpu]);
  }
  return ranges.map(([first, last]) => (first === last ? String(first) : `${first}-${last}`)).join(",");
}

/** "at 997 Hz", "each 1000", or nothing where every sample is sent. */
export function formatRate(rate: { readonly frequencyHz: number; readonly period: number }): string {
  if (rate.frequencyHz > 0) return ` at ${rate.frequencyHz} Hz`;
  return rate.period > 0 ? ` each ${rate.period}` : "";
}

/** "QUEUE_FULL 3, KERNEL 1". */
export function formatLosses(losses: readonly { readonly reason: string; readonly count: number }[]): string {
  return losses
    .filter(({ count }) => count > 0)
    .map(({ reason, count }) => `${reason} ${count}`)
    .join(", ");
}
