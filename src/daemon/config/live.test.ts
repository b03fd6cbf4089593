import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { ConfigError } from "./errors.js";
import { configValue, LiveConfig, RELOADABLE } from "./live.js";
import { run } from "./load.test-support.js";
import { KEYS } from "./schema.js";

describe("LiveConfig", () => {
  it("finds every key of the schema in the configuration, but those of sections that are off", () => {
    const config = run({});
    for (const key of KEYS) {
      if (!key.startsWith("tls.")) assert.notEqual(configValue(config, key), undefined, key);
    }
    const files = "{cert: /c.pem, key: /k.pem, client_ca: /ca.pem}";
    assert.equal(configValue(run({ file: `tls: ${files}` }), "tls.client_ca"), "/ca.pem");
    for (const key of RELOADABLE) assert(KEYS.includes(key), key);
  });

  it("puts in force what can be, and says what waits for a restart", async () => {
    const live = new LiveConfig(run({}));
    const file = "{log_level: debug, capacity: 7, limits: {lease_max_ms: 20000, connections_max: 5000}}";
    const fresh = run({ file });
    assert.deepEqual(await live.reload(fresh), {
      changed: ["log_level", "limits.lease_max_ms"],
      pending: ["capacity", "limits.connections_max"],
    });
    const { limits } = run({});
    assert.deepEqual(live.current, { ...run({}), logLevel: "debug", limits: { ...limits, leaseMaxMs: 20_000 } });
    assert.equal(live.limits.leaseMaxMs, 20_000);
    // What waits is told each time, and what has changed is not changed again.
    assert.deepEqual(await live.reload(fresh), { changed: [], pending: ["capacity", "limits.connections_max"] });
  });

  it("takes back what is not set any more", async () => {
    const live = new LiveConfig(run({ file: "overload: lower" }));
    assert.deepEqual(await live.reload(run({})), { changed: ["overload"], pending: [] });
    assert.deepEqual(live.current, run({}));
  });

  it("refuses what does not agree with a value that stays, and keeps all", async () => {
    const before = run({ argv: ["--dispatchers", "8"] });
    const live = new LiveConfig(before);
    const fresh = run({ file: "{log_level: debug, limits: {queue_default_bytes: 66000}}" });
    await assert.rejects(live.reload(fresh), (error) => {
      assert(error instanceof ConfigError);
      assert.match(error.message, /dispatchers and limits.queue_default_bytes: do not agree while .* restart/);
      return true;
    });
    assert.equal(live.current, before);
  });

  it("has everybody check before anything takes effect", async () => {
    const live = new LiveConfig(run({}));
    const committed: string[] = [];
    let refuses = true;
    live.onReload({
      prepare:
        ({ logLevel }) =>
        () =>
          committed.push(`policy ${logLevel} ${live.current.logLevel}`),
    });
    live.onReload({
      prepare: async () => {
        if (refuses) throw new Error("certificate: expired; renew it");
        return () => committed.push("certificate");
      },
    });
    const fresh = run({ file: "log_level: debug" });
    await assert.rejects(live.reload(fresh), /expired/);
    assert.deepEqual(committed, []);
    assert.deepEqual(live.current, run({}));
    refuses = false;
    await live.reload(fresh);
    assert.deepEqual(committed, ["policy debug debug", "certificate"]);
  });
});
