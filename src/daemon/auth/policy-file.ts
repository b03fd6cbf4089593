/** The policy file: text in, rules out. Everything that is wrong with it is told at once. docs/policy.md is for its writers. */
import { LineCounter, parseDocument } from "yaml";
import { z } from "zod";
import type { Names } from "./names.js";
import { EVERYTHING, NOTHING, type Rights } from "./rights.js";

/** Of whom a rule speaks: who is one of these. */
export interface RuleMatch {
  readonly uids: readonly number[];
  readonly gids: readonly number[];
  /** Patterns of `cn=NAME`, `san=NAME` and `sha256=HEX`. */
  readonly certificates: readonly string[];
  /** Who says nothing of itself: plain TCP. */
  readonly plaintext: boolean;
  readonly anyLocalUser: boolean;
}

export interface Rule {
  readonly name: string;
  readonly match: RuleMatch;
  readonly rights: Rights;
}

/** Each line is a fault and its remedy. */
export class PolicyError extends Error {
  override readonly name = "PolicyError";
  readonly code = "POLICY_INVALID";
  readonly faults: readonly string[];

  constructor(path: string, faults: readonly string[]) {
    super(`the policy ${path} is not valid: ${faults.join(" ")}`);
    this.faults = faults;
  }
}

const RULES_MAX = 1000;
const NAME_LENGTH_MAX = 64;
/** Beyond it numbers of users and groups mean none: (uid_t) -1. */
const ID_MAX = 2 ** 32 - 2;

const id = z.union([z.int().min(0).max(ID_MAX), z.string().min(1).max(256)], {
  error: "is neither a name nor a number",
});
const ids = z.array(id).max(RULES_MAX);
const texts = z.array(z.string().min(1).max(1024)).max(RULES_MAX);
const positive = z.int().min(1);

const CERTIFICATE = /^(cn|san|sha256)=./;

const allowSchema = z.strictObject({
  register: z.boolean().optional(),
  events: texts.min(1).optional(),
  rate_max_hz: positive.optional(),
  handlers_max: positive.optional(),
  queue_max_bytes: positive.optional(),
  kernel_addresses: z.boolean().optional(),
  processes: z
    .union([z.enum(["all", "own"]), z.strictObject({ users: ids.min(1) })], {
      error: "is neither all, own nor { users: [...] }",
    })
    .optional(),
  exclusive: z.boolean().optional(),
  deregister_others: z.boolean().optional(),
  administer: z.boolean().optional(),
});

const ruleSchema = z.strictObject({
  name: z.string().min(1).max(NAME_LENGTH_MAX),
  match: z.strictObject({
    users: ids.optional(),
    groups: ids.optional(),
    certificates: z
      .array(z.string().regex(CERTIFICATE, { error: "is no identity: write cn=NAME, san=NAME or sha256=HEX" }))
      .max(RULES_MAX)
      .optional(),
    plaintext: z.boolean().optional(),
    any_local_user: z.boolean().optional(),
  }),
  allow: z.union([z.literal("everything"), z.literal("nothing"), allowSchema], {
    // What is wrong with a mapping is said of its keys.
    error: ({ input }) => (typeof input === "object" ? undefined : "is neither everything, nothing nor a mapping"),
  }),
});

const fileSchema = z.strictObject({
  version: z.literal(1, { error: "is not 1, the only version there is" }),
  rules: z.array(ruleSchema).max(RULES_MAX),
});

type RuleText = z.output<typeof ruleSchema>;

/** `path` is for messages. Throws PolicyError, or what `names` throws. */
export function parsePolicy(text: string, path: string, names: Names): readonly Rule[] {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines });
  const [fault] = [...document.errors, ...document.warnings];
  if (fault !== undefined) {
    const { linePos, message } = fault;
    throw new PolicyError(path, [`line ${linePos?.[0].line ?? 1}: ${message.split("\n", 1)[0]}`]);
  }
  const raw = toValue(() => document.toJS({ maxAliasCount: 100 }), path);
  const result = fileSchema.safeParse(raw);
  if (!result.success) throw new PolicyError(path, result.error.issues.flatMap(issueLines));
  const faults: string[] = [];
  const rules = result.data.rules.map((rule, i) => toRule(rule, `rules[${i}]`, names, faults));
  for (const [i, { name }] of rules.entries()) {
    if (rules.findIndex((other) => other.name === name) !== i) {
      faults.push(`rules[${i}].name: "${name}" is given twice: refusals name the rule, so each needs its own.`);
    }
  }
  if (faults.length > 0) throw new PolicyError(path, faults);
  return rules;
}

function toValue(make: () => unknown, path: string): unknown {
  try {
    return make();
  } catch (error) {
    throw new PolicyError(path, [(error as Error).message]);
  }
}

type Issue = z.core.$ZodIssue;

/** Of a union whose parts all fail, that part is meant which got furthest. */
function issueLines(issue: Issue): string[] {
  if (issue.code === "invalid_union") {
    const deep = issue.errors.flat().filter(({ path, code }) => path.length > 0 || code === "unrecognized_keys");
    if (deep.length > 0) return deep.flatMap((part) => issueLines({ ...part, path: [...issue.path, ...part.path] }));
  }
  return [`${pathText(issue.path)}: ${issue.message}.`];
}

function pathText(path: readonly PropertyKey[]): string {
  const text = path.map((part) => (typeof part === "number" ? `[${part}]` : `.${String(part)}`)).join("");
  return text === "" ? "the file" : text.replace(/^\./, "");
}

function toRule({ name, match, allow }: RuleText, where: string, names: Names, faults: string[]): Rule {
  const { users = [], groups = [], certificates = [], plaintext = false, any_local_user = false } = match;
  const rule: Rule = {
    name,
    match: {
      uids: idsOf(users, names.uid, `${where}.match.users`, "user", faults),
      gids: idsOf(groups, names.gid, `${where}.match.groups`, "group", faults),
      certificates: certificates.map((text) =>
        text.replace(/^sha256=.*/, (hex) => hex.toLowerCase().replaceAll(":", "")),
      ),
      plaintext,
      anyLocalUser: any_local_user,
    },
    rights: toRights(allow, where, names, faults),
  };
  const isEmpty = users.length + groups.length + certificates.length === 0 && !plaintext && !any_local_user;
  if (isEmpty) {
    faults.push(
      `${where}.match: names nobody: give users, groups, certificates, plaintext: true or any_local_user: true.`,
    );
  }
  const isOwn = rule.rights.register && rule.rights.processes === "own";
  if (isOwn && (certificates.length > 0 || plaintext)) {
    faults.push(
      `${where}.allow.processes: own means nothing for who is no user of this machine: write all or { users: [...] }, or give the others a rule of their own.`,
    );
  }
  return rule;
}

function toRights(allow: RuleText["allow"], where: string, names: Names, faults: string[]): Rights {
  if (allow === "everything") return EVERYTHING;
  if (allow === "nothing") return NOTHING;
  const { processes = "own" } = allow;
  return {
    register: allow.register ?? true,
    events: allow.events ?? ["*"],
    rateMaxHz: allow.rate_max_hz ?? null,
    handlersMax: allow.handlers_max ?? null,
    queueMaxBytes: allow.queue_max_bytes ?? null,
    kernelAddresses: allow.kernel_addresses ?? false,
    processes:
      typeof processes === "string"
        ? processes
        : idsOf(processes.users, names.uid, `${where}.allow.processes.users`, "user", faults),
    exclusive: allow.exclusive ?? false,
    deregisterOthers: allow.deregister_others ?? false,
    administer: allow.administer ?? false,
  };
}

function idsOf(
  list: readonly (string | number)[],
  find: (name: string) => number | null,
  where: string,
  what: string,
  faults: string[],
): number[] {
  return list.flatMap((entry, i) => {
    if (typeof entry === "number") return [entry];
    const found = find(entry);
    if (found === null)
      faults.push(`${where}[${i}]: no ${what} "${entry}" on this machine: create it, or correct the name.`);
    return found ?? [];
  });
}
