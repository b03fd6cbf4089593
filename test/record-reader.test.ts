/** What `nmictl record` writes, read by the reader that replays recordings: two programs that share no code. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { EVENTS, SAMPLE, TASKS, writeAll } from "../clients/nmictl/record/writer.test-support.js";
import { decodeKernelRecord, type KernelRecord } from "../src/pmu/perf-data/kernel-records.js";
import { parseRecording } from "../src/pmu/perf-data/recording.js";

const written = writeAll();

function shared(bytes: Uint8Array): Uint8Array<SharedArrayBuffer> {
  const copy = new Uint8Array(new SharedArrayBuffer(bytes.length));
  copy.set(bytes);
  return copy;
}

for (const mode of ["pipe", "file"] as const) {
  describe(`a recording as a ${mode}`, () => {
    const recording = parseRecording(mode, shared(written[mode]));
    /** Of the second event, the breakpoint. */
    const read = (index: number): KernelRecord =>
      decodeKernelRecord(recording.image, written.at[index], recording.attrs[index === TASKS.length ? 0 : 1]);

    test("is sound, and its events are those that were recorded", () => {
      assert.equal(recording.mode, mode);
      assert.deepEqual(recording.damage, []);
      assert.deepEqual(
        recording.attrs.map(({ name, type, ids, bpType }) => ({ name, type, ids: ids.map(Number), bpType })),
        EVENTS.map(({ name, type, bpType }, i) => ({ name, type, ids: [1 + 2 * i, 2 + 2 * i], bpType })),
      );
    });

    test("every task record says what it was given", () => {
      const types = TASKS.map((_, i) => read(i).type);
      const expected = "COMM MMAP2 MMAP2 MMAP FORK EXIT KSYMBOL BPF_EVENT CGROUP NAMESPACES SWITCH SWITCH_CPU_WIDE";
      assert.deepEqual(types, [...expected.split(" "), "TEXT_POKE", "ITRACE_START", "AUX_OUTPUT_HW_ID"]);
      const [comm, , mmap] = [read(0), read(1), read(2)];
      assert.ok(comm.type === "COMM" && comm.comm === "four" && comm.pid === 10 && comm.tid === 11);
      assert.ok(mmap.type === "MMAP2" && mmap.file === "/bin/x");
    });

    test("each event's sample has every field", () => {
      for (const event of [0, 1]) {
        const record = read(TASKS.length + event);
        assert.ok(record.type === "SAMPLE");
        const { sample } = record;
        const { ip, pid, tid, time, cpu, period, addr, dataSrc, physAddr, cgroup, transaction } = sample;
        assert.deepEqual(
          { ip, pid, tid, time, cpu, period: BigInt(period ?? 0), addr, dataSrc, physAddr, cgroup, transaction },
          {
            ...{ ip: SAMPLE.ip, pid: SAMPLE.pid, tid: SAMPLE.tid, time: SAMPLE.time, cpu: SAMPLE.cpu },
            ...{ period: SAMPLE.period, addr: SAMPLE.addr, dataSrc: SAMPLE.dataSrc, physAddr: SAMPLE.physAddr },
            ...{ cgroup: SAMPLE.cgroup, transaction: SAMPLE.transaction },
          },
        );
        assert.deepEqual([...(sample.callchain ?? [])], SAMPLE.callchain);
        assert.deepEqual([...(sample.regsUser?.values ?? [])], SAMPLE.regsUser);
        assert.deepEqual([...(sample.regsIntr?.values ?? [])], SAMPLE.regsIntr);
        assert.deepEqual([sample.dataPageSize, sample.codePageSize], [SAMPLE.dataPageSize, SAMPLE.codePageSize]);
        assert.deepEqual(
          sample.branchStack?.entries.map(({ from, to }) => [from, to]),
          [[0x11n, 0x22n]],
        );
      }
    });

    test("a loss is told", () => {
      const lost = read(TASKS.length + 2);
      assert.ok(lost.type === "LOST" && BigInt(lost.lost) === 9n);
    });
  });
}
