import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Worker } from "node:worker_threads";
import { CPUS_MAX } from "./cpu-list.js";
import { Errno, setThreadAffinity, threadAffinity } from "./ffi.js";

/** What a thread of this process reports that has run `body` with the module's exports. */
function inThread(body: string): Promise<unknown> {
  const code = `
    const { parentPort } = require("node:worker_threads");
    const { readFileSync } = require("node:fs");
    const own = (file) => readFileSync("/proc/thread-self/" + file, "utf8");
    import(${JSON.stringify(new URL("./ffi.js", import.meta.url).href)}).then((ffi) => {
      parentPort.postMessage((() => { ${body} })());
    });`;
  const worker = new Worker(code, { eval: true });
  return new Promise((resolve, reject) => {
    worker.once("message", resolve);
    worker.once("error", reject);
  });
}

const allowed = (status: string) => /^Cpus_allowed_list:\s*(\S*)$/m.exec(status)?.[1];

test("the affinity of a thread is its own, and what the kernel says it is", async () => {
  const before = threadAffinity();
  assert.ok(before.length > 0);
  const last = before[before.length - 1];
  const result = (await inThread(`
    ffi.setThreadAffinity([${last}]);
    return { status: own("status"), read: ffi.threadAffinity() };
  `)) as { status: string; read: number[] };
  assert.equal(allowed(result.status), String(last));
  assert.deepEqual(result.read, [last]);
  assert.deepEqual(threadAffinity(), before, "this thread stays where it was");
  assert.equal(allowed(readFileSync("/proc/thread-self/status", "utf8"))?.split(/[,-]/)[0], String(before[0]));
});

test("CPUs that are not there are left out, and refused where no other is given", () => {
  const before = threadAffinity();
  assert.throws(
    () => setThreadAffinity([CPUS_MAX - 1]),
    (error) => error instanceof Errno && error.call === "sched_setaffinity" && error.code === "EINVAL",
  );
  setThreadAffinity([...before, CPUS_MAX - 1]);
  assert.deepEqual(threadAffinity(), before);
  assert.throws(() => setThreadAffinity([CPUS_MAX]), RangeError);
  assert.throws(() => setThreadAffinity([-1]), RangeError);
});

test("a thread's name is what the kernel shows", async () => {
  const shown = await inThread(`ffi.setThreadName("nmid-disp-63"); return own("comm");`);
  assert.equal(shown, "nmid-disp-63\n");
});
