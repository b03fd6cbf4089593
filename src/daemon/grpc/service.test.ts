import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it, type TestContext } from "node:test";
import { Authority } from "../auth/authority.js";
import type { Peer } from "../auth/peer.js";
import { SEES_EVERYTHING } from "../auth/rights.js";
import { openBroker } from "../broker/broker.test-support.js";
import type { Handler } from "../broker/handler.js";
import { handlerSnapshot } from "../observe/collect.js";
import { CallStreams } from "./call-stream.js";
import { FramePool } from "./frame-pool.js";
import { brokerImplementation, type ServiceParts } from "./service.js";

const OWNER: Peer = { kind: "unix", uid: 7, gid: 7, pid: 1, groups: [7] };
const OTHER: Peer = { kind: "unix", uid: 8, gid: 8, pid: 2, groups: [8] };
const RULE_OF_OWNER = "{ name: owner, match: { users: [7] }, allow: { processes: all, kernel_addresses: true } }";
const OTHER_MAY = {
  everything: "{ name: other, match: { users: [8] }, allow: everything }",
  little: "{ name: other, match: { users: [8] }, allow: {} }",
} as const;

/** A server stream that takes whatever is written. */
class Call extends EventEmitter {
  readonly writableLength = 0;
  readonly cancelled = false;
  readonly messages: unknown[] = [];
  readonly request: object;
  readonly peer: Peer;

  constructor(peer: Peer, request: object = {}) {
    super();
    this.peer = peer;
    this.request = request;
    this.on("error", () => {});
  }

  write(message: unknown, written?: () => void): boolean {
    this.messages.push(message);
    written?.();
    return true;
  }

  end(): void {
    this.emit("finish");
  }
}

function open(t: TestContext) {
  const dir = mkdtempSync(join(tmpdir(), "nmid-service-"));
  t.after(() => rmSync(dir, { recursive: true }));
  const path = join(dir, "policy.yaml");
  const write = (...rules: string[]): void =>
    writeFileSync(path, `version: 1\nrules: [${rules.join(", ")}]\n`, { mode: 0o600 });
  write(RULE_OF_OWNER, OTHER_MAY.everything);
  const audit: string[] = [];
  const authority = new Authority({
    path,
    insecure: false,
    audit: ({ rpc, code }) => audit.push(`${rpc} ${code}`),
    peerOf: (call) => (call as Call).peer,
  });
  const { broker, parts, request, source } = openBroker();
  t.after(() => broker.stop(0));
  const implementation = brokerImplementation({
    authority,
    broker,
    source,
    snapshot: () => assert.fail("nobody asks for the status"),
    snapshotHandler: (handler: Handler) => handlerSnapshot(handler, parts),
    addresses: () => ({ listen: [], metrics: "" }),
    runtimeDir: "",
    streams: new CallStreams({ frames: new FramePool({ streamBytes: 2 ** 24 }), onFallback: () => {} }),
    onFault: (error) => assert.fail(error),
  } satisfies ServiceParts);
  const register = (name: string): Promise<Handler> =>
    broker.register(request(name), "", {
      principal: "uid=7",
      registrant: OWNER,
      visibility: SEES_EVERYTHING,
      admit: () => {},
    });
  const start = (rpc: "Subscribe" | "WatchHandlers", call: Call) => {
    const refusals: number[] = [];
    call.on("error", ({ code }: { code: number }) => refusals.push(code));
    (implementation[rpc] as unknown as (call: Call) => void)(call);
    return refusals;
  };
  const reload = (...rules: string[]): void => {
    write(...rules);
    authority.prepare({ policy: path })();
  };
  return { register, start, reload, audit };
}

const PERMISSION_DENIED = 7;

describe("another policy, and calls that last", () => {
  it("ends a stream of another's handler when its peer may not have it any more, which leaves the handler", async (t) => {
    const { register, start, reload, audit } = open(t);
    const handler = await register("a");
    const other = new Call(OTHER, { handler_id: handler.id });
    const refusals = start("Subscribe", other);
    reload(RULE_OF_OWNER, OTHER_MAY.everything);
    assert.deepEqual(refusals, []);
    assert.equal(handler.delivery.subscribed, true);
    reload(RULE_OF_OWNER, OTHER_MAY.little);
    assert.deepEqual(refusals, [PERMISSION_DENIED]);
    assert.deepEqual(audit, ["Subscribe PERMISSION_DENIED"]);
    assert.equal(handler.delivery.subscribed, false);
    assert.ok(handler.lease !== null);

    const own = new Call(OWNER, { handler_id: handler.id });
    const ownRefusals = start("Subscribe", own);
    reload(RULE_OF_OWNER);
    assert.deepEqual(ownRefusals, []);
    assert.equal(handler.delivery.subscribed, true);
    assert.deepEqual(refusals, [PERMISSION_DENIED], "who is gone is not asked again");
  });

  it("has a watcher of handlers told what its peer may be told by now, and ends it where that is nothing", async (t) => {
    const { register, start, reload } = open(t);
    await register("a");
    const call = new Call(OTHER);
    const refusals = start("WatchHandlers", call);
    await register("b");
    const kinds = (): unknown[] => call.messages.map((message) => (message as { kind: string }).kind);
    assert.deepEqual(kinds(), ["ADDED", "SYNCHRONIZED", "ADDED"]);
    reload(RULE_OF_OWNER, OTHER_MAY.little);
    await register("c");
    assert.deepEqual(kinds(), ["ADDED", "SYNCHRONIZED", "ADDED"]);
    assert.deepEqual(refusals, []);
    reload(RULE_OF_OWNER);
    assert.deepEqual(refusals, [PERMISSION_DENIED]);
  });
});
