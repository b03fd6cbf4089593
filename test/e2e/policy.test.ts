/** What users of this machine are shown and allowed, with the real daemon, real kernel samples and real users. */
import assert from "node:assert/strict";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { asUser, UserClient } from "../support/as-user.js";
import { usableCpus } from "../support/busy.js";
import { poll } from "../support/conditions.js";
import type { RunningDaemon } from "../support/daemon.js";
import { connectTo, startLiveDaemon } from "../support/live.js";
import { policyFile } from "../support/policy.js";
import { type RunningProcess, startProcess } from "../support/process.js";

const USER = 23_451;
const OTHER = 23_452;
const isRoot = process.getuid?.() === 0;
const OPTIONS = { timeout: 120_000, skip: isRoot ? false : "needs root, to be other users" };

interface Registered {
  readonly handler_id: string;
}

/** A daemon whose socket every user may open; null where the kernel grants no samples. */
async function start(t: TestContext, args: readonly string[] = []): Promise<RunningDaemon | null> {
  const daemon = await startLiveDaemon(t, { args: ["--socket-mode", "0666", ...args] });
  if (daemon !== null) fs.chmodSync(daemon.runtimeDir, 0o711);
  return daemon;
}

function burn(t: TestContext, before: readonly string[], loop: readonly string[]): RunningProcess {
  const [cpu] = usableCpus();
  const [command, ...args] = ["prlimit", "--cpu=300", "taskset", "-c", `${cpu}`, ...before, ...loop];
  return startProcess(t, command as string, args);
}

const LOOP = ["sh", "-c", "while :; do :; done"];
/** In the kernel most of the time. */
const COPY = ["dd", "if=/dev/zero", "of=/dev/null", "bs=64k"];

/** A program of root's that whoever starts it becomes root by; null where the file system has none. */
function setuidCopy(t: TestContext): string {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "nmid-setuid-"));
  t.after(() => fs.rmSync(dir, { recursive: true }));
  fs.chmodSync(dir, 0o755);
  const program = path.join(dir, "dd");
  fs.copyFileSync("/bin/dd", program);
  fs.chmodSync(program, 0o4755);
  return program;
}

const uidsOf = (pid: number): string =>
  /^Uid:\s*(.*)$/m.exec(fs.readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? "";

/** taskset, prlimit and setpriv become what they start. */
async function hasBecome(process: RunningProcess, uids: string, comm: string): Promise<void> {
  await poll(`${comm} of ${uids}`, () => {
    const isIt = uidsOf(process.pid) === uids && fs.readFileSync(`/proc/${process.pid}/comm`, "utf8").trim() === comm;
    return isIt || undefined;
  });
}

function auditOf(daemon: RunningDaemon): { rpc: string; peer: string; rule: string; reason: string }[] {
  return daemon.logs.filter((line) => line.includes('"audit":true')).map((line) => JSON.parse(line));
}

test("a user is shown samples of its own processes, without kernel addresses", OPTIONS, async (t) => {
  const daemon = await start(t);
  if (daemon === null) return;
  const ids = (uid: number): string => Array(4).fill(uid).join("\t");
  const own = burn(t, asUser(USER), COPY);
  const others = [burn(t, asUser(OTHER), LOOP), burn(t, [], LOOP)];
  const program = setuidCopy(t);
  const becameRoot = burn(t, asUser(USER), [program, ...COPY.slice(1)]);
  const groupless = burn(t, ["setpriv", "--reuid", `${USER}`, "--clear-groups"], LOOP);
  await hasBecome(own, ids(USER), "dd");
  await hasBecome(others[0], ids(OTHER), "sh");
  await hasBecome(becameRoot, `${USER}\t0\t0\t0`, "dd");
  await hasBecome(groupless, ids(USER), "sh");

  const user = new UserClient(t, daemon.address, USER);
  const request = {
    name: "mine",
    events: [{ event: "cpu-clock", frequency_hz: 500 }],
    fields: ["CALLCHAIN"],
    queue: { flush_interval_ms: 50 },
    tasks: true,
  };
  const { handler_id } = await user.call<Registered>("Register", request);
  const seen = await user.collect(handler_id, 60, own.pid);
  const isUsers = (pid: number): boolean => pid === own.pid || pid === user.pid;
  assert.deepEqual(
    seen.pids.filter((pid) => !isUsers(pid)),
    [],
    `only ${own.pid} and ${user.pid}, not ${[...others, becameRoot, groupless].map(({ pid }) => pid)}`,
  );
  const isKernels = (address: string): boolean => BigInt(address) >= 2n ** 63n;
  assert.equal(seen.ips.some(isKernels), false);
  assert.ok(seen.ips.includes("0"), "samples in the kernel are shown, and not where");
  const contextUser = String(2n ** 64n - 512n);
  assert.deepEqual(
    seen.frames.filter((frame) => isKernels(frame) && frame !== contextUser),
    [],
  );
  assert.ok(seen.frames.length > 0);
  assert.ok(seen.taskPids.includes(own.pid), "the snapshot tells of it");
  assert.deepEqual(
    seen.taskPids.filter((pid) => !isUsers(pid)),
    [],
  );
  assert.deepEqual(
    seen.records.filter((record) => !["comm", "mmap", "fork", "exit", "namespaces"].includes(record)),
    [],
  );

  const root = connectTo(t, daemon);
  const all = await root.register({
    name: "all",
    events: [{ event: "cpu-clock", frequencyHz: 500 }],
    fields: ["CALLCHAIN"],
  });
  const pids = new Set<number>();
  for await (const delivery of root.subscribe(all.handlerId)) {
    if (delivery.kind !== "samples") continue;
    for (const pid of delivery.pid) pids.add(pid);
    if ([own, ...others, becameRoot, groupless].every(({ pid }) => pids.has(pid))) break;
  }
});

test("a process that was the user's is not shown once it has become root's, nor while it was", OPTIONS, async (t) => {
  // Two dispatchers: what is told on one CPU concerns samples that the other one drains.
  const daemon = await start(t, ["--dispatchers", "2"]);
  if (daemon === null) return;
  const program = setuidCopy(t);
  const user = new UserClient(t, daemon.address, USER);
  const { handler_id } = await user.call<Registered>("Register", {
    name: "mine",
    events: [{ event: "cpu-clock", frequency_hz: 1000 }],
    queue: { flush_interval_ms: 400 },
    tasks: true,
  });
  // A child of the user's shell becomes root's program, again and again.
  const bounded = `${program} if=/dev/zero of=/dev/null bs=64k count=20000 2>/dev/null`;
  const loop = `while :; do (exec ${bounded}); done`;
  const shell = burn(t, asUser(USER), ["sh", "-c", loop]);
  const steady = burn(t, asUser(USER), LOOP);
  const roots = new Set<number>();
  const watch = setInterval(() => {
    for (const pid of childrenOf(shell.pid)) if (effectiveUid(pid) === 0) roots.add(pid);
  }, 1);
  const seen = await user.collect(handler_id, 3000, steady.pid);
  clearInterval(watch);
  assert.ok(roots.size > 3, `${roots.size} programs of root's were seen to run`);
  // Before it became root's it was the user's for a moment, which may be shown.
  const shown = [...roots].map((pid) => seen.samplesOf[pid] ?? 0);
  assert.ok(Math.max(...shown) <= 2, `samples of root's programs: ${shown}`);
});

function childrenOf(pid: number): number[] {
  try {
    return fs.readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim().split(" ").filter(Boolean).map(Number);
  } catch {
    return [];
  }
}

function effectiveUid(pid: number): number | null {
  try {
    return Number(uidsOf(pid).split("\t")[1]);
  } catch {
    return null;
  }
}

test(
  "a user may do with its own handlers what it may not with others', and every refusal is written down",
  OPTIONS,
  async (t) => {
    const daemon = await start(t);
    if (daemon === null) return;
    const root = connectTo(t, daemon);
    const theirs = await root.register({ name: "root's", events: [{ event: "cpu-clock" }] });
    const handlerId = String(theirs.handlerId);
    const user = new UserClient(t, daemon.address, USER);
    const refusals: readonly (readonly [method: string, message: object, expected: RegExp])[] = [
      ["Subscribe", { handler_id: handlerId }, /^PERMISSION_DENIED: handler_id: \d+ is not a handler of uid=23451/],
      ["Deregister", { handler_id: handlerId }, /^PERMISSION_DENIED: handler_id: \d+ is not a handler of uid=23451/],
      ["Register", { name: "a", fields: ["RAW"] }, /^PERMISSION_DENIED: fields\[0\]: RAW may hold kernel addresses/],
      ["Register", { name: "a", fields: ["READ"] }, /^PERMISSION_DENIED: fields\[0\]: READ tells what a whole CPU/],
      ["Register", { name: "a", exclusive: true }, /^PERMISSION_DENIED: exclusive: /],
      ["Register", { name: "a", tasks: true, context_switches: true }, /^PERMISSION_DENIED: context_switches: /],
      [
        "Register",
        { name: "a", events: [{ event: "cpu-clock", frequency_hz: 1001 }] },
        /^PERMISSION_DENIED: events\[0\]\.frequency_hz: 1001 is not allowed: at most 1000 is \(rule "local users" of the default policy\)/,
      ],
      [
        "Register",
        { name: "a", events: [{ event: "page-faults", period: 1 }] },
        /^PERMISSION_DENIED: events\[0\]\.period/,
      ],
      [
        "Register",
        { name: "a", events: [{ event: "mem:0xffffffff81000000:x", frequency_hz: 100 }] },
        /^PERMISSION_DENIED: events\[0\]\.event: a breakpoint in the kernel/,
      ],
      [
        "Register",
        { name: "a", queue: { max_bytes: 2 ** 26 + 1 } },
        /^(INVALID_ARGUMENT|RESOURCE_EXHAUSTED): queue\.max_bytes/,
      ],
    ];
    for (const [method, message, expected] of refusals) assert.match(await user.refusal(method, message), expected);
    // What is refused as invalid, whoever asks, is none of the policy's decisions.
    const decided = refusals.length - 1;
    const audit = await poll("a line for each refusal", () => {
      const lines = auditOf(daemon);
      return lines.length >= decided ? lines : undefined;
    });
    assert.deepEqual(
      audit.slice(0, 3).map(({ rpc, peer, rule }) => [rpc, peer, rule]),
      ["Subscribe", "Deregister", "Register"].map((rpc) => [rpc, `uid=${USER} pid=${user.pid}`, "local users"]),
    );
    assert.ok(audit.length <= refusals.length);

    const own = await user.call<Registered>("Register", { name: "own", events: [{ event: "cpu-clock" }] });
    const { handlers } = await user.call<{ handlers: { name: string }[] }>("ListHandlers");
    assert.deepEqual(
      handlers.map(({ name }) => name),
      ["own"],
    );
    const status = await user.call<{
      handlers: number;
      totals: { registrations: string } | null;
      dispatchers: object[];
    }>("GetStatus");
    assert.deepEqual([status.handlers, status.totals, status.dispatchers], [1, null, []]);
    assert.equal((await root.listHandlers()).handlers.length, 2);

    const other = new UserClient(t, daemon.address, OTHER);
    assert.match(await other.refusal("Deregister", { handler_id: own.handler_id }), /^PERMISSION_DENIED/);
    await user.call("Deregister", { handler_id: own.handler_id });
    const ids: string[] = [];
    for (let i = 0; i < 16; i++) {
      const request = { name: `many ${i}`, queue: { max_bytes: 2 ** 20 } };
      ids.push((await user.call<Registered>("Register", request)).handler_id);
    }
    assert.match(
      await user.refusal("Register", { name: "one more" }),
      /^RESOURCE_EXHAUSTED: name: 16 handlers of uid=23451/,
    );
    await user.call("Deregister", { handler_id: ids[0] });
    await user.call("Register", { name: "one more", queue: { max_bytes: 2 ** 20 } });
  },
);

test("a policy is read again with the configuration, and one that will not do changes nothing", OPTIONS, async (t) => {
  const policy = policyFile(
    t,
    `
  - { name: root, match: { users: [root] }, allow: everything }
  - { name: staff, match: { groups: [7777] }, allow: { processes: all, kernel_addresses: true } }
  - { name: user, match: { users: [${USER}] }, allow: { events: ["cpu-clock*"], processes: all } }`,
  );
  const daemon = await start(t, policy.args);
  if (daemon === null) return;
  const other = new UserClient(t, daemon.address, OTHER);
  for (const method of ["GetStatus", "ListEvents", "ListHandlers", "Register"]) {
    assert.match(
      await other.refusal(method),
      /^PERMISSION_DENIED: no rule of .*policy\.yaml speaks of uid=23452/,
      method,
    );
  }
  const user = new UserClient(t, daemon.address, USER);
  assert.match(
    await user.refusal("Register", { name: "a", events: [{ event: "cpu/event=0x3c,name=cpu-clock/" }] }),
    /^PERMISSION_DENIED: events\[0\]\.event: .* is not allowed: cpu-clock\* is \(rule "user" of .*policy\.yaml\)/,
  );
  const staff = new UserClient(t, daemon.address, USER, [7777]);
  const unredacted = await staff.call<Registered>("Register", { name: "staff's", events: [{ event: "cpu-clock" }] });
  assert.match(
    await user.refusal("Subscribe", { handler_id: unredacted.handler_id }),
    /^PERMISSION_DENIED: handler_id: \d+ is given samples that the peer may not see/,
    "the same user, without the group",
  );

  policy.write("  - { name: root, match: { users: [nobody-of-that-name] }, allow: everything }");
  process.kill(daemon.pid, "SIGHUP");
  const refused = await poll("the refusal", () => daemon.logs.find((line) => line.includes("reload refused")));
  assert.match(refused, /no user \\"nobody-of-that-name\\"/);
  const kept = await user.call<Registered>("Register", { name: "kept", events: [{ event: "cpu-clock" }] });
  const stream = user.collect(kept.handler_id, 0, 0);
  await poll("the stream", () => daemon.logs.find((line) => /"name":"kept".*handler subscribed/.test(line)));

  policy.write("  - { name: root, match: { users: [0] }, allow: everything }");
  process.kill(daemon.pid, "SIGHUP");
  await poll("the reload", () => daemon.logs.find((line) => line.includes("configuration reloaded")));
  assert.ok((await stream).ended, "what is not allowed any more ends");
  assert.match(await user.refusal("GetStatus"), /^PERMISSION_DENIED/);
  await poll("a line for each handler", () => {
    const revoked = auditOf(daemon).filter(({ rpc }) => rpc === "reload");
    return revoked.length === 2 || undefined;
  });
});

test("handlers come back after a restart on the terms that they were registered on", OPTIONS, async (t) => {
  const dir = fs.mkdtempSync("/dev/shm/nmid-policy-");
  t.after(() => fs.rmSync(dir, { recursive: true }));
  fs.chmodSync(dir, 0o711);
  const args = ["--runtime-dir", dir, "--listen", `unix:${path.join(dir, "s")}`];
  const before = await start(t, args);
  if (before === null) return;
  const own = burn(t, asUser(USER), COPY);
  burn(t, [], LOOP);
  const request = { name: "mine", events: [{ event: "cpu-clock", frequency_hz: 500 }], lease_ms: 60_000 };
  const user = new UserClient(t, before.address, USER);
  const { handler_id } = await user.call<Registered>("Register", request);
  await before.stop();
  const daemon = await start(t, args);
  assert.ok(daemon);
  const other = new UserClient(t, daemon.address, OTHER);
  for (const method of ["Subscribe", "Deregister"]) {
    assert.match(
      await other.refusal(method, { handler_id }),
      /^PERMISSION_DENIED: handler_id: \d+ is not a handler of/,
    );
  }
  const again = new UserClient(t, daemon.address, USER);
  const seen = await again.collect(handler_id, 30, own.pid);
  assert.deepEqual(
    seen.pids.filter((pid) => ![own.pid, user.pid, again.pid].includes(pid)),
    [],
  );
  assert.ok(seen.ips.includes("0") && !seen.ips.some((ip) => BigInt(ip) >= 2n ** 63n));
});
