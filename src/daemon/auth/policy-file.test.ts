import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { Names } from "./names.js";
import { PolicyError, parsePolicy } from "./policy-file.js";
import { EVERYTHING, NOTHING } from "./rights.js";

const NAMES: Names = {
  uid: (name) => (name === "alice" ? 1000 : null),
  gid: (name) => (name === "nmid" ? 900 : null),
};

function parse(rules: string): ReturnType<typeof parsePolicy> {
  return parsePolicy(`version: 1\nrules:\n${rules}`, "/etc/nmid/policy.yaml", NAMES);
}

function faults(text: string): readonly string[] {
  try {
    parsePolicy(text, "/etc/nmid/policy.yaml", NAMES);
  } catch (error) {
    assert.ok(error instanceof PolicyError);
    for (const fault of error.faults) assert.ok(error.message.includes(fault));
    assert.match(error.message, /\/etc\/nmid\/policy\.yaml/);
    return error.faults;
  }
  assert.fail("accepted");
}

const rule = (match: string, allow = "everything"): string =>
  `version: 1\nrules:\n  - { name: a, match: ${match}, allow: ${allow} }\n`;

describe("a policy file", () => {
  it("names users and groups by name or number, and certificates by what they say", () => {
    const [{ match }] = parse(
      '  - { name: a, match: { users: [alice, 7], groups: [nmid, 8], certificates: ["cn=ci", "sha256=AB:cd"] }, allow: everything }',
    );
    assert.deepEqual(match, {
      uids: [1000, 7],
      gids: [900, 8],
      certificates: ["cn=ci", "sha256=abcd"],
      plaintext: false,
      anyLocalUser: false,
    });
  });

  it("allows everything, nothing, or what it says and no more", () => {
    const rules = parse(`
  - { name: a, match: { users: [alice] }, allow: everything }
  - { name: b, match: { users: [1] }, allow: nothing }
  - { name: c, match: { users: [2] }, allow: {} }
  - name: d
    match: { certificates: [cn=x] }
    allow:
      events: ["cpu-clock*"]
      rate_max_hz: 99
      handlers_max: 2
      queue_max_bytes: 4096
      kernel_addresses: true
      processes: { users: [alice, 5] }
      exclusive: true
      deregister_others: true
      administer: true
`);
    assert.deepEqual(rules[0].rights, EVERYTHING);
    assert.deepEqual(rules[1].rights, NOTHING);
    assert.deepEqual(rules[2].rights, { ...NOTHING, register: true, events: ["*"] });
    assert.deepEqual(rules[3].rights, {
      register: true,
      events: ["cpu-clock*"],
      rateMaxHz: 99,
      handlersMax: 2,
      queueMaxBytes: 4096,
      kernelAddresses: true,
      processes: [1000, 5],
      exclusive: true,
      deregisterOthers: true,
      administer: true,
    });
  });

  it("may have no rule: then nobody may do anything", () => {
    assert.deepEqual(parsePolicy("version: 1\nrules: []\n", "", NAMES), []);
  });

  for (const [what, text, expected] of [
    ["is no YAML", "version: [", /^line 1: /],
    ["is empty", "", /^the file: /],
    ["has another version", "version: 2\nrules: []\n", /^version: is not 1/],
    ["has a key that there is not", "version: 1\nrules: []\nrule: []\n", /^the file: .*"rule"/],
    [
      "misspells a right",
      rule("{ users: [1] }", "{ kernel_adresses: true }"),
      /^rules\[0\]\.allow: .*"kernel_adresses"/,
    ],
    ["gives a right another type", rule("{ users: [1] }", "{ register: 1 }"), /^rules\[0\]\.allow\.register: /],
    ["gives a rate of nothing", rule("{ users: [1] }", "{ rate_max_hz: 0 }"), /^rules\[0\]\.allow\.rate_max_hz: /],
    ["allows what is no word", rule("{ users: [1] }", "all"), /^rules\[0\]\.allow: is neither/],
    ["speaks of nobody", rule("{}"), /^rules\[0\]\.match: names nobody/],
    ["speaks of nobody by a list", rule("{ users: [] }"), /^rules\[0\]\.match: names nobody/],
    [
      "names a user that there is not",
      rule("{ users: [alice, bob] }"),
      /^rules\[0\]\.match\.users\[1\]: no user "bob"/,
    ],
    [
      "names a group that there is not",
      rule("{ groups: [wheel] }"),
      /^rules\[0\]\.match\.groups\[0\]: no group "wheel"/,
    ],
    ["names uid -1", rule("{ users: [4294967295] }"), /^rules\[0\]\.match\.users\[0\]/],
    [
      "names a certificate by nothing",
      rule("{ certificates: [ci] }"),
      /^rules\[0\]\.match\.certificates\[0\]: .*cn=NAME/,
    ],
    ["gives a certificate own processes", rule("{ certificates: [cn=a] }", "{}"), /^rules\[0\]\.allow\.processes: own/],
    [
      "has processes of nobody",
      rule("{ users: [1] }", "{ processes: { users: [] } }"),
      /^rules\[0\]\.allow\.processes/,
    ],
    [
      "gives two rules one name",
      "version: 1\nrules:\n  - { name: a, match: { users: [1] }, allow: nothing }\n  - { name: a, match: { users: [2] }, allow: nothing }\n",
      /^rules\[1\]\.name: "a" is given twice/,
    ],
  ] as const) {
    it(`is refused when it ${what}`, () => {
      const [first] = faults(text);
      assert.match(first, expected);
    });
  }

  it("is told all that is wrong with it at once", () => {
    assert.equal(
      faults("version: 1\nrules:\n  - { name: a, match: { users: [bob], groups: [wheel] }, allow: {} }\n").length,
      2,
    );
  });
});
