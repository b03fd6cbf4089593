/** How recordings of `nmictl record` end: by a signal, by the command, by the daemon's end, and what perf reads of them. */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { USER_RECORD_START } from "../../src/pmu/perf-data/format.js";
import { decodeKernelRecord, type KernelRecord } from "../../src/pmu/perf-data/kernel-records.js";
import { type Recording, readRecording } from "../../src/pmu/perf-data/recording.js";
import { BOUNDED } from "../support/bound.js";
import { startBusy, usableCpus } from "../support/busy.js";
import { poll } from "../support/conditions.js";
import { type RunningDaemon, startDaemon } from "../support/daemon.js";
import { connectTo, startLiveDaemon } from "../support/live.js";
import { hasCommand, NMICTL_MAIN, startNmictl, startProcess } from "../support/process.js";

const NO_PERF = "there is no perf: Debian's linux-perf";
const SYNTHETIC = { args: ["--source", "synthetic:2000"] };
const RECORD = ["record", "-a", "-e", "cpu-clock"];
const WROTE = /nmictl record: Captured and wrote [\d.]+ MB \S+ \((\d+) samples\) \]/;

const at = (daemon: RunningDaemon, name: string) => path.join(daemon.runtimeDir, name);
const samplesIn = (stderr: string) => Number(WROTE.exec(stderr)?.[1]);

/** Samples that perf script prints of it. */
function perfSamples(file: string): number {
  const script = execFileSync("perf", ["script", "-F", "time,ip", "-i", file], { encoding: "utf8" });
  return script.match(/^\s*\d+\.\d+:/gm)?.length ?? 0;
}

/** Resolves when the recorder has written samples, not the head alone. */
async function untilWritten(file: string): Promise<void> {
  await poll("samples in the file", async () => {
    const size = fs.existsSync(file) ? fs.statSync(file).size : 0;
    return size > 64 * 1024 || undefined;
  });
}

function* kernelRecords({ runs, image, attrs }: Recording): Generator<KernelRecord> {
  for (const { start, end } of runs) {
    for (let offset = start; offset < end; offset += image.view.getUint16(offset + 6, true)) {
      const isPerfs = image.view.getUint32(offset, true) >= USER_RECORD_START;
      if (!isPerfs) yield decodeKernelRecord(image, offset, attrs[0]);
    }
  }
}

async function startRecorder(t: TestContext, daemon: RunningDaemon, ...args: string[]) {
  const file = at(daemon, "perf.data");
  const recorder = startNmictl(t, daemon, ...RECORD, "-o", file, ...args);
  await untilWritten(file);
  return { file, recorder };
}

test("a recorder that is killed leaves what it had written, which perf reads", BOUNDED, async (t) => {
  if (!hasCommand("perf")) return t.skip(NO_PERF);
  const daemon = await startDaemon(t, SYNTHETIC);
  const { file, recorder } = await startRecorder(t, daemon);
  recorder.kill("SIGKILL");
  assert.equal((await recorder.exited).signal, "SIGKILL");
  const { counts, damage, mode } = readRecording(file);
  assert.deepEqual({ damage, mode }, { damage: [], mode: "pipe" });
  assert.ok(counts[9] > 0);
  assert.equal(perfSamples(file), counts[9]);
});

test("SIGINT and SIGTERM end a recording that is whole, with the signal's exit status", BOUNDED, async (t) => {
  const daemon = await startDaemon(t, SYNTHETIC);
  for (const [signal, status] of [
    ["SIGINT", 130],
    ["SIGTERM", 143],
  ] as const) {
    const file = at(daemon, `${signal}.data`);
    const recorder = startNmictl(t, daemon, ...RECORD, "-o", file);
    await untilWritten(file);
    recorder.kill(signal);
    const { code, stderr } = await recorder.exited;
    assert.equal(code, status, stderr);
    assert.match(stderr, new RegExp(`^\\[ ${WROTE.source}$`), "one line and no other");
    const { counts, damage, mode } = readRecording(file);
    assert.deepEqual({ damage, mode, samples: counts[9] }, { damage: [], mode: "file", samples: samplesIn(stderr) });
    if (hasCommand("perf")) assert.equal(perfSamples(file), samplesIn(stderr));
  }
});

test("a command's exit status is the recording's, and an interrupted one ends with it", BOUNDED, async (t) => {
  const daemon = await startDaemon(t, SYNTHETIC);
  const file = at(daemon, "perf.data");
  const run = (...command: string[]) =>
    spawnSync(process.execPath, [NMICTL_MAIN, "--address", daemon.address, ...RECORD, "-o", file, "--", ...command], {
      encoding: "utf8",
    });
  assert.equal(run("sh", "-c", "exit 3").status, 3);
  assert.equal(run("sh", "-c", "kill -9 $$").status, 137);
  const missing = run("/nowhere/at-all");
  assert.equal(missing.status, 127);
  assert.match(missing.stderr, /cannot run "\/nowhere\/at-all"/);

  const pidFile = at(daemon, "pid");
  const script = `echo $$ > ${pidFile}; exec sleep 600`;
  const recorder = startNmictl(t, daemon, ...RECORD, "-o", file, "--", "sh", "-c", script);
  const pid = await poll("the command", async () => {
    const text = fs.existsSync(pidFile) ? fs.readFileSync(pidFile, "utf8") : "";
    return text.endsWith("\n") ? Number(text) : undefined;
  });
  recorder.kill("SIGINT");
  const { code, stderr } = await recorder.exited;
  assert.equal(code, 130, stderr);
  assert.deepEqual(readRecording(file).damage, []);
  assert.throws(() => process.kill(pid, 0), { code: "ESRCH" });
});

test("a daemon that dies leaves a whole recording, and the recorder says so", BOUNDED, async (t) => {
  const daemon = await startDaemon(t, SYNTHETIC);
  // The runtime directory goes with the daemon.
  const file = path.join(path.dirname(daemon.runtimeDir), `nmid-record-${daemon.pid}.data`);
  t.after(() => fs.rmSync(file, { force: true }));
  const recorder = startNmictl(t, daemon, ...RECORD, "-o", file);
  await untilWritten(file);
  process.kill(daemon.pid, "SIGKILL");
  const { code, stderr } = await recorder.exited;
  assert.equal(code, 1, stderr);
  assert.match(stderr, /the daemon went away while it was recording: \S+ ends with what it had sent by then/);
  const { counts, damage, mode } = readRecording(file);
  assert.deepEqual({ damage, mode, samples: counts[9] }, { damage: [], mode: "file", samples: samplesIn(stderr) });
  if (hasCommand("perf")) assert.equal(perfSamples(file), samplesIn(stderr));
});

test("standard output is a pipe that perf script reads", BOUNDED, async (t) => {
  if (!hasCommand("perf")) return t.skip(NO_PERF);
  const daemon = await startDaemon(t, SYNTHETIC);
  const nmictl = `"${process.execPath}" "${NMICTL_MAIN}" --address "${daemon.address}" ${RECORD.join(" ")}`;
  const pipe = `${nmictl} --duration 1 -o - | perf script -F time,ip -i -`;
  const { status, stdout, stderr } = spawnSync("sh", ["-c", pipe], { encoding: "utf8" });
  assert.equal(status, 0, stderr);
  assert.ok(samplesIn(stderr) > 0, stderr);
  assert.equal(stdout.match(/^\s*\d+\.\d+:/gm)?.length, samplesIn(stderr));
});

test("losses are told where they happened", BOUNDED, async (t) => {
  const daemon = await startDaemon(t, { args: ["--source", "synthetic:20000,cpus=1"] });
  const client = connectTo(t, daemon);
  const { file, recorder } = await startRecorder(t, daemon);
  recorder.kill("SIGSTOP");
  await poll("losses", async () => (await client.listHandlers()).handlers.find(({ lost }) => lost > 10_000));
  recorder.kill("SIGCONT");
  await poll("the recorder to catch up", async () =>
    (await client.listHandlers()).handlers.find(({ queueBytes }) => queueBytes < 64 * 1024),
  );
  recorder.kill("SIGINT");
  const { stderr } = await recorder.exited;
  const recording = readRecording(file);
  assert.deepEqual(recording.damage, []);
  let [lost, told, most] = [0, 0, 0];
  // Times of the sample before the largest loss, of the loss, and of the sample behind it.
  let around: bigint[] = [];
  let before = 0n;
  for (const record of kernelRecords(recording)) {
    if (record.type === "LOST") {
      const count = Number(record.lost);
      lost += count;
      told++;
      if (count > most) around = [before, record.sampleId?.time ?? 0n];
      most = Math.max(most, count);
    } else if (record.type === "SAMPLE") {
      before = record.sample.time ?? 0n;
      if (around.length === 2) around.push(before);
    }
  }
  assert.ok(around[0] < around[1] && around[1] < around[2], around.join(" "));
  assert.ok(told > 0);
  assert.equal(lost, Number(/lost (\d+) samples/.exec(stderr)?.[1]));
  if (!hasCommand("perf")) return;
  const script = execFileSync("perf", ["script", "--show-lost-events", "-F", "time,event", "-i", file], {
    encoding: "utf8",
    maxBuffer: 1 << 30,
  });
  assert.equal(script.match(/PERF_RECORD_LOST /g)?.length, told);
});

test("-p records a process and whom it forks from then on", BOUNDED, async (t) => {
  if (!hasCommand("perf")) return t.skip(NO_PERF);
  const daemon = await startLiveDaemon(t);
  if (daemon === null) return;
  const [cpu] = usableCpus();
  startBusy(t, { cpu });
  const file = at(daemon, "perf.data");
  const go = at(daemon, "go");
  // Its children and their children burn time under other names, when told to.
  const burn = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
  fs.writeFileSync(at(daemon, "burn.sh"), `${burn}\n`);
  const parent = `while [ ! -e ${go} ]; do sleep 0.05; done; sh -c 'sh ${at(daemon, "burn.sh")}; :'; ${burn}`;
  const target = startProcess(t, "sh", ["-c", parent]);
  const recorder = startNmictl(
    ...([t, daemon, "record", "-e", "cpu-clock", "-F", "997", "-p", String(target.pid), "-o", file] as const),
  );
  await poll("the recording", async () => fs.existsSync(file) || undefined);
  fs.writeFileSync(go, "");
  const { code, stderr } = await recorder.exited;
  assert.equal(code, 0, stderr);
  const script = execFileSync("perf", ["script", "-F", "pid,comm", "-i", file], { encoding: "utf8" });
  const pids = new Set(script.match(/\d+(?=\s*$)/gm)?.map(Number));
  assert.ok(pids.has(target.pid), script.slice(0, 500));
  assert.ok(pids.size >= 2, "a descendant's samples are there");
  assert.ok(!/nmid/.test(script), "nobody else's are");
});
