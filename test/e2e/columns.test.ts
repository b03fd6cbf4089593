/** What a live sample carries beside the six columns, as protobufjs decodes it: the daemon against the kernel itself. */
import assert from "node:assert/strict";
import process from "node:process";
import { test } from "node:test";
import { BOUNDED } from "../support/bound.js";
import { startBusy, usableCpus } from "../support/busy.js";
import { startLiveDaemon } from "../support/live.js";
import { connectRaw, type RawSamples } from "../support/raw-client.js";

/** x86-64 general registers: perf_regs.h without DS, ES, FS and GS. */
const REGS_MASK = 0xff0fff;
const REGS = 20;
/** Of the registers of the mask: SP and IP. */
const [SP, IP] = [7, 8];
const READ_FORMAT_TIMES = 3;
const CPUMODE_USER = 2;

function total(column: readonly number[]): number {
  return column.reduce((sum, value) => sum + value, 0);
}

function checkClockBatch(batch: RawSamples, samples: number): void {
  for (const name of ["addr", "weight", "data_src", "cgroup", "transaction", "phys_addr"] as const)
    assert.equal(batch[name].length, samples, name);
  assert.deepEqual([batch.data_page_size.length, batch.code_page_size.length], [samples, samples]);
  assert.equal(batch.callchain.length, total(batch.callchain_length));
  assert.equal(batch.raw.length, total(batch.raw_length));
  assert.equal(batch.regs_user.length, batch.regs_user_abi.filter((abi) => abi !== 0).length * REGS);
  assert.equal(batch.regs_intr.length, batch.regs_intr_abi.filter((abi) => abi !== 0).length * REGS);
  assert.equal(batch.read.length, total(batch.read_length));
  assert.equal(batch.stack_user.length, total(batch.stack_user_length.map((bytes) => Math.ceil(bytes / 8))));
  assert.deepEqual([batch.branch_stack, batch.cpumode], [[], []]);
}

test("cpu-clock carries every field that software events have", BOUNDED, async (t) => {
  const daemon = await startLiveDaemon(t);
  if (daemon === null) return;
  const client = connectRaw(t, daemon.address);
  const busy = startBusy(t, { cpu: usableCpus()[0], in: "user" });
  const { handler_id, events } = await client.register({
    name: "everything",
    events: [{ event: "cpu-clock", frequency_hz: 199 }],
    filter: { pids: [busy.pid] },
    fields: [
      ...["CALLCHAIN", "ADDR", "WEIGHT", "DATA_SRC", "CGROUP", "RAW", "REGS_USER", "STACK_USER", "TRANSACTION"],
      ...["PHYS_ADDR", "DATA_PAGE_SIZE", "CODE_PAGE_SIZE", "REGS_INTR", "READ"],
    ],
  });
  const [event] = events;
  assert.deepEqual([event.sample_regs_user, event.sample_regs_intr], [REGS_MASK, REGS_MASK]);
  assert.deepEqual([event.read_format & READ_FORMAT_TIMES, event.sample_stack_user], [READ_FORMAT_TIMES, 8192]);
  const words = event.read_format & 16 ? 4 : 3;
  // Another of the same event, that asked for less, is given less.
  const modest = await client.register({
    name: "modest",
    events: [{ event: "cpu-clock", frequency_hz: 199 }],
    fields: ["ADDR"],
  });
  assert.deepEqual([modest.events[0].sample_regs_user, modest.events[0].read_format], [0, 0]);
  let samples = 0;
  let inUser = 0;
  for await (const { samples: batch } of client.subscribe(handler_id)) {
    if (batch === undefined) continue;
    const count = batch.time.length;
    samples += count;
    checkClockBatch(batch, count);
    assert.deepEqual(new Set(batch.read_length), new Set([words]));
    assert.ok(batch.cgroup.every((id) => id > 0));
    let at = 0;
    batch.regs_user_abi.forEach((abi, i) => {
      if (abi === 0) return;
      const registers = batch.regs_user.slice(at, at + REGS);
      at += REGS;
      assert.ok(registers[SP] > 0 && registers[IP] > 0);
      if (registers[IP] === batch.ip[i]) inUser++;
    });
    // The value, then how long the event was enabled: a clock counts both.
    assert.ok(batch.read.every((value, i) => i % words > 1 || value > 0));
    if (samples >= 50) break;
  }
  // It spins in user space, where the registers are those of the sample itself.
  assert.ok(inUser > samples / 2, `${inUser} of ${samples}`);
  for await (const { samples: batch } of client.subscribe(modest.handler_id)) {
    if (batch === undefined) continue;
    assert.equal(batch.addr.length, batch.time.length);
    assert.deepEqual([batch.regs_user_abi, batch.stack_user_length, batch.read_length], [[], [], []]);
    break;
  }
});

test("page faults say what was touched", BOUNDED, async (t) => {
  const daemon = await startLiveDaemon(t);
  if (daemon === null) return;
  const client = connectRaw(t, daemon.address);
  const { handler_id } = await client.register({
    name: "faults",
    events: [{ event: "page-faults", period: 1 }],
    filter: { pids: [process.pid] },
    fields: ["ADDR", "PHYS_ADDR", "DATA_PAGE_SIZE"],
  });
  const touch = setInterval(() => Buffer.alloc(2 ** 22, 1), 5);
  t.after(() => clearInterval(touch));
  let samples = 0;
  for await (const { samples: batch } of client.subscribe(handler_id)) {
    if (batch === undefined) continue;
    samples += batch.time.length;
    assert.deepEqual([batch.phys_addr.length, batch.data_page_size.length], [batch.addr.length, batch.addr.length]);
    assert.ok(batch.addr.every((addr) => addr > 0));
    if (samples >= 20) break;
  }
});

test("software events refuse branch stacks", BOUNDED, async (t) => {
  const daemon = await startLiveDaemon(t);
  if (daemon === null) return;
  const client = connectRaw(t, daemon.address);
  await assert.rejects(
    client.register({ name: "branches", events: [{ event: "cpu-clock" }], fields: ["BRANCH_STACK"] }),
    /INVALID_ARGUMENT.*BRANCH_STACK: cpu-clock is counted in software/,
  );
});

test("tasks: what was there, then a process that starts, before its samples", BOUNDED, async (t) => {
  const daemon = await startLiveDaemon(t);
  if (daemon === null) return;
  const client = connectRaw(t, daemon.address);
  const before = startBusy(t, { cpu: usableCpus()[0], in: "user" });
  const request = { events: [{ event: "cpu-clock", frequency_hz: 499 }], tasks: true };
  const { handler_id } = await client.register({ name: "tasks", ...request });
  let started: { readonly pid: number } | null = null;
  let isComplete = false;
  const known = new Set<number>();
  let execs = 0;
  for await (const { tasks, samples } of client.subscribe(handler_id)) {
    if (tasks !== undefined) {
      for (const { record, comm, mmap } of tasks.records) {
        if (record === "mmap" && mmap !== undefined) known.add(mmap.pid);
        if (record === "comm" && comm?.exec === true && comm.pid === started?.pid) execs++;
      }
      assert.equal(tasks.snapshot, !isComplete, "the snapshot comes first, once");
      isComplete ||= tasks.snapshot_complete;
      if (isComplete && started === null) {
        assert.ok(known.has(before.pid), "a process that was there");
        assert.ok(known.has(0xffff_ffff) || process.getuid?.() !== 0, "the kernel");
        started = startBusy(t, { cpu: usableCpus()[0], in: "user" });
      }
    }
    if (samples === undefined) continue;
    assert.ok(isComplete, "no sample before the snapshot is complete");
    assert.equal(samples.cpumode.length, samples.time.length);
    const pid = started?.pid ?? 0;
    const own = samples.pid.findIndex((other, i) => other === pid && samples.cpumode[i] === CPUMODE_USER);
    if (own < 0) continue;
    assert.ok(known.has(pid), "its mappings come before its samples");
    if (execs > 0) break;
  }
  assert.ok(execs > 0);
  // Who comes later is told in the snapshot.
  const late = await client.register({ name: "late", ...request });
  const seen = new Set<number>();
  for await (const { tasks } of client.subscribe(late.handler_id)) {
    for (const { mmap } of tasks?.records ?? []) if (mmap !== undefined) seen.add(mmap.pid);
    if (tasks?.snapshot_complete === true) break;
  }
  assert.ok(seen.has((started as { readonly pid: number } | null)?.pid ?? 0));
  const { totals } = await client.status();
  assert.ok(totals.task_records > 0);
  assert.equal(totals.task_records_lost, 0);
});
