import assert from "node:assert/strict";
import { it } from "node:test";
import { MachineWatch } from "./machine-watch.js";

function setUp() {
  const log: string[] = [];
  let release = (): void => {};
  let fail = false;
  const machine = new MachineWatch({
    settings: {
      look: async () => {
        log.push("settings");
        if (fail) throw new Error("no sysctl");
      },
    },
    cpus: {
      look: () => {
        log.push("cpus");
        return new Promise((resolve) => {
          release = resolve;
        });
      },
    },
    onProblem: (error) => log.push(error.message),
  });
  return {
    log,
    machine,
    release: () => release(),
    fail: () => {
      fail = true;
    },
  };
}

/** Until all that can go on without the CPUs' look has gone on. */
const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

it("looks once for all who ask meanwhile, and anew for who asks later", async () => {
  const { log, machine, release } = setUp();
  const looks = [machine.look(), machine.look()];
  await settled();
  assert.deepEqual(log, ["settings", "cpus"]);
  release();
  await Promise.all(looks);
  const another = machine.look();
  await settled();
  assert.equal(log.length, 4);
  release();
  await another;
});

it("goes on when a look fails", async () => {
  const { log, machine, release, fail } = setUp();
  fail();
  const look = machine.look();
  await settled();
  assert.deepEqual(log, ["settings", "no sysctl", "cpus"]);
  release();
  await look;
});

it("stops when the look under way is done, and begins none", async () => {
  const { log, machine, release } = setUp();
  void machine.look();
  let stopped = false;
  const stop = machine.stop().then(() => {
    stopped = true;
  });
  await settled();
  assert.equal(stopped, false);
  release();
  await stop;
  await machine.look();
  assert.deepEqual(log, ["settings", "cpus"]);
});
