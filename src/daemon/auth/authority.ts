/** The policy in force, and whose call it is. */
import { readFileSync, statSync } from "node:fs";
import { BrokerError } from "../broker/errors.js";
import { Access, type Audit } from "./access.js";
import { type Names, systemNames } from "./names.js";
import { type Peer, UnknownPeerError } from "./peer.js";
import { type DefaultPolicyParts, defaultPolicy, OPERATORS_GROUP, type Policy, ruleFor } from "./policy.js";
import { PolicyError, parsePolicy } from "./policy-file.js";

export interface AuthorityOptions {
  /** null: the default policy. */
  readonly path: string | null;
  readonly insecure: boolean;
  readonly audit: Audit;
  /** Throws UnknownPeerError. */
  readonly peerOf: (call: object) => Peer;
  readonly names?: Names;
  /** Another policy is in force. */
  readonly onChange?: () => void;
}

/** Group included: whoever writes the policy may do everything. */
const WRITABLE_BY_OTHERS = 0o022;

export class Authority {
  readonly #options: AuthorityOptions;
  readonly #watchers = new Set<() => void>();
  #policy: Policy;

  /** Throws PolicyError. */
  constructor(options: AuthorityOptions) {
    this.#options = options;
    this.#policy = load(options);
  }

  /** Where the policy in force is from. */
  get source(): string {
    return this.#policy.source;
  }

  /** Reads the policy again, perhaps from elsewhere, and returns what puts it in force. Throws PolicyError: all is as it was. */
  prepare({ policy: path }: { readonly policy: string | null }): () => void {
    const policy = load({ ...this.#options, path });
    return () => {
      this.#policy = policy;
      this.#options.onChange?.();
      for (const watcher of [...this.#watchers]) watcher();
    };
  }

  /** For calls that last: `watcher` is called when another policy has come into force, until what is returned is called. */
  watch(watcher: () => void): () => void {
    this.#watchers.add(watcher);
    return () => void this.#watchers.delete(watcher);
  }

  /** Whose call it is and what that peer may; throws BrokerError UNAUTHENTICATED where nobody can say. */
  identify(call: object, rpc: string): Access {
    let peer: Peer;
    try {
      peer = this.#options.peerOf(call);
    } catch (error) {
      if (!(error instanceof UnknownPeerError)) throw error;
      const record = { audit: true, peer: "unknown", rpc, rule: null, code: "UNAUTHENTICATED" } as const;
      this.#options.audit({ ...record, reason: error.message });
      throw new BrokerError("UNAUTHENTICATED", error.message, { cause: error });
    }
    return this.access(peer, rpc);
  }

  access(peer: Peer, rpc: string): Access {
    return new Access(peer, ruleFor(this.#policy, peer), this.#policy.source, rpc, this.#options.audit);
  }
}

function load({ path, insecure, names = systemNames }: AuthorityOptions): Policy {
  if (path === null) return defaultPolicy(thisMachine(insecure, names));
  let text: string;
  try {
    const { mode, uid } = statSync(path);
    const owners = [0, process.geteuid?.() ?? 0];
    if ((mode & WRITABLE_BY_OTHERS) !== 0 || !owners.includes(uid)) {
      const fault = `it belongs to uid ${uid} with mode ${(mode & 0o777).toString(8)}: only root or the daemon's user may own it, and nobody else write it.`;
      throw new PolicyError(path, [fault]);
    }
    text = readFileSync(path, "utf8");
  } catch (error) {
    if (error instanceof PolicyError) throw error;
    throw new PolicyError(path, [`it cannot be read: ${(error as Error).message}.`]);
  }
  return { source: path, rules: parsePolicy(text, path, names) };
}

function thisMachine(insecure: boolean, names: Names): DefaultPolicyParts {
  return { daemonUid: process.geteuid?.() ?? 0, operatorsGid: names.gid(OPERATORS_GROUP), insecure };
}
