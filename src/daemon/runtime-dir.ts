/**
 * The runtime directory: one daemon at a time, and the handler table's file. The table has to be on tmpfs: on a disk,
 * write-back protects its pages again and again, and a dispatcher's store would wait for the file system.
 */
import {
  chmodSync,
  closeSync,
  fchmodSync,
  fstatSync,
  ftruncateSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readlinkSync,
  rmSync,
  statfsSync,
  symlinkSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { mapShared, tryLock, unmap, viewMemory } from "../pmu/ffi.js";

export class RuntimeDirError extends Error {
  override readonly name = "RuntimeDirError";
}

const TMPFS_MAGIC = 0x01021994;
const RAMFS_MAGIC = 0x858458f6;
const SHARED_MEMORY_DIR = "/dev/shm";
/** What mkdtemp completes: where a table lives whose runtime directory is on a disk. */
const HOME_PREFIX = join(SHARED_MEMORY_DIR, "nmid-");
const TABLE_FILE = "handlers.table";
const BOOKS_FILE = "handlers.books";
const STATE_DIR = "handlers.state";
const LOCK_FILE = "nmid.lock";
const TABLE_MODE = 0o644;
const GROUP_READABLE = 0o640;
const OWNER_ALONE = 0o700;

/** Mapped until close. Idempotent. */
export interface LeftFile {
  readonly memory: ArrayBuffer;
  close(): void;
}

export interface SharedFile {
  readonly address: bigint;
  readonly path: string;
  /** Unmaps and removes the file. Idempotent. */
  close(): void;
}

export class RuntimeDir {
  readonly path: string;
  readonly #lockFd: number;
  #closed = false;

  /** Creates the directory where it is missing, and holds it until close. Throws RuntimeDirError when another daemon does. */
  constructor(path: string) {
    this.path = path;
    mkdirSync(path, { recursive: true, mode: 0o755 });
    const { uid } = lstatSync(path);
    if (uid !== process.getuid?.() && uid !== 0) {
      throw new RuntimeDirError(
        `${path} belongs to uid ${uid}: somebody else could replace the files in it. Choose another --runtime-dir.`,
      );
    }
    const lockPath = join(path, LOCK_FILE);
    this.#lockFd = openSync(lockPath, "a", 0o644);
    if (!tryLock(this.#lockFd)) {
      closeSync(this.#lockFd);
      throw new RuntimeDirError(
        `another nmid runs with ${path} (it holds ${lockPath}): stop it, or give this one its own --runtime-dir, --listen and --metrics.`,
      );
    }
  }

  /**
   * The handler table's file. It holds names and counts, which the group may read whatever the umask is, and everybody
   * where that allows it.
   */
  createTable(bytes: number): SharedFile {
    return this.#create(TABLE_FILE, bytes, TABLE_MODE);
  }

  /** The file of what handlers' streams have taken (state/records.ts). */
  createBooks(bytes: number): SharedFile {
    return this.#create(BOOKS_FILE, bytes, 0o600);
  }

  /** The table and the books that a daemon of this user has left that was killed; null each where there is none. */
  openLeft(): { readonly table: LeftFile | null; readonly books: LeftFile | null } {
    return { table: openLeft(join(this.path, TABLE_FILE)), books: openLeft(join(this.path, BOOKS_FILE)) };
  }

  /**
   * Where what must outlive the daemon is kept, by its owner alone: it says whose handlers are whose. Throws RuntimeDirError
   * where somebody else has made it, which a directory that anybody can write to allows.
   */
  stateDir(): string {
    const path = join(this.path, STATE_DIR);
    mkdirSync(path, { recursive: true, mode: OWNER_ALONE });
    const stat = lstatSync(path);
    if (!stat.isDirectory() || stat.uid !== process.geteuid?.()) {
      throw new RuntimeDirError(
        `${path} is no directory of the daemon's user, but belongs to uid ${stat.uid}: remove it, or choose another --runtime-dir.`,
      );
    }
    chmodSync(path, OWNER_ALONE);
    return path;
  }

  /** A zeroed file of `bytes` on tmpfs, mapped; what an earlier daemon left is replaced. */
  #create(name: string, bytes: number, mode: number): SharedFile {
    const path = join(this.path, name);
    removeLeftOver(path);
    const home = onMemory(this.path) ? null : mkdtempSync(HOME_PREFIX);
    const file = home === null ? path : join(home, name);
    if (home !== null) {
      chmodSync(home, 0o755);
      symlinkSync(file, path);
    }
    // wx: never through a link that somebody has put there meanwhile.
    const fd = openSync(file, "wx+", mode);
    // However strict the umask is.
    fchmodSync(fd, mode & (~process.umask() | GROUP_READABLE));
    ftruncateSync(fd, bytes);
    const address = mapShared(fd, bytes);
    closeSync(fd);
    let closed = false;
    return {
      address,
      path,
      close: () => {
        if (closed) return;
        closed = true;
        unmap(address, bytes);
        rmSync(path, { force: true });
        if (home !== null) rmSync(home, { recursive: true, force: true });
      },
    };
  }

  /** Lets the next daemon in. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    closeSync(this.#lockFd);
  }
}

/** A daemon that was killed has left its table, and the memory that goes with it where the table is a link. */
function removeLeftOver(path: string): void {
  const isLink = lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() ?? false;
  const home = isLink ? dirname(readlinkSync(path)) : "";
  rmSync(path, { force: true });
  if (home.startsWith(HOME_PREFIX) && dirname(home) === SHARED_MEMORY_DIR)
    rmSync(home, { recursive: true, force: true });
}

function openLeft(path: string): LeftFile | null {
  let fd: number;
  try {
    fd = openSync(path, "r+");
  } catch {
    return null;
  }
  try {
    const { size: bytes, uid } = fstatSync(fd);
    // Somebody else's could say anything, and become shorter while it is mapped.
    if (bytes === 0 || uid !== process.geteuid?.()) return null;
    const address = mapShared(fd, bytes);
    let closed = false;
    return {
      memory: viewMemory(address, bytes),
      close: () => {
        if (closed) return;
        closed = true;
        unmap(address, bytes);
      },
    };
  } finally {
    closeSync(fd);
  }
}

function onMemory(path: string): boolean {
  const { type } = statfsSync(dirname(join(path, "x")));
  return type === TMPFS_MAGIC || type === RAMFS_MAGIC;
}
