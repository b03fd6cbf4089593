/** TLS with a certificate of one's own, as the daemon asks for beyond its machine. */
import { readFileSync } from "node:fs";
import { type ChannelCredentials, credentials } from "@grpc/grpc-js";
import { NmiError } from "./errors.js";

/** PEM files, read when the client is made. */
export interface TlsOptions {
  /** Who signed the daemon's certificate. */
  readonly caFile: string;
  /** The client's own certificate, and its key without a passphrase. */
  readonly certFile: string;
  readonly keyFile: string;
}

/** Throws NmiError TLS_FILE, which names the file. */
export function tlsCredentials({ caFile, certFile, keyFile }: TlsOptions): ChannelCredentials {
  const [ca, cert, key] = [read("caFile", caFile), read("certFile", certFile), read("keyFile", keyFile)];
  try {
    return credentials.createSsl(ca, key, cert);
  } catch (error) {
    const message = (error as Error).message;
    throw new NmiError("TLS_FILE", `certFile ${certFile} and keyFile ${keyFile} do not go together: ${message}`);
  }
}

function read(option: string, path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new NmiError("TLS_FILE", `${option}: ${(error as Error).message}`);
  }
}
