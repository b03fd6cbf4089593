import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { describe, it, type TestContext } from "node:test";
import { procOwner } from "./process-owner.js";

const USER = 12_345;
const IDENTITY = ["--reuid", `${USER}`, "--regid", `${USER}`, "--clear-groups"];
const skip = process.getuid?.() === 0 ? false : "needs root, to run processes of other users";

/** Resolves when the child has said that it is what it is to be. */
async function start(t: TestContext, command: string, args: readonly string[]): Promise<number> {
  const child: ChildProcess = spawn(command, args, { stdio: ["ignore", "pipe", "inherit"] });
  t.after(() => child.kill("SIGKILL"));
  assert.ok(child.stdout);
  await once(child.stdout, "data");
  return child.pid as number;
}

const READY = ["/bin/sh", "-c", "echo ready; while :; do sleep 1; done"];
/** Runs JavaScript as it stands, then says so and waits. */
const inNode = (code: string): string[] => ["-e", `${code}; console.log("ready"); setInterval(() => {}, 1000)`];

describe("the owner of a thread", { skip }, () => {
  it("is the user whose program it is", async (t) => {
    const pid = await start(t, "setpriv", [...IDENTITY, ...READY]);
    // setpriv itself had privilege, and this is the process that it was.
    assert.deepEqual(procOwner(pid, pid), { uid: USER, gid: USER, hadPrivilege: true });
  });

  it("had no privilege where it was forked without", async (t) => {
    const pid = await start(t, "setpriv", [...IDENTITY, "/bin/sh", "-c", "(echo ready; exec sleep 60); true"]);
    const [child] = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ").map(Number);
    t.after(() => process.kill(child, "SIGKILL"));
    assert.deepEqual(procOwner(child, child), { uid: USER, gid: USER, hadPrivilege: false });
  });

  it("is not known of a process that was another's and has not executed anything since", async (t) => {
    const pid = await start(t, process.execPath, inNode(`process.setgid(${USER}); process.setuid(${USER})`));
    assert.equal(procOwner(pid, pid), null);
  });

  it("is not known where ids differ", async (t) => {
    for (const id of ["--ruid", "--euid"]) {
      const pid = await start(t, "setpriv", [id, `${USER}`, "--regid", `${USER}`, "--clear-groups", ...READY]);
      assert.equal(procOwner(pid, pid), null, id);
    }
    const pid = await start(t, "setpriv", ["--reuid", `${USER}`, "--rgid", `${USER}`, "--clear-groups", ...READY]);
    assert.equal(procOwner(pid, pid), null, "groups");
  });

  it("is not known where it has a capability", async (t) => {
    const capability = ["--inh-caps=+net_raw", "--ambient-caps=+net_raw"];
    const pid = await start(t, "setpriv", [...IDENTITY, ...capability, ...READY]);
    assert.equal(procOwner(pid, pid), null);
  });

  it("is not known of root, of kernel threads, and of what is not there", () => {
    assert.equal(procOwner(process.pid, process.pid), null);
    assert.equal(procOwner(2, 2), null);
    assert.equal(procOwner(2 ** 30, 2 ** 30), null);
    assert.equal(procOwner(process.pid, 1), null, "another process's thread");
  });
});
