import assert from "node:assert/strict";
import { test } from "node:test";
import { parseBranchFilter } from "./branch-filter.js";
import { fieldsOf, registerRequest } from "./options.js";

const filter = (text: string) => parseBranchFilter(text);

test("each of perf's names is its bit", () => {
  const names = "u,k,hv,any,any_call,any_ret,ind_call,abort_tx,in_tx,no_tx,cond,stack,ind_jmp,call".split(",");
  const bits = names.map((name) => filter(`${name},any`).bits & ~filter("any").bits);
  assert.deepEqual(
    bits,
    names.map((name, bit) => (name === "any" ? 0 : 1 << bit)),
  );
  assert.equal(filter("any").bits, 8);
  assert.equal(filter("any_call,u,save_type,priv").bits, 0x50011);
});

test("levels alone are of any branch", () => {
  assert.equal(filter("u").bits, 9);
  assert.equal(filter("k,save_type").bits, 0x1000a);
  assert.equal(filter("hw_index").bits, 8);
  assert.deepEqual(filter("counter,ind_call"), { bits: 64, counters: true });
});

test("what perf does not know is refused, with what there is", () => {
  for (const text of ["", "calls", "any,", "toString"]) {
    assert.throws(() => filter(text), /is no kind of branch: u, k, hv, any, .*, counter are\.$/);
  }
});

test("the daemon is asked for those branches, and for counters on request", () => {
  const options = { output: "perf.data", buildid: true, allCpus: true } as const;
  assert.equal(registerRequest({ ...options, branchFilter: filter("any_ret,k") }, false).branchSampleType, 34);
  assert.equal(registerRequest({ ...options, branchAny: true }, false).branchSampleType, undefined);
  const fields = fieldsOf({ ...options, branchFilter: filter("any_ret,counter") });
  assert.deepEqual([...fields].sort(), ["BRANCH_COUNTERS", "BRANCH_STACK"]);
});
