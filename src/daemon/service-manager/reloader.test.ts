import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { DaemonConfig } from "../config/config.js";
import { ConfigError } from "../config/errors.js";
import type { ReloadReport } from "../config/live.js";
import { run } from "../config/load.test-support.js";
import { Reloader } from "./reloader.js";

const PROBLEM = { origin: "f.yaml:1 key capacity", what: "0 is below 1", remedy: "give more" };

function setUp() {
  const events: string[] = [];
  const state = {
    load: (): DaemonConfig => run({}),
    apply: (): Promise<ReloadReport> => Promise.resolve({ changed: ["log_level"], pending: [] }),
  };
  const say =
    (level: string) =>
    (fields: object, message: string): void => {
      events.push(`${level}: ${message} ${JSON.stringify(fields)}`);
    };
  const reloader = new Reloader({
    load: () => {
      events.push("load");
      return state.load();
    },
    apply: () => state.apply(),
    notifier: { reloading: () => events.push("RELOADING"), ready: (status) => events.push(`READY ${status}`) },
    status: () => "serving",
    log: { info: say("info"), warn: say("warn"), error: say("error") },
  });
  return { reloader, events, state };
}

describe("Reloader", () => {
  it("tells the manager when it begins and when it is done, and the log what has changed", async () => {
    const { reloader, events, state } = setUp();
    state.apply = () => Promise.resolve({ changed: ["log_level"], pending: ["capacity", "listen"] });
    await reloader.reload();
    assert.deepEqual(events, [
      "RELOADING",
      "load",
      'info: configuration reloaded {"changed":["log_level"]}',
      'warn: changed, but not before a restart: capacity, listen {"pending":["capacity","listen"]}',
      "READY serving",
    ]);
  });

  it("tells of a configuration that will not do until another will", async () => {
    const { reloader, events, state } = setUp();
    const { load } = state;
    state.load = () => {
      throw new ConfigError([PROBLEM]);
    };
    await reloader.reload();
    assert.match(events[2], /^error: reload refused, .*0 is below 1; give more \{"problems":\[/s);
    assert.match(events[3], /^READY serving; RELOAD REFUSED, the old configuration stays: .*0 is below 1/s);
    assert.match(reloader.status, /REFUSED/);
    state.load = load;
    await reloader.reload();
    assert.equal(events.at(-1), "READY serving");
    assert.equal(reloader.status, "serving");
  });

  it("takes what the daemon refuses for a refusal, too", async () => {
    const { reloader, events, state } = setUp();
    state.apply = () => Promise.reject(new Error("policy: no such file; name one"));
    await reloader.reload();
    assert.match(String(events.at(-1)), /^READY serving; RELOAD REFUSED.*policy: no such file; name one$/);
  });

  it("reads once more for all who ask while it is at it, and is ready once", async () => {
    const { reloader, events, state } = setUp();
    const applied: ((report: ReloadReport) => void)[] = [];
    state.apply = () => new Promise((resolve) => applied.push(resolve));
    const first = reloader.reload();
    const all = [first, reloader.reload(), reloader.reload()];
    applied[0]({ changed: [], pending: [] });
    await new Promise(setImmediate);
    assert.equal(applied.length, 2);
    applied[1]({ changed: [], pending: [] });
    await Promise.all(all);
    assert.equal(applied.length, 2);
    assert.equal(events.filter((event) => event === "load").length, 2);
    assert.equal(events.filter((event) => event.startsWith("READY")).length, 1);
  });
});
