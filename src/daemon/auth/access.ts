/** One peer's call, and what the policy says of it. A refusal is written down here, before the client hears of it. */
import { BrokerError, type BrokerErrorCode } from "../broker/errors.js";
import { describePeer, type Peer } from "./peer.js";
import { principalOf, visibilityOf } from "./policy.js";
import type { Rule } from "./policy-file.js";
import { NOTHING, type Rights, type Visibility } from "./rights.js";

/** What is written down of a decision against a request. */
export interface AuditRecord {
  readonly audit: true;
  readonly peer: string;
  readonly rpc: string;
  /** null: no rule speaks of the peer. */
  readonly rule: string | null;
  readonly code: BrokerErrorCode;
  readonly reason: string;
}

export type Audit = (record: AuditRecord) => void;

export class Access {
  readonly peer: Peer;
  readonly principal: string;
  readonly rights: Rights;
  /** null: it may see nothing. */
  readonly visibility: Visibility | null;
  readonly #rule: Rule | null;
  readonly #policy: string;
  readonly rpc: string;
  readonly #audit: Audit;

  /** `policy` is where the rule is from, `rpc` the method's name. */
  constructor(peer: Peer, rule: Rule | null, policy: string, rpc: string, audit: Audit) {
    this.peer = peer;
    this.principal = principalOf(peer);
    this.rights = rule?.rights ?? NOTHING;
    this.visibility = rule === null ? null : visibilityOf(rule.rights, peer);
    this.#rule = rule;
    this.#policy = policy;
    this.rpc = rpc;
    this.#audit = audit;
  }

  /** `what` says what was asked for and what is allowed, "events[0].event: …" with its field. */
  deny(what: string, code: BrokerErrorCode = "PERMISSION_DENIED"): never {
    this.note(what, code);
    throw new BrokerError(code, `${what} (rule "${this.#rule?.name ?? "none"}" of ${this.#policy}).`);
  }

  /** Writes down a decision against the peer. */
  note(what: string, code: BrokerErrorCode = "PERMISSION_DENIED"): void {
    const rule = this.#rule?.name ?? null;
    this.#audit({ audit: true, peer: describePeer(this.peer), rpc: this.rpc, rule, code, reason: what });
  }

  /** Throws unless some rule speaks of the peer. */
  requireRule(): void {
    if (this.#rule !== null) return;
    const isUnknown = this.peer.kind === "tcp";
    const code = isUnknown ? "UNAUTHENTICATED" : "PERMISSION_DENIED";
    const what = isUnknown
      ? `${describePeer(this.peer)} comes over plain TCP and says nothing of itself: connect to the daemon's Unix socket, or with a certificate`
      : `no rule of ${this.#policy} speaks of ${describePeer(this.peer)}: have one added, or connect as somebody whom one speaks of`;
    this.note(what, code);
    throw new BrokerError(code, `${what}.`);
  }

  /** Whether a handler is the peer's own. */
  owns({ principal }: { readonly principal: string }): boolean {
    return principal === this.principal;
  }
}
