import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, it } from "node:test";
import fc from "fast-check";
import type { Peer } from "./peer.js";
import { defaultPolicy, LOCAL_USER_RIGHTS, principalOf, ruleFor, visibilityOf } from "./policy.js";
import { parsePolicy } from "./policy-file.js";
import { covers, EVERYTHING, matchesPattern, SEES_EVERYTHING, type Visibility } from "./rights.js";

const unix = (uid: number, groups: readonly number[] = [uid]): Peer => ({
  kind: "unix",
  uid,
  gid: groups[0],
  pid: 1,
  groups,
});
const tls = (commonName: string, names: readonly string[] = []): Peer => ({
  kind: "tls",
  address: "10.0.0.1:1",
  commonName,
  names,
  fingerprint: "AA:bb",
});
const tcp: Peer = { kind: "tcp", address: "127.0.0.1:5" };

describe("the default policy", () => {
  const policy = defaultPolicy({ daemonUid: 500, operatorsGid: 900, insecure: false });
  const rights = (peer: Peer) => ruleFor(policy, peer)?.rights;

  it("gives everything to root, the daemon's user and members of group nmid", () => {
    for (const peer of [unix(0), unix(500), unix(7, [900]), unix(7, [7, 900])]) assert.equal(rights(peer), EVERYTHING);
  });

  it("gives other users of this machine their own processes, without kernel addresses", () => {
    assert.equal(rights(unix(7)), LOCAL_USER_RIGHTS);
    assert.deepEqual(visibilityOf(LOCAL_USER_RIGHTS, unix(7, [8, 9])), {
      kernelAddresses: false,
      owner: { uids: [7], gid: 8 },
    });
    const { administer, deregisterOthers, exclusive } = LOCAL_USER_RIGHTS;
    assert.deepEqual([administer, deregisterOthers, exclusive], [false, false, false]);
  });

  it("lets nobody else in", () => {
    assert.equal(rights(tls("anyone")), undefined);
    assert.equal(rights(tcp), undefined);
  });

  it("is what the example file says", () => {
    const text = readFileSync(new URL("../../../../systemd/policy.yaml", import.meta.url), "utf8");
    const rules = parsePolicy(text, "policy.yaml", {
      uid: (name) => (name === "root" ? 0 : 500),
      gid: (name) => (name === "nmid" ? 900 : null),
    });
    assert.deepEqual(rules, policy.rules);
  });

  it("knows no operators where there is no group nmid", () => {
    const without = defaultPolicy({ daemonUid: 500, operatorsGid: null, insecure: false });
    assert.equal(ruleFor(without, unix(7, [900]))?.rights, LOCAL_USER_RIGHTS);
  });

  it("trusts whoever reaches a port that is insecure by choice, and no certificate for that", () => {
    const insecure = defaultPolicy({ daemonUid: 500, operatorsGid: 900, insecure: true });
    assert.equal(ruleFor(insecure, tcp)?.rights, EVERYTHING);
    assert.equal(ruleFor(insecure, tls("anyone")), null);
  });
});

describe("the rule of a peer", () => {
  const names = { uid: () => null, gid: () => null };
  const rules = parsePolicy(
    `version: 1
rules:
  - { name: banned, match: { users: [7] }, allow: nothing }
  - { name: group, match: { groups: [20] }, allow: {} }
  - { name: fleet, match: { certificates: ["cn=*.fleet", "san=spiffe://x/*"] }, allow: { processes: all } }
  - { name: one, match: { certificates: ["sha256=aabb"] }, allow: everything }
  - { name: plain, match: { plaintext: true }, allow: { processes: all } }
`,
    "p",
    names,
  );
  const name = (peer: Peer) => ruleFor({ source: "p", rules }, peer)?.name;

  it("is the first that speaks of it", () => {
    assert.equal(name(unix(7, [20])), "banned");
    assert.equal(name(unix(8, [1, 20])), "group");
    assert.equal(name(unix(8, [1])), undefined);
    assert.equal(name(tls("a.fleet")), "fleet");
    assert.equal(name(tls("", ["b", "spiffe://x/y"])), "fleet");
    assert.equal(name(tls("a.fleet.evil")), "one", "by its fingerprint, whatever it calls itself");
    assert.equal(name(tcp), "plain");
  });

  it("says whose handlers are whose", () => {
    assert.equal(principalOf(unix(7, [1])), principalOf(unix(7, [2])));
    assert.notEqual(principalOf(unix(7)), principalOf(tls("uid=7")));
    assert.notEqual(principalOf(tls("", ["x"])), principalOf(tls("x")));
    assert.equal(principalOf(tls("")), "sha256=AA:bb");
    assert.equal(principalOf(tcp), "plaintext");
  });
});

describe("a pattern", () => {
  it("stands for itself, but for *", () => {
    for (const [pattern, text, expected] of [
      ["cycles", "cycles", true],
      ["cycles", "cycles:u", false],
      ["cycles*", "cycles:u", true],
      ["*", "", true],
      ["sched:*", "raw_syscalls:sys_enter", false],
      ["a*b*c", "a-b-b-c", true],
      ["a*b*c", "ac", false],
      ["ab*ba", "aba", false],
      ["c.cles", "cycles", false],
      ["*/event=*/", "cpu/event=0x3c/", true],
    ] as const) {
      assert.equal(matchesPattern(pattern, text), expected, `${pattern} ${text}`);
    }
  });

  it("is what a regular expression would say", () => {
    const few = fc.string({ unit: fc.constantFrom("a", "b", "*"), maxLength: 8 });
    fc.assert(
      fc.property(few, few, (pattern, raw) => {
        const text = raw.replaceAll("*", "");
        assert.equal(matchesPattern(pattern, text), new RegExp(`^${pattern.replaceAll("*", ".*")}$`).test(text));
      }),
    );
  });
});

describe("who may see what", () => {
  const see = (kernelAddresses: boolean, uids: readonly number[] | null, gid: number | null = null): Visibility => ({
    kernelAddresses,
    owner: uids === null ? null : { uids, gid },
  });

  it("covers what is less", () => {
    assert.ok(covers(SEES_EVERYTHING, see(false, [1])));
    assert.ok(covers(see(false, [1, 2]), see(false, [2], 5)));
    assert.ok(covers(see(false, [1], 5), see(false, [1], 5)));
    assert.ok(!covers(see(false, null), see(true, null)));
    assert.ok(!covers(see(true, [1]), see(true, null)));
    assert.ok(!covers(see(true, [1]), see(true, [1, 2])));
    assert.ok(!covers(see(true, [1], 5), see(true, [1], 6)));
    assert.ok(!covers(see(true, [1], 5), see(true, [1])));
  });
});
