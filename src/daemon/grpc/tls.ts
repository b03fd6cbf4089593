/** TLS with certificates on both sides, before HTTP/2 is spoken. */
import type { Socket } from "node:net";
import { createServer, type Server, type TLSSocket } from "node:tls";
import { certificatePeer } from "../auth/certificate.js";
import type { Peer } from "../auth/peer.js";
import type { TlsFiles } from "../config/config.js";
import { Certificates, type CertificatesOptions, contextOptions } from "./certificates.js";
import { type Connections, hostAndPort } from "./connections.js";
import type { Refusals } from "./refusals.js";

type Secured = (tls: Socket, peer: Peer) => void;

export interface TlsParts extends Omit<CertificatesOptions, "files"> {
  readonly files: TlsFiles;
  readonly refusals: Refusals;
  readonly handshakeTimeoutMs: number;
}

export class TlsDoor {
  readonly #certificates: Certificates;
  readonly #server: Server;
  /** Connections that shake hands, by both their ends: Node does not say which socket a TLSSocket was made of. */
  readonly #pending = new Map<string, Secured>();

  /** Throws CertificateError. */
  constructor({ refusals, handshakeTimeoutMs, ...certificates }: TlsParts) {
    this.#certificates = new Certificates(certificates);
    this.#server = createServer({
      ...contextOptions(this.#certificates.current),
      ALPNProtocols: ["h2"],
      requestCert: true,
      rejectUnauthorized: true,
      handshakeTimeout: handshakeTimeoutMs,
    });
    this.#server.on("secureConnection", (tls) => this.#secured(tls));
    this.#server.on("tlsClientError", (error, { remoteAddress, remotePort }) => {
      const peer = remoteAddress === undefined ? "unknown" : `${remoteAddress}:${remotePort}`;
      refusals.count("tls", peer, `TLS failed: ${error.message.trim()}`);
    });
  }

  /** Seconds since the epoch. */
  get expiresAt(): number {
    return this.#certificates.current.expiresAt;
  }

  accept(socket: Socket, connections: Connections): void {
    if (this.#certificates.refresh()) this.#server.setSecureContext(contextOptions(this.#certificates.current));
    connections.acceptTls(socket, (secured) => {
      const ends = endsOf(socket);
      this.#pending.set(ends, secured);
      socket.once("close", () => {
        if (this.#pending.get(ends) === secured) this.#pending.delete(ends);
      });
      this.#server.emit("connection", socket);
    });
  }

  #secured(tls: TLSSocket): void {
    const ends = endsOf(tls);
    const secured = this.#pending.get(ends);
    this.#pending.delete(ends);
    // Without HTTP/2 in ALPN there is nothing to speak; without a certificate, nobody to speak with.
    if (secured === undefined || !tls.authorized || tls.alpnProtocol !== "h2") return void tls.destroy();
    tls.on("error", () => {});
    secured(tls, certificatePeer(tls.getPeerCertificate(), hostAndPort(tls.remoteAddress ?? "", tls.remotePort ?? 0)));
  }
}

function endsOf(socket: Socket): string {
  return `${socket.remoteAddress} ${socket.remotePort} ${socket.localAddress} ${socket.localPort}`;
}
