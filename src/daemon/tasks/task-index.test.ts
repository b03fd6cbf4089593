import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { RECORD } from "../../pmu/abi.js";
import { KERNEL_PID, TaskFilter, type TaskSpec } from "./task-filter.js";
import { TaskIndex } from "./task-index.js";

const MASK = 15;

/** A ring of 16 words; the record wraps in it. `pids` are the words behind the header. */
function ring(type: number, pids: readonly number[]): { readonly words: Uint32Array; readonly at: number } {
  const words = new Uint32Array(MASK + 1);
  const at = MASK - 2;
  for (const [i, word] of [type, 24 << 16, ...pids].entries()) words[(at + i) & MASK] = word;
  return { words, at };
}

const SPECS: readonly TaskSpec[] = [
  { contextSwitches: false, pids: [] },
  { contextSwitches: true, pids: [] },
  { contextSwitches: false, pids: [3] },
  { contextSwitches: true, pids: [3, 4, 3] },
  { contextSwitches: false, pids: [5, KERNEL_PID] },
];

const { COMM, EXIT, FORK, ITRACE_START, KSYMBOL, MMAP, MMAP2, NAMESPACES, SWITCH, SWITCH_CPU_WIDE, CGROUP } = RECORD;
const TYPES = [COMM, EXIT, FORK, ITRACE_START, KSYMBOL, MMAP, MMAP2, NAMESPACES, SWITCH, SWITCH_CPU_WIDE, CGROUP];

describe("the index of who wants task records", () => {
  it("finds those whose filter wants the record, each once", () => {
    const index = new TaskIndex<TaskSpec>();
    for (const spec of SPECS) index.add(spec, spec);
    for (const type of TYPES) {
      for (const first of [3, 4, 5, 6, KERNEL_PID]) {
        for (const second of [3, 6]) {
          const { words, at } = ring(type, [first, second]);
          const wanting = SPECS.filter((spec) => new TaskFilter(spec).wants(words, MASK, at));
          const found = [...index.find(words, MASK, at)].sort((a, b) => SPECS.indexOf(a) - SPECS.indexOf(b));
          assert.deepEqual(found, wanting, `record ${type} of ${first}, ${second}`);
        }
      }
    }
  });

  it("forgets those that left", () => {
    const index = new TaskIndex<TaskSpec>();
    for (const spec of SPECS) index.add(spec, spec);
    for (const spec of SPECS) index.remove(spec, spec);
    for (const type of TYPES) {
      const { words, at } = ring(type, [3, KERNEL_PID]);
      assert.equal(index.find(words, MASK, at).size, 0, `record ${type}`);
    }
  });

  it("reads a record as often for a thousand filters as for one, and looks at none of them", () => {
    const work = [1, 1000].map((filters) => {
      const index = new TaskIndex<object>();
      let looks = 0;
      const looked = <Value extends object>(value: Value) =>
        new Proxy(value, {
          get: (target, key) => {
            looks++;
            return Reflect.get(target, key);
          },
        });
      for (let pid = 1; pid <= filters; pid++) {
        const spec = looked({ contextSwitches: false, pids: [pid] });
        index.add(spec, spec);
      }
      looks = 0;
      let found = 0;
      for (let child = 1; child <= 100; child++) {
        const { words, at } = ring(FORK, [1_000_000 + child, 1]);
        found += index.find(looked(words), MASK, at).size;
      }
      assert.equal(found, 100, "the parent's own");
      return looks;
    });
    // The type and two pids.
    assert.deepEqual(work, [300, 300]);
  });
});
