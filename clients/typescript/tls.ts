/** TLS with a certificate of one's own, as the daemon asks for beyond its machine. */
import { readFileSync } from "node:fs";
import { isIP } from "node:net";
import { checkServerIdentity } from "node:tls";
import { type ChannelCredentials, type ChannelOptions, credentials } from "@grpc/grpc-js";
import { NmiError } from "./errors.js";

/** PEM files, read when the client is made. */
export interface TlsOptions {
  /** Who signed the daemon's certificate. */
  readonly caFile: string;
  /** The client's own certificate, and its key without a passphrase. */
  readonly certFile: string;
  readonly keyFile: string;
}

/** An address is no server name (RFC 6066), and Node 26 refuses one: this goes in its place, and the address is compared. */
const NAME_OF_ADDRESS = "address.invalid";

/** Options of the channel to `address`, HOST:PORT, that belong to tlsCredentials. */
export function tlsChannelOptions(address: string): ChannelOptions {
  return isIP(hostOf(address)) === 0 ? {} : { "grpc.ssl_target_name_override": NAME_OF_ADDRESS };
}

function hostOf(address: string): string {
  return address.slice(0, address.lastIndexOf(":")).replace(/^\[|\]$/g, "");
}

/** Throws NmiError TLS_FILE, which names the file. */
export function tlsCredentials(address: string, { caFile, certFile, keyFile }: TlsOptions): ChannelCredentials {
  const [ca, cert, key] = [read("caFile", caFile), read("certFile", certFile), read("keyFile", keyFile)];
  try {
    return credentials.createSsl(ca, key, cert, {
      checkServerIdentity: (_name, certificate) => checkServerIdentity(hostOf(address), certificate),
    });
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
