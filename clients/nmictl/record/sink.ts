/** Where a recording's bytes go: a file, or standard output. */
import { type FileHandle, open, rename, stat } from "node:fs/promises";
import type { Writable } from "node:stream";
import { NmiError } from "../../typescript/index.js";
import { Output } from "../output.js";
import type { FileEnd } from "./writer.js";

export interface Sink {
  /** Bytes written. */
  readonly length: number;
  /** Whether it is turned into the file format at its end. */
  readonly isFile: boolean;
  /** Aborts when nobody reads any more. */
  readonly gone: AbortSignal;
  /** Whole records, all or none: where there is no room, what was there before is. Throws NmiError OUTPUT_FAILED. */
  write(bytes: Uint8Array): Promise<void>;
  /** Turns the file into what it is to be in the end. Throws NmiError OUTPUT_FAILED, and the recording is as it was. */
  finish(end: FileEnd): Promise<void>;
  close(): Promise<void>;
}

function failed(path: string, error: unknown): NmiError {
  const { code, message } = error as NodeJS.ErrnoException;
  const remedy = code === "ENOSPC" || code === "EDQUOT" ? ": make room, or name a file elsewhere with -o" : "";
  return new NmiError("OUTPUT_FAILED", `cannot write ${path}: ${message}${remedy}`);
}

/** A file. One that is there already and not empty is kept as PATH.old. Throws NmiError OUTPUT_FAILED. */
export async function openFile(path: string): Promise<Sink> {
  try {
    const old = await stat(path).catch(() => undefined);
    if (old?.isFile() && old.size > 0) await rename(path, `${path}.old`);
    return new FileSink(path, await open(path, "w", 0o600));
  } catch (error) {
    throw failed(path, error);
  }
}

class FileSink implements Sink {
  readonly isFile = true;
  readonly gone = new AbortController().signal;
  readonly #path: string;
  readonly #file: FileHandle;
  length = 0;

  constructor(path: string, file: FileHandle) {
    this.#path = path;
    this.#file = file;
  }

  async write(bytes: Uint8Array): Promise<void> {
    try {
      await this.#put(bytes, this.length);
      this.length += bytes.length;
    } catch (error) {
      await this.#file.truncate(this.length).catch(() => {});
      throw failed(this.#path, error);
    }
  }

  async finish({ tail, head }: FileEnd): Promise<void> {
    try {
      await this.#put(tail, this.length);
      await this.#put(head, 0);
      this.length += tail.length;
    } catch (error) {
      // The head is of memory that the file has: only what was to be appended can have failed.
      await this.#file.truncate(this.length).catch(() => {});
      throw failed(this.#path, error);
    }
  }

  async close(): Promise<void> {
    await this.#file.close();
  }

  async #put(bytes: Uint8Array, position: number): Promise<void> {
    for (let at = 0; at < bytes.length; ) {
      const { bytesWritten } = await this.#file.write(bytes, at, bytes.length - at, position + at);
      at += bytesWritten;
    }
  }
}

/** A pipe. A reader that has gone aborts `gone` and fails nothing. */
export class PipeSink implements Sink {
  readonly isFile = false;
  readonly #output: Output;
  length = 0;

  constructor(stream: Writable) {
    this.#output = new Output(stream);
  }

  get gone(): AbortSignal {
    return this.#output.gone;
  }

  async write(bytes: Uint8Array): Promise<void> {
    if (this.gone.aborted) return;
    try {
      await this.#output.write(bytes);
    } catch (error) {
      throw failed("standard output", error);
    }
    this.length += bytes.length;
  }

  async finish(): Promise<void> {}

  async close(): Promise<void> {}
}
