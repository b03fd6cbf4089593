import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { PLAIN_ATTR, type Rate, type ResolvedEvent, UNGROUPED } from "../../pmu/source.js";
import { BrokerError } from "../broker/errors.js";
import type { HandlerSpec, RegisterRequestMessage } from "../broker/request.js";
import { Access, type AuditRecord } from "./access.js";
import type { Peer } from "./peer.js";
import { checkRequest, checkSpec } from "./register-checks.js";
import { EVERYTHING, NOTHING, type Rights } from "./rights.js";

const USER: Peer = { kind: "unix", uid: 7, gid: 8, pid: 9, groups: [8] };
const CERTIFICATE: Peer = { kind: "tls", address: "10.0.0.1:1", commonName: "ci", names: [], fingerprint: "ab" };
const PERF = { kind: "perf", defaultEvent: "cpu-clock" } as const;
const MATCH = { uids: [], gids: [], certificates: [], plaintext: false, anyLocalUser: true };
const USERS: Rights = { ...NOTHING, register: true, events: ["cpu-clock*"], rateMaxHz: 100 };
const NOTHING_HELD = { handlers: 0, queueBytes: 0 };

class Case {
  readonly audit: AuditRecord[] = [];
  readonly access: Access;

  constructor(rights: Partial<Rights>, peer = USER) {
    const rule = { name: "users", match: MATCH, rights: { ...USERS, ...rights } };
    this.access = new Access(peer, rule, "/p", "Register", (record) => this.audit.push(record));
  }

  request(part: Partial<RegisterRequestMessage> = {}, source: Parameters<typeof checkRequest>[2] = PERF) {
    return checkRequest(this.access, { ...REQUEST, ...part }, source);
  }

  /** What was said, having been written down, too. */
  refusal(decide: () => unknown): string {
    try {
      decide();
    } catch (error) {
      assert.ok(error instanceof BrokerError);
      const [{ audit, peer, rpc, rule, code, reason }] = this.audit.splice(0);
      assert.deepEqual([audit, rpc, rule, code], [true, "Register", "users", error.code]);
      assert.match(peer, /^(uid=7 pid=9|cn=ci .*)$/);
      assert.equal(error.message, `${reason} (rule "users" of /p).`);
      assert.equal(this.audit.length, 0, "one line a decision");
      return `${error.code} ${reason}`;
    }
    assert.deepEqual(this.audit, []);
    return "";
  }
}

const REQUEST: RegisterRequestMessage = {
  name: "a",
  events: [],
  filter: null,
  fields: [],
  queue: null,
  lease_ms: 0,
  tasks: false,
  context_switches: false,
  exclusive: false,
  branch_sample_type: 0,
};
const event = (text: string) => ({ event: text, frequency_hz: 0, period: 0 });

function spec(rate: Rate, part: Partial<ResolvedEvent> = {}, queueMaxBytes = 1): HandlerSpec {
  const resolved: ResolvedEvent = {
    ...PLAIN_ATTR,
    ...UNGROUPED,
    name: "e",
    key: "e",
    rate,
    periodUnit: "events",
    ...part,
  };
  return { events: [resolved], requestIndexes: [3], queueMaxBytes } as unknown as HandlerSpec;
}

describe("a request to register", () => {
  it("says what the peer may see", () => {
    assert.deepEqual(new Case({}).request(), { kernelAddresses: false, owner: { uids: [7], gid: 8 } });
    assert.deepEqual(new Case({ processes: [1, 2] }).request(), {
      kernelAddresses: false,
      owner: { uids: [1, 2], gid: null },
    });
    assert.deepEqual(
      new Case(EVERYTHING).request({ exclusive: true, context_switches: true, fields: ["AUX", "RAW"] }),
      {
        kernelAddresses: true,
        owner: null,
      },
    );
  });

  it("is refused without the right, and where there is nothing to see", () => {
    const none = new Case({ register: false });
    assert.match(
      none.refusal(() => none.request()),
      /^PERMISSION_DENIED Register: /,
    );
    const certificate = new Case({}, CERTIFICATE);
    assert.match(
      certificate.refusal(() => certificate.request()),
      /own processes are allowed, and it has none/,
    );
  });

  it("is refused by the event, as it is written", () => {
    const users = new Case({});
    assert.equal(
      users.refusal(() => users.request()),
      "",
      "the default one",
    );
    assert.equal(
      users.refusal(() => users.request({ events: [event(" cpu-clock:u ")] })),
      "",
    );
    const refused = users.refusal(() => users.request({ events: [event("cpu-clock"), event("cycles")] }));
    assert.match(refused, /^PERMISSION_DENIED events\[1\]\.event: "cycles" is not allowed: cpu-clock\* is$/);
    for (const other of ["{cpu-clock,cycles}:S", "cpu/event=1,name=cpu-clock/", "r3c"]) {
      assert.notEqual(
        users.refusal(() => users.request({ events: [event(other)] })),
        "",
        other,
      );
    }
    const cycles = new Case({ events: ["cycles"] });
    assert.match(
      cycles.refusal(() => cycles.request()),
      /"cpu-clock" is not allowed/,
      "the default one is one",
    );
  });

  for (const [field, rights, isRefused] of [
    ["RAW", {}, true],
    ["REGS_INTR", { processes: "all" }, true],
    ["PHYS_ADDR", { processes: "all" }, true],
    ["RAW", { kernelAddresses: true }, false],
    ["AUX", { kernelAddresses: true }, true],
    ["AUX", { processes: "all" }, true],
    ["READ", { kernelAddresses: true }, true],
    ["READ", { processes: "all" }, false],
    ["CALLCHAIN", {}, false],
    ["STACK_USER", {}, false],
  ] as const) {
    it(`${isRefused ? "may not" : "may"} ask for ${field} with ${JSON.stringify(rights)}`, () => {
      const users = new Case(rights);
      const refused = users.refusal(() => users.request({ fields: ["ADDR", field] }));
      assert.match(refused, isRefused ? new RegExp(`^PERMISSION_DENIED fields\\[1\\]: ${field}`) : /^$/);
    });
  }

  it("is refused what is others'", () => {
    const users = new Case({});
    assert.match(
      users.refusal(() => users.request({ exclusive: true })),
      /^PERMISSION_DENIED exclusive: /,
    );
    const switches = { tasks: true, context_switches: true };
    assert.match(
      users.refusal(() => users.request(switches)),
      /^PERMISSION_DENIED context_switches: /,
    );
    const replay = { kind: "replay", defaultEvent: "cpu-clock" } as const;
    assert.match(
      users.refusal(() => users.request({}, replay)),
      /a replay source belong to nobody/,
    );
    assert.equal(
      users.refusal(() => new Case({ processes: "all" }).request({}, replay)),
      "",
    );
  });
});

describe("what a request was understood to be", () => {
  it("is held to the highest rate, whichever way that is said", () => {
    const users = new Case({});
    const check = (rate: Rate, part: Partial<ResolvedEvent> = {}): string =>
      users.refusal(() => checkSpec(users.access, spec(rate, part), NOTHING_HELD));
    assert.equal(check({ kind: "frequency", hz: 100 }), "");
    assert.match(
      check({ kind: "frequency", hz: 101 }),
      /events\[3\]\.frequency_hz: 101 is not allowed: at most 100 is$/,
    );
    assert.equal(check({ kind: "period", period: 1e7 }, { periodUnit: "ns" }), "");
    assert.match(
      check({ kind: "period", period: 1e7 - 1 }, { periodUnit: "ns" }),
      /events\[3\]\.period: .*at least 10000000/,
    );
    assert.match(check({ kind: "period", period: 1e12 }), /events\[3\]\.period: e has no bound/);
    assert.match(check({ kind: "all" }), /give frequency_hz, of 100 at most/);
    const any = new Case({ rateMaxHz: null });
    assert.equal(
      any.refusal(() => checkSpec(any.access, spec({ kind: "all" }), NOTHING_HELD)),
      "",
    );
  });

  it("is no probe of the kernel's addresses, and no count of whole CPUs", () => {
    const users = new Case({ rateMaxHz: null });
    const check = (part: Partial<ResolvedEvent>, of = users): string =>
      of.refusal(() => checkSpec(of.access, spec({ kind: "all" }, part), NOTHING_HELD));
    assert.match(check({ type: 5, config1: 2n ** 63n }), /a breakpoint in the kernel/);
    assert.equal(check({ type: 5, config1: 2n ** 47n - 1n }), "");
    assert.equal(check({ type: 5, config1: 2n ** 63n }, new Case({ rateMaxHz: null, kernelAddresses: true })), "");
    assert.match(check({ sampleRead: true }), /tells what a whole CPU has counted/);
    assert.equal(check({ sampleRead: true }, new Case({ rateMaxHz: null, processes: "all" })), "");
  });

  it("is counted with the peer's other handlers", () => {
    const users = new Case({ handlersMax: 2, queueMaxBytes: 100 });
    const check = (handlers: number, queueBytes: number, own: number): string =>
      users.refusal(() =>
        checkSpec(users.access, spec({ kind: "frequency", hz: 1 }, {}, own), { handlers, queueBytes }),
      );
    assert.equal(check(1, 60, 40), "");
    assert.match(check(2, 0, 1), /^RESOURCE_EXHAUSTED name: 2 handlers of uid=7 are registered, and 2 are allowed/);
    assert.match(check(1, 61, 40), /^RESOURCE_EXHAUSTED queue\.max_bytes: 40 beside the 61/);
  });
});
