/** The files that describe PMUs and tracepoints, live or recorded. */
import { accessSync, constants, readdirSync, readFileSync } from "node:fs";

/** Absolute paths. What is not there, or may not be read, reads and lists as null. */
export interface FileTree {
  /** Without the white space at its end. */
  read(path: string): string | null;
  /** Names, sorted. */
  list(path: string): readonly string[] | null;
  /** It is there, and may not be read. */
  denied(path: string): boolean;
}

export const liveFileTree: FileTree = {
  read: (path) => {
    try {
      return readFileSync(path, "utf8").trimEnd();
    } catch {
      return null;
    }
  },
  list: (path) => {
    try {
      return readdirSync(path).sort();
    } catch {
      return null;
    }
  },
  denied: (path) => {
    try {
      accessSync(path, constants.R_OK);
      return false;
    } catch (error) {
      return (error as NodeJS.ErrnoException).code === "EACCES";
    }
  },
};

/** As scripts/record-pmus.mjs writes it: directories are objects, files are their text, null is what may not be read. */
export interface RecordedTree {
  readonly [name: string]: string | null | RecordedTree;
}

export function recordedFileTree(root: RecordedTree): FileTree {
  const find = (path: string): string | null | RecordedTree | undefined => {
    let at: string | null | RecordedTree | undefined = root;
    for (const name of path.split("/")) {
      if (name === "") continue;
      if (at === null || at === undefined || typeof at === "string" || !Object.hasOwn(at, name)) return undefined;
      at = at[name];
    }
    return at;
  };
  return {
    read: (path) => {
      const found = find(path);
      return typeof found === "string" ? found : null;
    },
    list: (path) => {
      const found = find(path);
      return found !== null && typeof found === "object" ? Object.keys(found).sort() : null;
    },
    denied: (path) => find(path) === null,
  };
}

/** A machine about which nothing is known: events of its PMUs cannot be named. */
export const NO_FILES: FileTree = recordedFileTree({});
