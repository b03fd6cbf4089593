/** Certificates as an operator would make them, by openssl. */
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";

export interface Issued {
  readonly certFile: string;
  readonly keyFile: string;
}

/** A certification authority in a directory of its own. */
export class Authority {
  readonly caFile: string;
  readonly #keyFile: string;
  readonly #dir: string;

  constructor(dir: string, name: string) {
    this.#dir = path.join(dir, name);
    fs.mkdirSync(this.#dir);
    this.caFile = path.join(this.#dir, "ca.pem");
    this.#keyFile = path.join(this.#dir, "ca.key");
    openssl([
      ...["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"],
      ...["-subj", `/CN=${name}`, "-keyout", this.#keyFile, "-out", this.caFile],
    ]);
  }

  /** @param names as openssl writes alternative names: `DNS:a.example,IP:127.0.0.1`. */
  issue(commonName: string, names: string): Issued {
    const base = path.join(this.#dir, commonName);
    const [certFile, keyFile, request] = [`${base}.pem`, `${base}.key`, `${base}.csr`];
    openssl([
      ...["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", `/CN=${commonName}`],
      ...["-addext", `subjectAltName=${names}`, "-keyout", keyFile, "-out", request],
    ]);
    openssl([
      ...["x509", "-req", "-in", request, "-CA", this.caFile, "-CAkey", this.#keyFile, "-CAcreateserial", "-days", "1"],
      ...["-copy_extensions", "copy", "-out", certFile],
    ]);
    return { certFile, keyFile };
  }
}

function openssl(args: readonly string[]): void {
  execFileSync("openssl", args, { stdio: ["ignore", "ignore", "pipe"] });
}
