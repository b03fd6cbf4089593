import assert from "node:assert/strict";
import { test } from "node:test";
import { InvalidArgumentError } from "commander";
import { collectCpus, collectEvents, collectUints, defaultAddress, parseSeconds, parseUint } from "./options.js";

test("the default address follows the environment and the user", () => {
  const xdg = { XDG_RUNTIME_DIR: "/run/user/7" };
  assert.equal(defaultAddress({ ...xdg, NMID_ADDRESS: "a:1" }, 0), "a:1");
  assert.equal(defaultAddress(xdg, 0), "unix:/run/nmid/nmid.sock");
  assert.equal(defaultAddress(xdg, 7), "unix:/run/user/7/nmid/nmid.sock");
  assert.equal(defaultAddress({}, 7), "unix:/run/nmid/nmid.sock");
});

test("lists", () => {
  assert.deepEqual(collectUints("1, 2", [9]), [9, 1, 2]);
  assert.deepEqual(collectCpus("0-2,8", [5]), [5, 0, 1, 2, 8]);
  for (const text of ["", "1,", "-1", "1.5", "4294967296", "x"]) {
    assert.throws(() => collectUints(text), InvalidArgumentError, text);
  }
  for (const text of ["", "2-1", "1-", "-", "0-1-2", "0-4294967295"]) {
    assert.throws(() => collectCpus(text), InvalidArgumentError, text);
  }
});

test("events, several with commas as perf takes them", () => {
  assert.deepEqual(collectEvents("cycles:u,cpu-clock", ["faults"]), ["faults", "cycles:u", "cpu-clock"]);
  for (const text of ["cycles", "cpu/event=0x3c,umask=0/k", "{cycles,cs}:S", "{cpu/event=1,umask=2/,mem:0/4,cs}", ""]) {
    assert.deepEqual(collectEvents(text), [text]);
  }
  const several = [
    "{cs,mem:0x10/4:rw,cpu/event=1,umask=2/}:u",
    "mem:0/1",
    "mem:0/8:w",
    "cpu/a,b/",
    "cpu/name='A:orig=cycles,desc=x/',event=2/",
    "cpu/name='a,event=2/u",
    "sched:sched_switch",
  ];
  assert.deepEqual(collectEvents(several.join(",")), several);
  // What is missing is the daemon's to say.
  for (const text of ["cpu/event=1,umask=2", "{cycles,cs"]) assert.deepEqual(collectEvents(text), [text]);
  assert.deepEqual(collectEvents("cycles,"), ["cycles", ""]);
});

test("numbers", () => {
  assert.equal(parseUint("0"), 0);
  assert.equal(parseSeconds(".5"), 0.5);
  for (const text of ["", "0", "-1", "1s", "Infinity", "1e3", "2147484"]) {
    assert.throws(() => parseSeconds(text), InvalidArgumentError, text);
  }
});
