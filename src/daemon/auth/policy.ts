/** Who may do what: the first rule that speaks of a peer. */
import type { Peer } from "./peer.js";
import type { Rule, RuleMatch } from "./policy-file.js";
import { EVERYTHING, matchesPattern, NOTHING, type Rights, type Visibility } from "./rights.js";

export interface Policy {
  /** For messages: the file's path, or "the default policy". */
  readonly source: string;
  readonly rules: readonly Rule[];
}

/** What the daemon knows of the machine it serves, and of itself. */
export interface DefaultPolicyParts {
  readonly daemonUid: number;
  /** Of group nmid; null: there is no such group. */
  readonly operatorsGid: number | null;
  /** Whoever reaches a plain TCP port is trusted: `insecure: true`. */
  readonly insecure: boolean;
}

export const OPERATORS_GROUP = "nmid";

const NOBODY: RuleMatch = { uids: [], gids: [], certificates: [], plaintext: false, anyLocalUser: false };

/** Bounds of what a user without privilege costs everybody. docs/policy.md shows them as a file. */
export const LOCAL_USER_RIGHTS: Rights = {
  ...NOTHING,
  register: true,
  events: ["*"],
  rateMaxHz: 1000,
  handlersMax: 16,
  queueMaxBytes: 64 * 1024 * 1024,
};

export function defaultPolicy({ daemonUid, operatorsGid, insecure }: DefaultPolicyParts): Policy {
  const gids = operatorsGid === null ? [] : [operatorsGid];
  const rules: Rule[] = [
    { name: "operators", match: { ...NOBODY, uids: [...new Set([0, daemonUid])], gids }, rights: EVERYTHING },
    { name: "local users", match: { ...NOBODY, anyLocalUser: true }, rights: LOCAL_USER_RIGHTS },
  ];
  if (insecure) rules.push({ name: "insecure", match: { ...NOBODY, plaintext: true }, rights: EVERYTHING });
  return { source: "the default policy", rules };
}

export function ruleFor({ rules }: Policy, peer: Peer): Rule | null {
  return rules.find(({ match }) => speaksOf(match, peer)) ?? null;
}

function speaksOf(match: RuleMatch, peer: Peer): boolean {
  switch (peer.kind) {
    case "unix":
      return (
        match.anyLocalUser ||
        match.uids.includes(peer.uid) ||
        match.gids.includes(peer.gid) ||
        peer.groups.some((gid) => match.gids.includes(gid))
      );
    case "tls": {
      const identities = [
        ...(peer.commonName === "" ? [] : [`cn=${peer.commonName}`]),
        ...peer.names.map((name) => `san=${name}`),
        `sha256=${peer.fingerprint.toLowerCase().replaceAll(":", "")}`,
      ];
      return match.certificates.some((pattern) => identities.some((identity) => matchesPattern(pattern, identity)));
    }
    case "tcp":
      return match.plaintext;
  }
}

/** null: it may see nothing, having no processes of its own. */
export function visibilityOf({ processes, kernelAddresses }: Rights, peer: Peer): Visibility | null {
  if (processes === "all") return { kernelAddresses, owner: null };
  if (processes !== "own") return { kernelAddresses, owner: { uids: processes, gid: null } };
  return peer.kind === "unix" ? { kernelAddresses, owner: { uids: [peer.uid], gid: peer.gid } } : null;
}

/**
 * Whose handlers are whose: a user of this machine has its own, from whichever process; who comes with a certificate those
 * of its name, which a new certificate does not change. Who says nothing of itself cannot be told from others who do not.
 */
export function principalOf(peer: Peer): string {
  switch (peer.kind) {
    case "unix":
      return `uid=${peer.uid}`;
    case "tls":
      if (peer.commonName !== "") return `cn=${peer.commonName}`;
      return peer.names.length > 0 ? `san=${peer.names[0]}` : `sha256=${peer.fingerprint}`;
    case "tcp":
      return "plaintext";
  }
}
