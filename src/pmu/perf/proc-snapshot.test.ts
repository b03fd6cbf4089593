import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, it } from "node:test";
import { RECORD } from "../abi.js";
import { TASK_RUN_BYTES_MAX } from "../source.js";
import { type ProcPaths, procSnapshot } from "./proc-snapshot.js";

interface Read {
  readonly type: number;
  readonly misc: number;
  /** Behind the header, up to the sample_id. */
  readonly body: DataView;
  readonly pid: number;
  readonly tid: number;
}

async function read(paths?: ProcPaths): Promise<Read[]> {
  const found: Read[] = [];
  for await (const run of procSnapshot(() => true, paths).runs) {
    assert.ok(run.byteLength <= TASK_RUN_BYTES_MAX);
    for (let at = 0; at < run.length; ) {
      const size = run[at + 1] >>> 16;
      assert.ok(size >= 16 && size % 8 === 0);
      const view = new DataView(run.buffer, at * 4, size);
      found.push({
        type: view.getUint32(0, true),
        misc: view.getUint16(4, true),
        body: new DataView(run.buffer, at * 4 + 8, size - 16),
        pid: view.getUint32(size - 8, true),
        tid: view.getUint32(size - 4, true),
      });
      at += size / 4;
    }
  }
  return found;
}

function text({ body }: Read, at: number): string {
  const bytes = new Uint8Array(body.buffer, body.byteOffset + at, body.byteLength - at);
  return Buffer.from(bytes.subarray(0, bytes.indexOf(0))).toString();
}

describe("procSnapshot", () => {
  let root: string;
  let paths: ProcPaths;
  const write = (file: string, content: string): void => {
    mkdirSync(path.dirname(path.join(root, file)), { recursive: true });
    writeFileSync(path.join(root, file), content);
  };

  before(() => {
    root = mkdtempSync(path.join(tmpdir(), "nmid-proc-"));
    paths = { proc: path.join(root, "proc"), cgroups: [path.join(root, "none"), path.join(root, "cgroup")] };
    write("proc/kallsyms", "0000000000000000 A fixed_percpu\nffffffff81000000 T _stext\nffffffff82000000 T _etext\n");
    write("proc/modules", "ext4 1024000 1 - Live 0xffffffffc0100000\nhidden 4096 0 - Live 0x0000000000000000\n");
    write("proc/7/task/7/comm", "wörker\n");
    write("proc/7/task/9/comm", "helper\n");
    write(
      "proc/7/maps",
      [
        "55d000000000-55d000001000 r--p 00000000 08:02 131 /usr/bin/w",
        "55d000001000-55d000003000 r-xp 00001000 08:02 131 /usr/bin/w with spaces (deleted)",
        "7f0000000000-7f0000001000 rwxs 00000000 00:00 0 ",
        "7ffc00000000-7ffc00001000 r-xp 00000000 00:00 0                          [vdso]",
        "no mapping at all",
        "",
      ].join("\n"),
    );
    write("proc/8/task/8/comm", "");
    write("proc/self/comm", "not a process");
    write("cgroup/cgroup.procs", "");
    mkdirSync(path.join(root, "cgroup/a.slice/b.service"), { recursive: true });
    symlinkSync("/", path.join(root, "cgroup/loop"));
  });
  after(() => rmSync(root, { recursive: true }));

  it("names processes and threads, with what they have mapped executably", async () => {
    const all = await read(paths);
    const comms = all.filter(({ type }) => type === RECORD.COMM);
    assert.deepEqual(
      comms.map((comm) => [
        comm.pid,
        comm.tid,
        comm.body.getUint32(0, true),
        comm.body.getUint32(4, true),
        text(comm, 8),
      ]),
      [
        [7, 7, 7, 7, "wörker"],
        [7, 9, 7, 9, "helper"],
      ],
    );
    const maps = all.filter(({ type }) => type === RECORD.MMAP2);
    const word = ({ body }: Read, at: number): bigint => body.getBigUint64(at, true);
    assert.deepEqual(
      maps.map((map) => [word(map, 8), word(map, 16), word(map, 24), text(map, 64)]),
      [
        [0x55d000001000n, 0x2000n, 0x1000n, "/usr/bin/w with spaces (deleted)"],
        [0x7f0000000000n, 0x1000n, 0n, "//anon"],
        [0x7ffc00000000n, 0x1000n, 0n, "[vdso]"],
      ],
    );
    const [file, shared] = maps.map(({ body }) => [32, 36, 40, 56, 60].map((at) => body.getUint32(at, true)));
    assert.deepEqual(
      [file, shared],
      [
        [8, 2, 131, 5, 2],
        [0, 0, 0, 7, 1],
      ],
    );
  });

  it("knows the kernel, its modules and the cgroups, but no hidden addresses", async () => {
    const all = await read(paths);
    const kernel = all.filter(({ type }) => type === RECORD.MMAP);
    assert.deepEqual(
      kernel.map((map) => [
        map.pid,
        map.misc,
        map.body.getBigUint64(8, true),
        map.body.getBigUint64(16, true),
        text(map, 32),
      ]),
      [
        [0xffff_ffff, 1, 0xffffffff81000000n, 0x1000000n, "[kernel.kallsyms]_text"],
        [0xffff_ffff, 1, 0xffffffffc0100000n, 1024000n, "[ext4]"],
      ],
    );
    const cgroups = all.filter(({ type }) => type === RECORD.CGROUP);
    assert.deepEqual(
      cgroups.map((cgroup) => [cgroup.body.getBigUint64(0, true), text(cgroup, 8)]),
      ["/", "/a.slice", "/a.slice/b.service"].map((name) => [
        statSync(path.join(root, "cgroup", name), { bigint: true }).ino,
        name,
      ]),
    );
  });

  it("finds this process, and is empty where there is nothing to read", async () => {
    const own = (await read()).filter(({ pid }) => pid === process.pid);
    assert.ok(own.some((record) => record.type === RECORD.MMAP2 && text(record, 64) === process.execPath));
    assert.ok(own.some((record) => record.type === RECORD.COMM && record.tid === process.pid));
    assert.deepEqual(await read({ proc: path.join(root, "none"), cgroups: [] }), []);
  });
});
