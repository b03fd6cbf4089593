import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { describe, it, type TestContext } from "node:test";
import { Notifier, notifierFor } from "./notify.js";

/** A manager that notes what it is told, while it is not told to be busy or gone. */
function setUp() {
  const told: string[] = [];
  const problems: string[] = [];
  const state: { full: boolean; gone: boolean } = { full: false, gone: false };
  const notifier = new Notifier({
    send: (message) => {
      if (state.gone) throw new Error("sendto: ECONNREFUSED");
      if (!state.full) told.push(message);
      return !state.full;
    },
    nowUs: () => 123_456n,
    onProblem: ({ message }) => problems.push(message),
  });
  return { notifier, told, problems, state };
}

describe("Notifier", () => {
  it("says what sd_notify(3) defines, one variable a line", () => {
    const { notifier, told } = setUp();
    notifier.ready("serving");
    notifier.reloading();
    notifier.ready("serving\nREADY=0\r\n  a\u2028b\t");
    notifier.alive("well");
    notifier.status("failed");
    notifier.stopping();
    assert.deepEqual(told, [
      "READY=1\nSTATUS=serving",
      "RELOADING=1\nMONOTONIC_USEC=123456\nSTATUS=Reloading the configuration",
      "READY=1\nSTATUS=serving READY=0 a b ",
      "WATCHDOG=1\nSTATUS=well",
      "STATUS=failed",
      "STOPPING=1\nSTATUS=Stopping: streams are given what they are owed",
    ]);
  });

  it("keeps what a busy manager must not miss, in order, and not its meals", (t) => {
    t.mock.timers.enable({ apis: ["setTimeout"] });
    const { notifier, told, state } = setUp();
    state.full = true;
    notifier.ready("one");
    notifier.alive("two");
    notifier.stopping();
    t.mock.timers.tick(1000);
    assert.equal(told.length, 0);
    state.full = false;
    notifier.alive("three");
    assert.equal(told.length, 0, "nothing overtakes what waits");
    t.mock.timers.tick(1000);
    assert.match(told.join("\n"), /^READY=1\nSTATUS=one\nSTOPPING=1\n/);
    assert.equal(told.length, 2);
  });

  it("complains once of a manager that is gone, and finds one that is back", () => {
    const { notifier, told, problems, state } = setUp();
    state.gone = true;
    notifier.ready("one");
    notifier.alive("two");
    assert.deepEqual(problems, ["sendto: ECONNREFUSED"]);
    state.gone = false;
    notifier.alive("three");
    assert.deepEqual(told, ["WATCHDOG=1\nSTATUS=three"]);
    state.gone = true;
    notifier.alive("four");
    assert.equal(problems.length, 2);
  });
});

const RECEIVER = `
import socket, sys
name = sys.argv[1]
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind("\\0" + name[1:] if name[0] == "@" else name)
print("bound", flush=True)
print(s.recv(4096).decode().replace("\\n", "|"), flush=True)
`;

/** What a datagram socket of that name receives first; null where there is no Python to make one. */
async function received(t: TestContext, name: string, send: () => void): Promise<string | null> {
  const child = spawn("python3", ["-c", RECEIVER, name], { stdio: ["ignore", "pipe", "inherit"] });
  t.after(() => child.kill("SIGKILL"));
  const spawned = await Promise.race([once(child, "spawn").then(() => true), once(child, "error").then(() => false)]);
  if (!spawned) return null;
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  assert.equal((await lines.next()).value, "bound");
  send();
  return (await lines.next()).value as string;
}

describe("notifierFor", () => {
  const dir = mkdtempSync(join(tmpdir(), "nmid-notify-"));
  const unwanted = (error: Error): void => assert.fail(error);

  for (const name of [join(dir, "notify"), `@nmid-test-${process.pid}`]) {
    it(`reaches ${name[0] === "@" ? "an abstract socket" : "a socket with a path"}`, async (t) => {
      const notifier = notifierFor({ NOTIFY_SOCKET: name }, unwanted);
      const message = await received(t, name, () => notifier.ready("äöü"));
      if (message === null) t.skip("python3 is not installed");
      else assert.equal(message, "READY=1|STATUS=äöü");
      rmSync(dir, { recursive: true, force: true });
    });
  }

  it("says of a socket that is not there which one it is", () => {
    const problems: string[] = [];
    const name = "/nowhere/notify";
    notifierFor({ NOTIFY_SOCKET: name }, ({ message }) => problems.push(message)).ready("");
    assert.deepEqual(problems, [`the service manager cannot be told anything: sendto: ENOENT (${name})`]);
  });

  it("knows no other kinds of sockets, and tells nobody where none is named", () => {
    const problems: string[] = [];
    const onProblem = ({ message }: Error): number => problems.push(message);
    notifierFor({ NOTIFY_SOCKET: "vsock:2:1234" }, onProblem).ready("");
    assert.match(problems[0], /NOTIFY_SOCKET "vsock:2:1234" is neither/);
    for (const env of [{}, { NOTIFY_SOCKET: "" }]) notifierFor(env, unwanted).ready("");
  });
});
