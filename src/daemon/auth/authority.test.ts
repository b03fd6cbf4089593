import assert from "node:assert/strict";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it, type TestContext } from "node:test";
import { BrokerError } from "../broker/errors.js";
import type { AuditRecord } from "./access.js";
import { Authority } from "./authority.js";
import { systemNames } from "./names.js";
import { type Peer, UnknownPeerError } from "./peer.js";
import { PolicyError } from "./policy-file.js";

const USER: Peer = { kind: "unix", uid: 7, gid: 8, pid: 9, groups: [8] };
const names = { uid: () => null, gid: (name: string) => (name === "nmid" ? 900 : null) };

function open(t: TestContext, rules: string) {
  const dir = mkdtempSync(join(tmpdir(), "nmid-authority-"));
  t.after(() => rmSync(dir, { recursive: true }));
  const path = join(dir, "policy.yaml");
  const write = (text: string): void => writeFileSync(path, `version: 1\nrules: ${text}\n`, { mode: 0o600 });
  write(rules);
  const audit: AuditRecord[] = [];
  const changes: string[] = [];
  const peerOf = (call: object): Peer => {
    if ("peer" in call) return call.peer as Peer;
    throw new UnknownPeerError("nobody knows.");
  };
  const common = { insecure: false, names, peerOf, audit: (record: AuditRecord) => audit.push(record) };
  const authority = new Authority({ ...common, path, onChange: () => changes.push(authority.source) });
  return { authority, audit, changes, write, path, common };
}

const EVERYBODY = "[{ name: a, match: { any_local_user: true }, allow: everything }]";
const code = (expected: string) => (error: unknown) => error instanceof BrokerError && error.code === expected;

describe("the authority", () => {
  it("knows a call's peer, and refuses whose peer nobody knows", (t) => {
    const { authority, audit } = open(t, EVERYBODY);
    const access = authority.identify({ peer: USER }, "GetStatus");
    access.requireRule();
    assert.deepEqual([access.principal, access.rights.administer], ["uid=7", true]);
    assert.deepEqual(audit, []);
    assert.throws(() => authority.identify({}, "GetStatus"), code("UNAUTHENTICATED"));
    assert.deepEqual(
      audit.map(({ peer, rpc }) => [peer, rpc]),
      [["unknown", "GetStatus"]],
    );
  });

  it("refuses of whom no rule speaks: who says nothing of itself as unauthenticated", (t) => {
    const { authority, audit } = open(t, "[]");
    const tcp: Peer = { kind: "tcp", address: "127.0.0.1:5" };
    assert.throws(() => authority.access(USER, "ListEvents").requireRule(), code("PERMISSION_DENIED"));
    assert.throws(() => authority.access(tcp, "ListEvents").requireRule(), code("UNAUTHENTICATED"));
    assert.equal(audit.length, 2);
  });

  it("puts another policy in force when all of the configuration will do, and says so", (t) => {
    const { authority, changes, write, path } = open(t, EVERYBODY);
    write("[]");
    const commit = authority.prepare({ policy: path });
    assert.equal(authority.access(USER, "").rights.register, true, "not yet");
    commit();
    assert.equal(authority.access(USER, "").rights.register, false);
    authority.prepare({ policy: null })();
    assert.equal(authority.access({ ...USER, groups: [900] }, "").rights.administer, true, "the default one");
    assert.deepEqual(changes, [path, "the default policy"]);
  });

  it("keeps what is in force when another will not do", (t) => {
    const { authority, write, path } = open(t, EVERYBODY);
    for (const broken of ["[{}]", "}"]) {
      write(broken);
      assert.throws(() => authority.prepare({ policy: path }), PolicyError);
    }
    assert.throws(() => authority.prepare({ policy: `${path}.gone` }), /cannot be read: ENOENT/);
    assert.equal(authority.access(USER, "").rights.administer, true);
  });

  it("tells calls that last of another policy, as long as they do", (t) => {
    const { authority, path } = open(t, EVERYBODY);
    const told: string[] = [];
    const unwatch = authority.watch(() => told.push(authority.source));
    authority.prepare({ policy: null })();
    unwatch();
    authority.prepare({ policy: path })();
    assert.deepEqual(told, ["the default policy"]);
  });

  it("takes no policy that others than its owner can write", (t) => {
    const { common, path } = open(t, EVERYBODY);
    for (const mode of [0o666, 0o602, 0o660]) {
      chmodSync(path, mode);
      const told = new RegExp(`mode ${mode.toString(8)}: only root or the daemon's user may own it`);
      assert.throws(() => new Authority({ ...common, path }), told);
    }
  });
});

describe("names of this machine", () => {
  it("are found, and told from those that there are not", () => {
    assert.equal(systemNames.uid("root"), 0);
    assert.equal(systemNames.gid("root"), 0);
    assert.equal(systemNames.uid("no-such-user"), null);
    assert.equal(systemNames.gid("no-such-group"), null);
    // getent takes a number for an id: what is looked for is a name.
    assert.equal(systemNames.uid("0"), null);
    assert.equal(systemNames.uid("--help"), null);
  });
});
