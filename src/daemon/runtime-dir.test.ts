import assert from "node:assert/strict";
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statfsSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { describe, it, type TestContext } from "node:test";
import { viewMemory } from "../pmu/ffi.js";
import { RuntimeDir, RuntimeDirError } from "./runtime-dir.js";

const TMPFS_MAGIC = 0x01021994;
const TABLE = "handlers.table";

function temporary(t: TestContext, home = tmpdir()): string {
  const path = mkdtempSync(join(home, "nmid-test-"));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** A directory on a disk, or null where everything is in memory. */
function onDisk(t: TestContext): string | null {
  for (const home of [tmpdir(), "/var/tmp", process.cwd()]) {
    if (statfsSync(home).type !== TMPFS_MAGIC) return temporary(t, home);
  }
  t.skip("every file system here is in memory");
  return null;
}

describe("RuntimeDir", () => {
  it("creates what is missing and lets one daemon in at a time", (t) => {
    const path = join(temporary(t), "a", "b");
    const first = new RuntimeDir(path);
    assert.throws(
      () => new RuntimeDir(path),
      (error: unknown) => {
        assert.ok(error instanceof RuntimeDirError);
        assert.match(error.message, /another nmid runs with .*a\/b .*nmid\.lock.*--runtime-dir/);
        return true;
      },
    );
    const elsewhere = new RuntimeDir(join(path, "c"));
    elsewhere.close();
    first.close();
    const second = new RuntimeDir(path);
    assert.throws(() => new RuntimeDir(path), RuntimeDirError);
    second.close();
  });

  it("keeps its state from others, and takes none of theirs", (t) => {
    const path = temporary(t);
    const state = join(path, "handlers.state");
    const elsewhere = temporary(t);
    symlinkSync(elsewhere, state);
    const dir = new RuntimeDir(path);
    t.after(() => dir.close());
    assert.throws(() => dir.stateDir(), /no directory of the daemon's user.*--runtime-dir/);
    rmSync(state);
    mkdirSync(state);
    chmodSync(state, 0o777);
    assert.equal(dir.stateDir(), state);
    assert.equal(statSync(state).mode & 0o777, 0o700);
  });

  it("reads nothing that another user has put there", { skip: process.getuid?.() !== 0 && "not root" }, (t) => {
    const path = temporary(t);
    const dir = new RuntimeDir(path);
    t.after(() => dir.close());
    writeFileSync(join(path, TABLE), "left");
    const left = dir.openLeft();
    assert.notEqual(left.table, null);
    left.table?.close();
    chownSync(join(path, TABLE), 12_345, 12_345);
    assert.deepEqual(dir.openLeft(), { table: null, books: null });
    mkdirSync(join(path, "handlers.state"));
    chownSync(join(path, "handlers.state"), 12_345, 12_345);
    assert.throws(() => dir.stateDir(), /belongs to uid 12345/);
  });

  it("can be closed twice without closing somebody else's file", (t) => {
    const first = new RuntimeDir(temporary(t));
    first.close();
    const second = new RuntimeDir(temporary(t));
    first.close();
    assert.throws(() => new RuntimeDir(second.path), RuntimeDirError, "the second one still holds its lock");
    second.close();
  });

  it("refuses a directory of somebody else, who could replace its files", (t) => {
    if (process.getuid?.() !== 0) {
      t.skip("giving a directory away needs root");
      return;
    }
    const path = temporary(t);
    chownSync(path, 12_345, 12_345);
    assert.throws(() => new RuntimeDir(path), /belongs to uid 12345/);
  });
});

describe("RuntimeDir: the table's file", () => {
  it("is readable by the group however strict the umask is", (t) => {
    const dir = new RuntimeDir(temporary(t, "/dev/shm"));
    t.after(() => dir.close());
    for (const [umask, mode] of [
      [0o077, 0o640],
      [0o027, 0o640],
      [0o022, 0o644],
    ]) {
      const before = process.umask(umask);
      const file = dir.createTable(4096);
      process.umask(before);
      assert.equal(statSync(file.path).mode & 0o777, mode);
      file.close();
    }
  });

  it("is zeroed memory that outside readers see change, and goes when it is closed", (t) => {
    const dir = new RuntimeDir(temporary(t, "/dev/shm"));
    t.after(() => dir.close());
    const file = dir.createTable(8192);
    assert.equal(file.path, join(dir.path, TABLE));
    assert.equal(lstatSync(file.path).isFile(), true, "on tmpfs it is the file itself");
    assert.equal(statSync(file.path).mode & 0o777, 0o644);
    const bytes = new Uint8Array(viewMemory(file.address, 8192));
    assert.ok(bytes.every((byte) => byte === 0));
    bytes[8191] = 77;
    assert.equal(readFileSync(file.path)[8191], 77);
    file.close();
    file.close();
    assert.equal(existsSync(file.path), false);
  });

  it("replaces what an earlier daemon left", (t) => {
    const dir = new RuntimeDir(temporary(t, "/dev/shm"));
    t.after(() => dir.close());
    writeFileSync(join(dir.path, TABLE), "old".repeat(10_000));
    const file = dir.createTable(4096);
    assert.ok(new Uint8Array(viewMemory(file.address, 4096)).every((byte) => byte === 0));
    assert.equal(statSync(file.path).size, 4096);
    file.close();
  });

  it("is a link into memory when the directory is on a disk, and leaves nothing behind", (t) => {
    const path = onDisk(t);
    if (path === null) return;
    const dir = new RuntimeDir(path);
    t.after(() => dir.close());
    const file = dir.createTable(4096);
    assert.equal(lstatSync(file.path).isSymbolicLink(), true);
    const target = readlinkSync(file.path);
    assert.match(target, /^\/dev\/shm\/nmid-[^/]+\/handlers\.table$/);
    new Uint8Array(viewMemory(file.address, 4096))[5] = 9;
    assert.equal(readFileSync(file.path)[5], 9);
    file.close();
    assert.equal(existsSync(dirname(target)), false);
    assert.equal(lstatSync(file.path, { throwIfNoEntry: false }), undefined);
  });

  it("does not leave a dead daemon's table in memory", (t) => {
    const path = onDisk(t);
    if (path === null) return;
    const dir = new RuntimeDir(path);
    t.after(() => dir.close());
    // A daemon that was killed closes nothing.
    const dead = dir.createTable(4096);
    const target = readlinkSync(dead.path);
    const file = dir.createTable(4096);
    assert.notEqual(readlinkSync(file.path), target);
    assert.equal(existsSync(dirname(target)), false);
    file.close();
    dead.close();
  });

  it("never deletes what a foreign link points to", (t) => {
    const path = onDisk(t);
    if (path === null) return;
    const dir = new RuntimeDir(path);
    t.after(() => dir.close());
    const other = join(temporary(t), "precious");
    writeFileSync(other, "precious");
    symlinkSync(other, join(path, TABLE));
    const file = dir.createTable(4096);
    file.close();
    assert.equal(readFileSync(other, "utf8"), "precious");
  });
});
