/** Recordings of a collection, replayed and recorded again: perf script prints the same samples of both. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { SAMPLE } from "../../src/pmu/abi.js";
import {
  COLLECTION,
  type CollectedRecording,
  recordingsIn,
  skipCollection,
} from "../../src/pmu/perf-data/collection.test-support.js";
import { BOUNDED } from "../support/bound.js";
import { startDaemon } from "../support/daemon.js";
import { hasCommand, NMICTL_MAIN } from "../support/process.js";

const skip = skipCollection || (hasCommand("perf") ? false : "there is no perf: Debian's linux-perf");

/** Options of nmictl record for the fields that all events of a recording have, by SAMPLE bit. */
const OPTIONS: readonly (readonly [bit: number, options: readonly string[]])[] = [
  [SAMPLE.CALLCHAIN, ["-g"]],
  [SAMPLE.STACK_USER, ["--call-graph", "dwarf"]],
  [SAMPLE.REGS_USER, ["--user-regs"]],
  [SAMPLE.REGS_INTR, ["--intr-regs"]],
  [SAMPLE.DATA_SRC, ["-d"]],
  [SAMPLE.PHYS_ADDR, ["--phys-data"]],
  [SAMPLE.WEIGHT | SAMPLE.WEIGHT_STRUCT, ["-W"]],
  [SAMPLE.RAW, ["-R"]],
  [SAMPLE.DATA_PAGE_SIZE, ["--data-page-size"]],
  [SAMPLE.CODE_PAGE_SIZE, ["--code-page-size"]],
  [SAMPLE.TRANSACTION, ["--transaction"]],
  [SAMPLE.CGROUP, ["--all-cgroups"]],
  [SAMPLE.BRANCH_STACK, ["-b"]],
];

/** What perf script prints of fields that not every recording has, by SAMPLE bit. */
const PRINTED: readonly (readonly [bit: number, field: string])[] = [
  [SAMPLE.TIME, "time"],
  [SAMPLE.CPU, "cpu"],
  [SAMPLE.ADDR, "addr"],
  [SAMPLE.WEIGHT | SAMPLE.WEIGHT_STRUCT, "weight"],
  [SAMPLE.DATA_SRC, "data_src"],
  [SAMPLE.PHYS_ADDR, "phys_addr"],
  [SAMPLE.DATA_PAGE_SIZE, "data_page_size"],
  [SAMPLE.CODE_PAGE_SIZE, "code_page_size"],
  [SAMPLE.REGS_INTR, "iregs"],
  [SAMPLE.REGS_USER, "uregs"],
  [SAMPLE.BRANCH_STACK, "brstack"],
  [SAMPLE.RAW, "trace"],
];

/** SAMPLE bits that all events of the recording have which count anything. */
function commonBits({ expected }: CollectedRecording): number {
  const attrs = expected.attrs.filter(({ type, config }) => type !== 1 || Number(config) !== 9);
  return attrs.reduce((bits, { sample_type_raw }) => bits & Number(BigInt(sample_type_raw) & 0x7fff_ffffn), -1);
}

/** Why perf cannot print the same of both. */
function whyNot({ expected }: CollectedRecording): string | undefined {
  if (expected.walker_counts.AUXTRACE > 0) return "perf script decodes samples from its AUX trace";
  return undefined;
}

function scratch(t: TestContext): string {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "nmid-record-"));
  t.after(() => fs.rmSync(folder, { recursive: true }));
  return folder;
}

/** Lines of perf script; undefined where perf refuses the file. */
function printed(file: string, fields: readonly string[]): readonly string[] | undefined {
  const { status, stdout } = spawnSync("perf", ["script", "-F", fields.join(","), "-i", file], {
    encoding: "utf8",
    maxBuffer: 1 << 30,
  });
  if (status !== 0) return undefined;
  // Of some pipes perf prints symbols unasked, as far as this machine has the files.
  const lines = stdout.split("\n").map((line) => line.trim().replace(/^([0-9a-f]+) [^:]+$/, "$1"));
  return lines.filter((line) => line !== "");
}

const TIME = /\d+\.\d{6}(?=:)/;

/** In the order of time; of one time, which rings of several CPUs tell in any order, by what the lines say. */
function settled(lines: readonly string[] | undefined): readonly string[] | undefined {
  if (!lines?.every((line) => TIME.test(line))) return lines;
  const timed = lines.map((line) => ({ time: Number(TIME.exec(line)?.[0]), line }));
  return timed.sort((a, b) => a.time - b.time || (a.line < b.line ? -1 : 1)).map(({ line }) => line);
}

for (const recording of recordingsIn(COLLECTION)) {
  const { name, file } = recording;
  const title = `${name}, replayed and recorded again, prints the same`;
  test(title, { ...BOUNDED, skip: skip || whyNot(recording) }, async (t) => {
    const bits = commonBits(recording);
    const of = <Value>(table: readonly (readonly [number, Value])[]) =>
      table.filter(([bit]) => (bits & bit) !== 0).map(([, value]) => value);
    const fields = [..."comm pid tid period event ip".split(" "), ...of(PRINTED)];
    const before = printed(file, fields);
    if (before === undefined) return t.skip("this perf does not read the original");
    const config = path.join(scratch(t), "nmid.yaml");
    fs.writeFileSync(config, "limits:\n  queue_default_bytes: 67108864\n");
    const daemon = await startDaemon(t, { args: ["--source", `replay:${file},speed=max`, "--config", config] });
    const again = path.join(daemon.runtimeDir, "perf.data");
    const args = ["--address", daemon.address, "record", "-a", ...of(OPTIONS).flat(), "-o", again];
    const run = spawnSync(process.execPath, [NMICTL_MAIN, ...args], { encoding: "utf8" });
    assert.equal(run.status, 0, run.stderr);
    assert.deepEqual(settled(printed(again, fields)), settled(before), fields.join());
  });
}
