/** The peer whom a certificate names. */
import type { DetailedPeerCertificate, PeerCertificate } from "node:tls";
import type { Peer } from "./peer.js";

/** What may be a name of a peer. Others, such as directory names, are not for comparing. */
const NAME = /^(?:DNS|IP Address|URI|email):(.*)$/s;

/** @param certificate one that the configured authority has signed. */
export function certificatePeer(certificate: PeerCertificate | DetailedPeerCertificate, address: string): Peer {
  // Node gives a list where there are several: then which one is meant is anyone's guess.
  const commonName: unknown = certificate.subject?.CN;
  return {
    kind: "tls",
    address,
    commonName: typeof commonName === "string" ? commonName : "",
    names: alternativeNames(certificate.subjectaltname ?? ""),
    fingerprint: certificate.fingerprint256.replaceAll(":", "").toLowerCase(),
  };
}

/**
 * Node's text of them: `DNS:a.example, URI:spiffe://x/y`, with whatever could be taken for more than one in double quotes
 * as JSON has them.
 */
export function alternativeNames(text: string): string[] {
  const names: string[] = [];
  for (const [entry] of text.matchAll(/(?:"(?:[^"\\]|\\.)*"|[^",])+/g)) {
    const value = NAME.exec(entry.trim())?.[1];
    if (value === undefined) continue;
    names.push(value.startsWith('"') ? String(JSON.parse(value)) : value);
  }
  return names;
}
