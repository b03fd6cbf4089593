/** The daemon's certificate, its key and the authority of its clients, read again when the files change. */
import { createHash, X509Certificate } from "node:crypto";
import { readFileSync, statSync } from "node:fs";
import { createSecureContext, type SecureContextOptions } from "node:tls";
import type { TlsFiles } from "../config/config.js";

export class CertificateError extends Error {
  override readonly name = "CertificateError";
}

export interface Credentials {
  readonly cert: Buffer;
  readonly key: Buffer;
  readonly ca: Buffer;
  /** Until when the certificate is valid, seconds since the epoch. */
  readonly expiresAt: number;
  /** SHA-256 of the certificate, hexadecimal. */
  readonly fingerprint: string;
}

/** As SecureContextOptions: TLS 1.3 alone, in which the client's certificate is not sent in the clear. */
export function contextOptions({ cert, key, ca }: Credentials): SecureContextOptions {
  return { cert, key, ca, minVersion: "TLSv1.3" };
}

/** Reads the files and sees to it that they go together. Throws CertificateError, which names the file and the remedy. */
export function readCredentials(files: TlsFiles): Credentials {
  const cert = readPem("tls.cert", files.cert);
  const key = readPem("tls.key", files.key);
  const ca = readPem("tls.client_ca", files.clientCa);
  const certificate = parseCertificate("tls.cert", files.cert, cert);
  parseCertificate("tls.client_ca", files.clientCa, ca);
  const credentials: Credentials = {
    cert,
    key,
    ca,
    expiresAt: Date.parse(certificate.validTo) / 1000,
    fingerprint: createHash("sha256").update(certificate.raw).digest("hex"),
  };
  try {
    createSecureContext(contextOptions(credentials));
  } catch (error) {
    throw new CertificateError(
      `tls.key: ${files.key}: not usable with ${files.cert} (${(error as Error).message}): give the private key of that certificate, without a passphrase.`,
      { cause: error },
    );
  }
  return credentials;
}

function readPem(key: string, path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new CertificateError(`${key}: ${(error as Error).message}: name a file that the daemon may read.`, {
      cause: error,
    });
  }
}

function parseCertificate(key: string, path: string, pem: Buffer): X509Certificate {
  try {
    return new X509Certificate(pem);
  } catch (error) {
    throw new CertificateError(`${key}: ${path}: no certificate (${(error as Error).message}): give one in PEM form.`, {
      cause: error,
    });
  }
}

export interface CertificatesOptions {
  readonly files: TlsFiles;
  readonly onRenewed: (credentials: Credentials) => void;
  /** What is in the files will not do; what was in use stays in use. */
  readonly onProblem: (error: Error) => void;
}

/**
 * Looks at the files when a connection comes, so that nothing has to wake an idle daemon, and whatever has renewed them,
 * by writing, renaming or exchanging a symbolic link, no matter when, the next connection sees it.
 */
export class Certificates {
  readonly #options: CertificatesOptions;
  #state: string;
  #current: Credentials;

  /** Throws CertificateError. */
  constructor(options: CertificatesOptions) {
    this.#options = options;
    this.#state = stateOf(options.files);
    this.#current = readCredentials(options.files);
  }

  get current(): Credentials {
    return this.#current;
  }

  /** Whether `current` is another one than before. */
  refresh(): boolean {
    const state = stateOf(this.#options.files);
    if (state === this.#state) return false;
    // Told once for each change, not for each connection.
    this.#state = state;
    try {
      this.#current = readCredentials(this.#options.files);
    } catch (error) {
      this.#options.onProblem(error as Error);
      return false;
    }
    this.#options.onRenewed(this.#current);
    return true;
  }
}

/** The same for as long as no file has been changed or exchanged. */
function stateOf({ cert, key, clientCa }: TlsFiles): string {
  return [cert, key, clientCa]
    .map((path) => {
      try {
        const stat = statSync(path, { bigint: true });
        return `${stat.dev}:${stat.ino}:${stat.size}:${stat.mtimeNs}:${stat.ctimeNs}`;
      } catch (error) {
        return String((error as NodeJS.ErrnoException).code);
      }
    })
    .join(" ");
}
