/**
 * The state directory: a file for each handler, named by its slot, and one for the daemon. Each is replaced whole, by rename,
 * so that a daemon that is killed leaves the old one or the new one. What cannot be read is set aside, and said.
 */
import { readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { z } from "zod";
import { type SavedDaemon, type SavedHandler, savedDaemonSchema, savedHandlerSchema } from "./saved-handler.js";

const DAEMON_FILE = "daemon.json";
const HANDLER_FILE = /^(\d+)\.json$/;
const TEMPORARY = ".tmp";
const SET_ASIDE = ".corrupt";
/** Larger than any handler's; what is larger is no file of ours. */
const FILE_BYTES_MAX = 64 * 1024 * 1024;
const MODE = 0o600;

export type Report = (message: string, fields: Record<string, unknown>) => void;

export class StateFiles {
  readonly #dir: string;
  readonly #report: Report;

  /** `report` is told of files that are set aside. */
  constructor(dir: string, report: Report) {
    this.#dir = dir;
    this.#report = report;
  }

  /** Throws where the file system does. */
  writeHandler(handler: SavedHandler): void {
    this.#write(fileOf(handler.slot), handler);
  }

  removeHandler(slot: number): void {
    rmSync(join(this.#dir, fileOf(slot)), { force: true });
  }

  writeDaemon(daemon: SavedDaemon): void {
    this.#write(DAEMON_FILE, daemon);
  }

  readDaemon(): SavedDaemon | null {
    return this.#read(DAEMON_FILE, savedDaemonSchema);
  }

  readHandlers(): SavedHandler[] {
    const names = readdirSync(this.#dir).sort();
    for (const name of names) if (name.endsWith(TEMPORARY)) rmSync(join(this.#dir, name), { force: true });
    return names.flatMap((name) => {
      const slot = HANDLER_FILE.exec(name)?.[1];
      if (slot === undefined) return [];
      const handler = this.#read(name, savedHandlerSchema);
      if (handler === null) return [];
      if (handler.slot === Number(slot)) return [handler];
      this.#setAside(name, `it is of slot ${handler.slot}`);
      return [];
    });
  }

  #write(name: string, value: unknown): void {
    const path = join(this.#dir, name);
    const temporary = path + TEMPORARY;
    // What somebody may have put there must not be written through.
    rmSync(temporary, { force: true });
    writeFileSync(temporary, JSON.stringify(value), { mode: MODE, flag: "wx" });
    renameSync(temporary, path);
  }

  #read<Schema extends z.ZodType>(name: string, schema: Schema): z.output<Schema> | null {
    let text: string;
    try {
      text = readFileSync(join(this.#dir, name), "utf8");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") this.#setAside(name, (error as Error).message);
      return null;
    }
    try {
      if (text.length > FILE_BYTES_MAX) throw new Error(`${text.length} characters long`);
      return schema.parse(JSON.parse(text));
    } catch (error) {
      this.#setAside(name, reasonOf(error as Error));
      return null;
    }
  }

  #setAside(name: string, reason: string): void {
    const path = join(this.#dir, name);
    try {
      renameSync(path, path + SET_ASIDE);
    } catch {
      // Gone, or not ours to move: it is not used either way.
    }
    this.#report("a file of the daemon before this one cannot be used, and was set aside: its handler is gone", {
      file: path + SET_ASIDE,
      reason,
    });
  }
}

function fileOf(slot: number): string {
  return `${slot}.json`;
}

/** zod's issues in a line. */
function reasonOf(error: Error): string {
  if (!("issues" in error) || !Array.isArray(error.issues)) return error.message;
  const [first] = error.issues as { readonly path: readonly PropertyKey[]; readonly message: string }[];
  return first === undefined ? error.message : `${first.path.map(String).join(".")}: ${first.message}`;
}
