/** `nmictl record` against the kernel: what it writes is read by perf. */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";
import { BOUNDED } from "../support/bound.js";
import { REPOSITORY, startDaemon } from "../support/daemon.js";
import { startLiveDaemon } from "../support/live.js";
import { hasCommand } from "../support/process.js";

const NMICTL = path.join(REPOSITORY, "dist", "clients", "nmictl", "main.js");
const EXIT_STATUS = 7;
const NO_PERF = "there is no perf: Debian's linux-perf";
const SOURCE = `volatile unsigned long x;
__attribute__((noinline)) void hot_function(void) { for (int i = 0; i < 1000000; i++) x += i; }
int main(void) { for (int i = 0; i < 300; i++) hot_function(); return ${EXIT_STATUS}; }
`;

test("perf report finds a command's hot function in its recording", BOUNDED, async (t) => {
  if (!hasCommand("perf")) return t.skip(NO_PERF);
  if (!hasCommand("cc")) return t.skip("there is no C compiler: Debian's gcc and libc6-dev");
  const daemon = await startLiveDaemon(t);
  if (daemon === null) return;
  const at = (name: string) => path.join(daemon.runtimeDir, name);
  fs.writeFileSync(at("hot.c"), SOURCE);
  execFileSync("cc", ["-g", "-O1", "-fno-omit-frame-pointer", at("hot.c"), "-o", at("hot")]);
  fs.writeFileSync(at("perf.data"), "of before");
  const args = ["record", "-e", "cpu-clock", "-F", "997", "-g", "-o", at("perf.data"), "--", at("hot")];
  const { status, stderr } = spawnSync(process.execPath, [NMICTL, "--address", daemon.address, ...args], {
    encoding: "utf8",
  });
  assert.equal(status, EXIT_STATUS, stderr);
  const samples = Number(/wrote [\d.]+ MB \S+ \((\d+) samples\) \]/.exec(stderr)?.[1]);
  assert.equal(fs.readFileSync(at("perf.data.old"), "utf8"), "of before");
  const perf = (...command: string[]) =>
    execFileSync("perf", [...command, "-i", at("perf.data")], { encoding: "utf8" });
  const report = perf("report", "--stdio", "--no-children", "-g", "none");
  const [hottest] = report.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  assert.match(hottest, /hot\s+hot\s+\[\.\] hot_function/);
  assert.equal(perf("script", "-F", "ip,time").match(/^\s*\d+\.\d+:/gm)?.length, samples);
});

test("a recording that is replayed and recorded again prints the same samples", BOUNDED, async (t) => {
  if (!hasCommand("perf")) return t.skip(NO_PERF);
  const original = path.join(REPOSITORY, "recordings", "demo.perf.data");
  const daemon = await startDaemon(t, { args: ["--source", `replay:${original}`] });
  const again = path.join(daemon.runtimeDir, "perf.data");
  const args = ["record", "-a", "-g", "-o", again];
  const run = spawnSync(process.execPath, [NMICTL, "--address", daemon.address, ...args], { encoding: "utf8" });
  assert.equal(run.status, 0, run.stderr);
  const script = (file: string) =>
    execFileSync("perf", ["script", "-F", "comm,pid,tid,time,period,ip", "-i", file], { encoding: "utf8" });
  const printed = script(again);
  assert.ok(printed.length > 0);
  assert.equal(printed, script(original));
});

test("as many events as a pattern means are recorded, and recorded again from a replay", BOUNDED, async (t) => {
  if (!hasCommand("perf")) return t.skip(NO_PERF);
  const live = await startLiveDaemon(t);
  if (live === null) return;
  const record = (address: string, ...args: string[]) =>
    spawnSync(process.execPath, [NMICTL, "--address", address, "record", ...args], { encoding: "utf8" });
  const original = path.join(live.runtimeDir, "perf.data");
  const { status, stderr } = record(live.address, "-e", "sched:*", "-o", original, "--", "true");
  if (/tracefs/.test(stderr)) return t.skip(stderr);
  assert.equal(status, 0, stderr);
  const lines = (file: string, ...args: string[]) =>
    execFileSync("perf", [...args, "-i", file], { encoding: "utf8", stdio: "pipe" })
      .trim()
      .split("\n");
  const names = lines(original, "evlist").filter((name) => name.startsWith("sched:"));
  assert.ok(names.length > 16, names.join());
  const replay = await startDaemon(t, { args: ["--source", `replay:${original}`] });
  const again = path.join(replay.runtimeDir, "perf.data");
  const run = record(replay.address, "-a", "-o", again);
  assert.equal(run.status, 0, run.stderr);
  const printed = (file: string) => lines(file, "script", "-F", "pid,tid,cpu,time,event").sort();
  assert.deepEqual(printed(again), printed(original));
});

test(
  "samples of an event that was recorded without times come back without, beside others that have them",
  BOUNDED,
  async (t) => {
    if (!hasCommand("perf")) return t.skip(NO_PERF);
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), "nmid-record-"));
    t.after(() => fs.rmSync(folder, { recursive: true }));
    const original = path.join(folder, "perf.data");
    const events = ["-e", "page-faults,software/config=2,time=0/", "-c", "1"];
    const recorded = spawnSync("perf", ["record", "-q", ...events, "-o", original, "true"], { encoding: "utf8" });
    if (recorded.status !== 0) return t.skip(`perf cannot record here: ${recorded.stderr}`);
    const replay = await startDaemon(t, { args: ["--source", `replay:${original},speed=max`] });
    const again = path.join(replay.runtimeDir, "perf.data");
    const args = ["--address", replay.address, "record", "-a", "-o", again];
    const run = spawnSync(process.execPath, [NMICTL, ...args], { encoding: "utf8" });
    assert.equal(run.status, 0, run.stderr);
    const printed = (file: string) =>
      execFileSync("perf", ["script", "-F", "tid,time,event,ip", "-i", file], { encoding: "utf8" })
        .trim()
        .split("\n")
        .sort();
    assert.ok(printed(original).some((line) => line.includes("18446744073.709551")));
    assert.deepEqual(printed(again), printed(original));
  },
);

test("what perf record --threads writes is replayed, as perf reads it", BOUNDED, async (t) => {
  if (!hasCommand("perf")) return t.skip(NO_PERF);
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "nmid-record-"));
  t.after(() => fs.rmSync(folder, { recursive: true }));
  const original = path.join(folder, "perf.data");
  const options = ["-q", "--threads", "-a", "-e", "cpu-clock,page-faults", "-F", "500", "-o", original];
  const recorded = spawnSync("perf", ["record", ...options, "sleep", "0.3"], { encoding: "utf8" });
  if (recorded.status !== 0) return t.skip(`perf cannot record so here: ${recorded.stderr}`);
  assert.ok(fs.statSync(original).isDirectory());
  const replay = await startDaemon(t, { args: ["--source", `replay:${original}`] });
  const again = path.join(replay.runtimeDir, "perf.data");
  const args = ["--address", replay.address, "record", "-a", "-o", again];
  const run = spawnSync(process.execPath, [NMICTL, ...args], { encoding: "utf8" });
  assert.equal(run.status, 0, run.stderr);
  const printed = (file: string) =>
    execFileSync("perf", ["script", "-F", "comm,tid,cpu,time,event,ip", "-i", file], {
      encoding: "utf8",
      maxBuffer: 1 << 28,
    })
      .split("\n")
      .map((line) => line.trim().replace(/^([0-9a-f]+) [^:]+$/, "$1"))
      .sort();
  assert.deepEqual(printed(again), printed(original));
});

test("options are refused, or recorded as perf reads them", BOUNDED, async (t) => {
  if (!hasCommand("perf")) return t.skip(NO_PERF);
  const daemon = await startLiveDaemon(t);
  if (daemon === null) return;
  const file = path.join(daemon.runtimeDir, "perf.data");
  const record = (...args: string[]) => {
    const whole = ["--address", daemon.address, "record", "-o", file, ...args];
    return spawnSync(process.execPath, [NMICTL, ...whole], { encoding: "utf8" });
  };
  const printed = (fields: string) =>
    execFileSync("perf", ["script", "-F", fields, "-i", file], { encoding: "utf8", maxBuffer: 1 << 30 });
  const refused = record("-a", "-b", "-e", "cpu-clock", "--duration", "1");
  assert.equal(refused.status, 1);
  assert.match(refused.stderr, /BRANCH_STACK: cpu-clock is counted in software/);

  const touching = ["-e", "page-faults", "-c", "1", "--phys-data", "--data-page-size", "--", "sh", "-c", ":"];
  const faults = record(...touching);
  assert.equal(faults.status, 0, faults.stderr);
  assert.match(printed("addr,phys_addr,data_page_size"), /[0-9a-f]{6,}\s+\S+\s+\S+/);

  const oneCpu = record(
    "-C",
    "0",
    "-e",
    "cpu-clock",
    "--",
    "sh",
    "-c",
    "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done",
  );
  assert.equal(oneCpu.status, 0, oneCpu.stderr);
  assert.deepEqual([...new Set(printed("cpu").match(/\[\d+\]/g) ?? ["[000]"])], ["[000]"]);
});
